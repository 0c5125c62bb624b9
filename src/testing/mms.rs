//! Address spaces made by the kernel itself, and threads that own them without ever leaving EL1.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use mm::pte::Protection;
use mm::region::Attributes;
use mm::space::Placement;
use mm::{Counter, CpuId, CpuSet, Machine, Mm, MmUser, PAGE_SIZE, Scheme};

use crate::arch::timer::now_ns;
use crate::machine::Kernel;
use crate::sched::{self, Builder, Signals, Thread};
use crate::{ipi, percpu, sync};

/// What a test returns.
pub type Outcome = Result<(), String>;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// How long a test waits for what must happen: an emulated CPU may lose its host CPU for long.
const PATIENCE_NS: u64 = 20_000 * MS;
/// Where [`mapped`] puts its page.
pub const PAGE: u64 = 0x40_0000;

/// Fails a test unless what was seen is what must be.
#[macro_export]
macro_rules! expect {
    ($seen:expr, $wanted:expr, $($what:tt)+) => {
        let (seen, wanted) = ($seen, $wanted);
        if seen != wanted {
            return Err(alloc::format!("{}: {seen:?}, must be {wanted:?}", format_args!($($what)+)));
        }
    };
}

/// The scheme that this boot chose.
pub fn scheme() -> Scheme {
    Kernel::system().config.scheme
}

/// Whether a CPU stays lazy on what its last task gave up. It does not under `eager` and with `lazy_tlb.exit=init`.
pub fn lazy_after_exit() -> bool {
    scheme() != Scheme::Eager && !Kernel::system().config.unlazy_at_exit
}

/// Whether a last drop interrupts lazy CPUs at once.
pub fn shoots_at_the_drop() -> bool {
    scheme() == Scheme::Shootdown && Kernel::system().config.batch == 0
}

/// Whether a last drop frees at once what nobody but lazy CPUs had loaded: because it makes them leave, or because there
/// are none. Where lazies are counted, a lazy CPU holds the last reference; where they are handed the dead address space,
/// it stays tagged in their slots; and a batch or an epoch takes its time whoever is lazy.
pub fn frees_at_the_drop() -> bool {
    match scheme() {
        Scheme::Shootdown => shoots_at_the_drop(),
        Scheme::Refcount | Scheme::Handoff => !lazy_after_exit(),
        Scheme::Qsbr => false,
        Scheme::Eager => true,
    }
}

/// Whether a CPU may leave what it is lazy on though nobody asks it to: when it idles for long (`qsbr`), or after a while
/// that a test may take (`lazy_tlb.shoot_after=`).
pub fn leaves_unasked() -> bool {
    scheme() == Scheme::Qsbr || Kernel::system().config.shoot_after.is_some()
}

/// The online CPU that tests use as "another one": 1, or 0 on a machine with one CPU.
pub fn other_cpu() -> usize {
    percpu::count().min(2) - 1
}

/// The set of this one CPU.
pub fn mask(cpu: usize) -> CpuSet {
    CpuSet::only(CpuId(cpu as u16))
}

/// A counter of one CPU.
pub fn count_on(cpu: usize, counter: Counter) -> u64 {
    Kernel::system().cpus()[cpu].counters.get(counter)
}

/// A counter, summed over all CPUs.
pub fn total(counter: Counter) -> u64 {
    Kernel::system().total(counter)
}

/// IPIs sent so far to shoot lazy CPUs.
pub fn shoots() -> u64 {
    (0..percpu::count()).map(|cpu| percpu::of(cpu).ipi.sent(ipi::Reason::Shoot)).sum()
}

/// A new, empty address space.
///
/// # Panics
/// If there is no frame for its root.
pub fn new_mm() -> MmUser<Kernel> {
    Mm::create().expect("no frame for a root table")
}

/// A new address space with one page at [`PAGE`] that holds `word`.
///
/// # Panics
/// If there is no memory.
pub fn mapped(word: u64) -> MmUser<Kernel> {
    let mm = new_mm();
    let attributes = Attributes::anonymous(Protection::READ_WRITE);
    let mut space = mm.space();
    space.map(&mm, Placement::At(PAGE), PAGE_SIZE, attributes).expect("the page can be mapped");
    space.write_bytes(&mm, PAGE, &word.to_le_bytes()).expect("the page can be written");
    drop(space);
    mm
}

/// Starts a thread on one CPU, which owns an address space or none.
///
/// # Panics
/// If there is no memory for its stack.
pub fn spawn(cpu: usize, mm: Option<MmUser<Kernel>>, entry: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    let builder = Builder::new("test").affinity(mask(cpu));
    let builder = match mm {
        Some(mm) => builder.mm(mm),
        None => builder,
    };
    builder.spawn(entry).expect("no memory for a thread")
}

/// Runs a thread of `mm` on a CPU to its end: the thread gives its user back and leaves the CPU lazy on `mm`.
///
/// # Errors
/// If it takes too long.
pub fn visit(cpu: usize, mm: &MmUser<Kernel>) -> Outcome {
    join(&spawn(cpu, Some(mm.clone()), leave_mm))
}

/// What an exiting task does first.
pub fn leave_mm() {
    drop(sched::replace_mm(None));
}

/// Waits for a thread's end.
///
/// # Errors
/// If it takes too long.
pub fn join(thread: &Thread) -> Outcome {
    until("a thread ends", || thread.has_exited())
}

/// Sleeps until something is so.
///
/// # Errors
/// If it takes too long.
pub fn until(what: &str, done: impl Fn() -> bool) -> Outcome {
    let end = now_ns() + PATIENCE_NS;
    while !done() {
        if now_ns() > end {
            return Err(format!("it never came to be that {what}"));
        }
        sleep(MS / 4);
    }
    Ok(())
}

/// Spins, without giving up the CPU, until something is so, for as long as a test may take.
pub fn spin_until(done: impl Fn() -> bool) {
    let end = now_ns() + PATIENCE_NS;
    while !done() && now_ns() < end {
        sync::relax();
    }
}

/// Sleeps for so many nanoseconds.
///
/// # Panics
/// If a signal ends the sleep, which a kernel thread never gets.
pub fn sleep(ns: u64) {
    sched::sleep_until(now_ns() + ns, Signals::Wait).expect("no signal may end this sleep");
}

/// Waits until no more dead address spaces wait to be freed than the scheme allows: under `handoff` one for each CPU.
///
/// # Errors
/// If it takes too long.
pub fn settle() -> Outcome {
    let stays = scheme() == Scheme::Handoff && !leaves_unasked();
    let allowed = if stays { percpu::count() as u64 } else { 0 };
    until("all dead address spaces are freed", || Kernel::system().dead.now() <= allowed)
}

/// Makes every CPU leave whatever it is lazy on, by running a thread of another address space there.
///
/// # Errors
/// If it takes too long.
pub fn displace_all() -> Outcome {
    let other = new_mm();
    (0..percpu::count()).try_for_each(|cpu| visit(cpu, &other))
}

/// Whether a CPU's slot names this address space.
pub fn is_loaded(cpu: usize, mm: &Mm<Kernel>) -> bool {
    Kernel::system().cpus()[cpu].has_loaded(mm)
}
