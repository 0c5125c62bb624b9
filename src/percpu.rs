//! What belongs to one CPU, and how a CPU finds it.
//!
//! TPIDR_EL1 points to an [`Anchor`], with which the running thread begins, and that to the CPU's area. So a thread finds
//! itself, and counts the guards that keep it on its CPU, in one place that stays its own wherever it is moved.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spin::once::Once;

use crate::arch::stack::KernelStack;
use crate::drivers::interrupt;
use crate::platform::{Cpu, Enable};
use crate::sync::Relax;
use crate::{hotplug, ipi, machine, sched, trace};

/// One CPU's area. What a module keeps per CPU stands in a struct of that module.
///
/// First what is written once and read by others, then what only this CPU touches, then the modules' parts, which say
/// themselves what is whose: a line that one CPU writes and another reads travels each time, with all that is on it.
/// Aligned to two cache lines, because the Cortex-A72 prefetches pairs.
#[repr(C, align(128))]
pub struct PerCpu {
    /// The affinity fields of its MPIDR_EL1.
    pub mpidr: u64,
    /// How it is started, where it is not the boot CPU.
    pub enable: Enable,
    /// Where its first stack ends: what it starts on, and then idles on.
    pub stack_top: u64,
    /// Where the stack ends on which the overflow of any other is reported.
    pub overflow_stack_top: u64,
    /// Its number: the boot CPU is 0, the others follow in the order of the device tree.
    pub id: usize,
    /// What the mm layer keeps. Set once by `machine`, before any other CPU starts.
    pub mm: machine::StatePointer,
    /// What the module `trace` keeps. Set once, too.
    pub trace: trace::Local,
    /// What this CPU alone touches.
    pub own: Own,
    /// What the module `sched` keeps.
    pub sched: sched::Local,
    /// What the module `ipi` keeps.
    pub ipi: ipi::Local,
    /// It was taken down and waits in a loop of ours. Written by this CPU; see `smp`.
    pub(crate) parked: AtomicBool,
    /// How far it has come on its way offline.
    pub(crate) progress: hotplug::Progress,
}

/// What a CPU keeps for itself. Others look at the numbers of interrupts for people. Relaxed.
#[repr(C, align(128))]
pub struct Own {
    /// How often it took each interrupt.
    pub interrupts: interrupt::Taken,
    /// Where the stack pointer goes back to if a test caused a fault on purpose.
    pub(crate) expected_fault: AtomicU64,
    /// The anchor before the CPU runs a thread.
    stand_in: Anchor,
}

/// What TPIDR_EL1 points to: the beginning of the running thread, or a stand-in before a CPU runs one.
#[derive(Debug)]
#[repr(C)]
pub struct Anchor {
    /// The area of the CPU. Relaxed: written by the CPU that runs the thread from then on.
    area: AtomicPtr<PerCpu>,
    /// How many guards keep the thread running on its CPU. Relaxed: the thread's own; an interrupt leaves it as it found
    /// it.
    pub preempt: AtomicU32,
    /// Another thread should run: looked at on the way out of an interrupt. Relaxed: only the thread's CPU touches it.
    pub need_resched: AtomicBool,
}

impl Anchor {
    /// Where vectors.s finds the area.
    pub(crate) const AREA: usize = offset_of!(Anchor, area);

    /// Of a thread that no CPU runs.
    pub const fn new() -> Self {
        Self { area: AtomicPtr::new(ptr::null_mut()), preempt: AtomicU32::new(0), need_resched: AtomicBool::new(false) }
    }

    /// Makes it the one that this CPU is at from now on.
    ///
    /// # Safety
    ///
    /// Interrupts are masked, `area` is this CPU's, and the anchor lives until the CPU is at another.
    #[inline]
    pub(crate) unsafe fn hold(&self, area: &PerCpu) {
        self.area.store(ptr::from_ref(area).cast_mut(), Ordering::Relaxed);
        // SAFETY: TPIDR_EL1 belongs to this module, and the caller promises the rest.
        unsafe { asm!("msr tpidr_el1, {}", in(reg) self, options(nostack, preserves_flags)) };
    }
}

impl Default for Anchor {
    fn default() -> Self {
        Self::new()
    }
}

impl PerCpu {
    fn new(id: usize, description: Cpu, stack_top: u64, overflow_stack_top: u64) -> Self {
        Self {
            mpidr: description.mpidr,
            enable: description.enable,
            stack_top,
            overflow_stack_top,
            id,
            mm: AtomicPtr::new(ptr::null_mut()),
            trace: trace::Local::new(),
            own: Own {
                interrupts: interrupt::Taken::new(),
                expected_fault: AtomicU64::new(0),
                stand_in: Anchor::new(),
            },
            sched: sched::Local::new(),
            ipi: ipi::Local::new(),
            parked: AtomicBool::new(false),
            progress: hotplug::Progress::new(),
        }
    }
}

