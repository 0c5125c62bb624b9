//! Locks, guards, the heap and files in use: what they exclude, on one CPU and between all.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use lazuli::arch::timer::now_ns;
use lazuli::drivers::{gic, interrupt};
use lazuli::errno::Errno;
use lazuli::fs::file::{File, OpenFile, anonymous_status};
use lazuli::fs::in_use::{Users, Using, hand_over};
use lazuli::ipi::{self, Reason};
use lazuli::sched::{self, Builder};
use lazuli::sync::{self, IrqGuard, IrqLock, PreemptGuard, SpinLock};
use lazuli::{heap, kernel_tests, percpu};
use mm::{CpuId, CpuSet};

kernel_tests! {
    guards_nest_and_restore,
    an_irq_lock_masks_interrupts,
    a_held_lock_is_not_taken_again,
    waiting_needs_interrupts_and_preemption,
    an_interrupt_waits_for_the_guard,
    an_irq_lock_excludes_other_cpus_and_interrupts,
    a_spin_lock_excludes_other_cpus,
    a_critical_section_nests,
    the_heap_keeps_its_blocks_apart,
    a_file_in_use_stays_open,
}

type Outcome = Result<(), String>;

/// How long a test waits for what must happen: an emulated CPU may lose its host CPU for long.
const PATIENCE_NS: u64 = 20_000_000_000;

fn expect<T: PartialEq + core::fmt::Debug>(what: &str, seen: T, wanted: T) -> Outcome {
    if seen == wanted { Ok(()) } else { Err(format!("{what}: {seen:?}, must be {wanted:?}")) }
}

fn guards_nest_and_restore() -> Outcome {
    expect("before", sync::irqs_masked(), false)?;
    let outer = IrqGuard::new();
    let inner = IrqGuard::new();
    drop(inner);
    expect("inside the outer one", sync::irqs_masked(), true)?;
    drop(outer);
    expect("after", sync::irqs_masked(), false)
}

fn an_irq_lock_masks_interrupts() -> Outcome {
    let lock = IrqLock::new(());
    let guard = lock.lock();
    expect("held", sync::irqs_masked(), true)?;
    expect("in vain", lock.try_lock().is_none(), true)?;
    expect("still held", sync::irqs_masked(), true)?;
    drop(guard);
    expect("given back", sync::irqs_masked(), false)
}

fn a_held_lock_is_not_taken_again() -> Outcome {
    let lock = SpinLock::new(7);
    let guard = lock.lock();
    expect("while it is held", lock.try_lock().is_none(), true)?;
    drop(guard);
    expect("afterwards", lock.try_lock().map(|guard| *guard), Some(7))
}