/// The areas of all CPUs, as boot.s reads it when a CPU starts.
#[repr(C)]
pub(crate) struct AreaTable {
    areas: AtomicPtr<AtomicPtr<PerCpu>>,
    count: AtomicUsize,
}

/// Written by CPU 0 only, before it starts another one.
pub(crate) static TABLE: AreaTable =
    AreaTable { areas: AtomicPtr::new(&raw const BOOT_ENTRY as *mut _), count: AtomicUsize::new(0) };

static BOOT_AREA: Once<PerCpu, Relax> = Once::new();
static BOOT_ENTRY: AtomicPtr<PerCpu> = AtomicPtr::new(ptr::null_mut());

/// Gives the boot CPU its area: before anything that asks which CPU this is, as locks and the heap do.
///
/// Until it has a guarded stack, an overflow is reported on the boot stack itself.
pub(crate) fn init_boot_cpu(mpidr: u64, boot_stack_top: u64) {
    let running = Cpu { mpidr, enable: Enable::None };
    let area = BOOT_AREA.call_once(|| PerCpu::new(0, running, boot_stack_top, boot_stack_top));
    // Relaxed: starting another CPU orders these stores before anything that CPU does.
    BOOT_ENTRY.store(ptr::from_ref(area).cast_mut(), Ordering::Relaxed);
    TABLE.count.store(1, Ordering::Relaxed);
    install(area);
}

/// Makes an area for each of these CPUs but the running one.
///
/// # Panics
///
/// If there is no memory for their stacks.
pub(crate) fn init_others(cpus: impl Iterator<Item = Cpu>) {
    let boot = this();
    let mut areas = Vec::from([AtomicPtr::new(ptr::from_ref(boot).cast_mut())]);
    for cpu in cpus.filter(|cpu| cpu.mpidr != boot.mpidr) {
        let area = PerCpu::new(areas.len(), cpu, permanent_stack(), permanent_stack());
        areas.push(AtomicPtr::new(Box::leak(Box::new(area))));
    }
    let areas = areas.leak();
    // Relaxed: starting another CPU orders these stores before anything that CPU does.
    TABLE.areas.store(areas.as_mut_ptr(), Ordering::Relaxed);
    TABLE.count.store(areas.len(), Ordering::Relaxed);
}

fn permanent_stack() -> u64 {
    KernelStack::new().expect("each CPU of the device tree needs memory for two stacks").leak()
}

/// Makes `area` the one of this CPU, which runs no thread yet.
fn install(area: &'static PerCpu) {
    // SAFETY: a CPU starts with interrupts masked, and its area lives for ever.
    unsafe { area.own.stand_in.hold(area) };
}

/// Makes the area that boot.s found the one of this CPU, which is starting.
///
/// # Safety
///
/// `area` must come from [`TABLE`] and be this CPU's.
pub(crate) unsafe fn init_secondary_cpu(area: &'static PerCpu) {
    install(area);
}

/// Where this CPU is at: the beginning of the running thread, if [`runs_a_thread`].
#[inline]
pub(crate) fn anchor_address() -> *const Anchor {
    let anchor;
    // SAFETY: reads a register. Not `pure`: it changes with the thread, which the compiler does not see.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) anchor, options(nomem, nostack, preserves_flags)) };
    anchor
}

/// The running thread's anchor, wherever it runs.
#[inline]
pub fn anchor() -> &'static Anchor {
    // SAFETY: each CPU's register is set before it runs code that asks, and what it points to lives while it does.
    unsafe { &*anchor_address() }
}

/// Whether this CPU has begun to run threads.
pub(crate) fn runs_a_thread() -> bool {
    !ptr::eq(anchor(), &this().own.stand_in)
}

/// This CPU's area. With interrupts on and preemption possible it may be another CPU's the next moment.
#[inline]
pub fn this() -> &'static PerCpu {
    // SAFETY: the anchor of whoever runs names its CPU's area, which lives for ever.
    unsafe { &*anchor().area.load(Ordering::Relaxed) }
}

/// The area of a CPU by its number.
///
/// # Panics
///
/// If there is no such CPU.
pub fn of(cpu: usize) -> &'static PerCpu {
    assert!(cpu < count(), "there is no CPU {cpu}");
    // Relaxed: written before any other CPU started.
    let areas = TABLE.areas.load(Ordering::Relaxed);
    // SAFETY: `areas` has `count()` entries, each the address of an area that lives for ever.
    unsafe { &*(*areas.add(cpu)).load(Ordering::Relaxed) }
}

/// How many CPUs the device tree names. Their numbers run from 0.
pub fn count() -> usize {
    // Relaxed: written before any other CPU started.
    TABLE.count.load(Ordering::Relaxed)
}

/// The number of this CPU; see [`this`].
#[inline]
pub fn cpu_id() -> usize {
    this().id
}