fn waiting_needs_interrupts_and_preemption() -> Outcome {
    expect("free", sync::may_wait(), true)?;
    let pinned = PreemptGuard::new();
    expect("pinned", sync::may_wait(), false)?;
    drop(pinned);
    let masked = IrqGuard::new();
    expect("masked", sync::may_wait(), false)?;
    drop(masked);
    let lock = SpinLock::new(());
    let held = lock.lock();
    expect("under a SpinLock", sync::may_wait(), false)?;
    drop(held);
    expect("free again", sync::may_wait(), true)
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

fn is_interrupt_pending() -> bool {
    let isr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, isr_el1", out(reg) isr, options(nomem, nostack, preserves_flags)) };
    isr & 1 << 7 != 0
}

fn an_interrupt_waits_for_the_guard() -> Outcome {
    /// An SGI that the kernel has no use for.
    const SGI: u32 = 7;
    interrupt::register(SGI, "test", |_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    CALLS.store(0, Ordering::Relaxed);
    let masked = IrqGuard::new();
    gic::send_sgi(SGI, &CpuSet::only(CpuId(percpu::cpu_id() as u16)));
    while !is_interrupt_pending() {
        sync::relax();
    }
    expect("pending", CALLS.load(Ordering::Relaxed), 0)?;
    drop(masked);
    expect("taken", CALLS.load(Ordering::Relaxed), 1)
}

/// A number that only a lock protects: an increment is a load and a store.
struct Counter(UnsafeCell<usize>);

// SAFETY: reached under a lock only; that this is enough is what the tests show.
unsafe impl Sync for Counter {}

impl Counter {
    /// Adds one, slowly. The caller holds the lock.
    fn increment(&self) {
        let number = self.0.get();
        // SAFETY: the lock makes us the only one; volatile, so that the compiler leaves the gap.
        unsafe {
            let before = number.read_volatile();
            for _ in 0..10 {
                sync::relax();
            }
            number.write_volatile(before + 1);
        }
    }

    fn get(&self) -> usize {
        // SAFETY: all who write have ended.
        unsafe { self.0.get().read_volatile() }
    }
}

/// Runs `work` in a thread on every online CPU, and waits for all.
fn on_every_cpu(work: impl Fn() + Send + Sync + 'static) -> usize {
    let work = Arc::new(work);
    let spawn = |cpu: CpuId| {
        let work = work.clone();
        Builder::new("test").affinity(CpuSet::only(cpu)).spawn(move || work()).expect("no memory for a thread")
    };
    let threads: Vec<_> = ipi::online().iter().map(spawn).collect();
    while !threads.iter().all(|thread| thread.has_exited()) {
        sched::yield_now();
        // Alone on its CPU it would use up each turn that `-icount` gives it, while who holds a lock waits for the next.
        sync::relax();
    }
    threads.len()
}

fn an_irq_lock_excludes_other_cpus_and_interrupts() -> Outcome {
    const ROUNDS: usize = 500;
    static LOCK: IrqLock<()> = IrqLock::new(());
    static NUMBER: Counter = Counter(UnsafeCell::new(0));
    fn locked(_: usize) {
        let _held = LOCK.lock();
        NUMBER.increment();
    }
    CALLS.store(0, Ordering::Relaxed);
    let threads = on_every_cpu(|| {
        for round in 0..ROUNDS {
            locked(0);
            if round % 50 == 0 {
                let all = ipi::online();
                CALLS.fetch_add(all.count(), Ordering::Relaxed);
                ipi::on_each_cpu_mask(Reason::Call, &all, locked, 0, true);
            }
        }
    });
    expect("increments", NUMBER.get(), threads * ROUNDS + CALLS.load(Ordering::Relaxed))
}

fn a_spin_lock_excludes_other_cpus() -> Outcome {
    const ROUNDS: usize = 500;
    static LOCK: SpinLock<()> = SpinLock::new(());
    static NUMBER: Counter = Counter(UnsafeCell::new(0));
    let threads = on_every_cpu(|| {
        for _ in 0..ROUNDS {
            let _held = LOCK.lock();
            NUMBER.increment();
        }
    });
    expect("increments", NUMBER.get(), threads * ROUNDS)
}

fn a_critical_section_nests() -> Outcome {
    critical_section::with(|_| {
        critical_section::with(|_| ());
        expect("inside the outer one", sync::irqs_masked(), true)
    })?;
    expect("afterwards", sync::irqs_masked(), false)
}

/// Blocks of many sizes, filled and looked at again, by threads and by interrupts that come in between.
fn the_heap_keeps_its_blocks_apart() -> Outcome {
    const ROUNDS: usize = 4_000;
    static DAMAGED: AtomicUsize = AtomicUsize::new(0);
    fn check(block: &[u8], mark: u8) {
        if block.iter().any(|&byte| byte != mark) {
            DAMAGED.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn interrupt(size: usize) {
        let mark = percpu::cpu_id() as u8;
        check(&vec![mark; size], mark);
    }
    let before = heap::used();
    on_every_cpu(|| {
        let mark = 0x80 | percpu::cpu_id() as u8;
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for round in 0..ROUNDS {
            blocks.push(vec![mark; 1 + round * 37 % 3000]);
            if blocks.len() == 16 {
                check(&blocks.swap_remove(round % 16), mark);
            }
            if round % 100 == 0 {
                ipi::on_each_cpu_mask(Reason::Call, &ipi::online(), interrupt, 1 + round / 4, true);
            }
        }
        blocks.iter().for_each(|block| check(block, mark));
    });
    expect("damaged blocks", DAMAGED.load(Ordering::Relaxed), 0)?;
    // Dead threads are freed by the reaper in its own time; what is left then is what was there before.
    let end = now_ns() + PATIENCE_NS;
    while heap::used() > before && now_ns() < end {
        sched::yield_now();
    }
    expect("bytes left over", heap::used().saturating_sub(before), 0)
}

/// A file that knows whether it is open.
struct Probe(AtomicUsize);

const OPEN: usize = 0x0932;
static OPENED: AtomicUsize = AtomicUsize::new(0);
static CLOSED: AtomicUsize = AtomicUsize::new(0);

impl Probe {
    fn open() -> *mut OpenFile {
        OPENED.fetch_add(1, Ordering::Relaxed);
        Arc::into_raw(OpenFile::new(Box::new(Probe(AtomicUsize::new(OPEN))), 0)).cast_mut()
    }
}

impl File for Probe {
    fn stat(&self) -> linux_raw_sys::general::stat {
        anonymous_status(0)
    }

    fn control(&self, _: u32, _: u64) -> Result<usize, Errno> {
        Ok(self.0.load(Ordering::Relaxed))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
        CLOSED.fetch_add(1, Ordering::Relaxed);
    }
}

struct OfEachCpu(Vec<Using>);

impl Users for OfEachCpu {
    fn each(&self, visit: impl FnMut(&Using)) {
        self.0.iter().for_each(visit);
    }
}

/// One CPU puts one file after another into a place, all others use what is there.
fn a_file_in_use_stays_open() -> Outcome {
    const FILES: usize = 20_000;
    static DEAD: AtomicUsize = AtomicUsize::new(0);
    static DONE: AtomicBool = AtomicBool::new(false);
    let place = AtomicPtr::new(Probe::open());
    let users = OfEachCpu((0..percpu::count()).map(|_| Using::nothing()).collect());
    let replace = |place: &AtomicPtr<OpenFile>, users: &OfEachCpu, new| {
        // SAFETY: what is in the place is a file that was made into a pointer.
        let old = unsafe { Arc::from_raw(place.swap(new, Ordering::AcqRel)) };
        hand_over(&old, users);
    };
    let shared = Arc::new((place, users));
    let work = shared.clone();
    on_every_cpu(move || {
        let (place, users) = &*work;
        if percpu::cpu_id() == 0 {
            (0..FILES).for_each(|_| replace(place, users, Probe::open()));
            return DONE.store(true, Ordering::Relaxed);
        }
        while !DONE.load(Ordering::Relaxed) {
            // SAFETY: the place of this CPU's thread; what is taken out is handed over.
            let file = unsafe { users.0[percpu::cpu_id()].begin(place) };
            let is_open = file.is_some_and(|file| file.file().control(0, 0) == Ok(OPEN));
            DEAD.fetch_add(usize::from(!is_open), Ordering::Relaxed);
        }
    });
    expect("uses of a closed file", DEAD.load(Ordering::Relaxed), 0)?;
    // SAFETY: as above; nobody uses it any more.
    drop(unsafe { Arc::from_raw(shared.0.load(Ordering::Relaxed)) });
    expect("files that were closed", CLOSED.load(Ordering::Relaxed), OPENED.load(Ordering::Relaxed))
}
