//! What belongs to one CPU. TPIDR_EL1 holds the address of this CPU's area.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
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
    /// How many guards keep the running thread on this CPU. Only this CPU touches it: relaxed.
    pub preempt: AtomicU32,
    /// Another thread should run: looked at on the way out of an interrupt. Only this CPU touches it: relaxed.
    pub need_resched: AtomicBool,
    /// How often it took each interrupt.
    pub interrupts: interrupt::Taken,
    /// What the module `ipi` keeps.
    pub ipi: ipi::Local,
    /// What the mm layer keeps. Set once by `machine`, before any other CPU starts.
    pub mm: machine::StatePointer,
    /// What the module `sched` keeps.
    pub sched: sched::Local,
    /// What the module `trace` keeps.
    pub trace: trace::Local,
    /// It was taken down and waits in a loop of ours. Written by this CPU; see `smp`.
    pub(crate) parked: AtomicBool,
    /// How far it has come on its way offline.
    pub(crate) progress: hotplug::Progress,
    /// Where the stack pointer goes back to if a test caused a fault on purpose. Only this CPU touches it: relaxed.
    pub(crate) expected_fault: AtomicU64,
}

impl PerCpu {
    fn new(id: usize, description: Cpu, stack_top: u64, overflow_stack_top: u64) -> Self {
        Self {
            mpidr: description.mpidr,
            enable: description.enable,
            stack_top,
            overflow_stack_top,
            id,
            preempt: AtomicU32::new(0),
            need_resched: AtomicBool::new(false),
            interrupts: interrupt::Taken::new(),
            ipi: ipi::Local::new(),
            mm: AtomicPtr::new(ptr::null_mut()),
            sched: sched::Local::new(),
            trace: trace::Local::new(),
            parked: AtomicBool::new(false),
            progress: hotplug::Progress::new(),
            expected_fault: AtomicU64::new(0),
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

/// Makes `area` the one of this CPU.
fn install(area: &'static PerCpu) {
    // SAFETY: TPIDR_EL1 belongs to this module; the area lives for ever.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) area, options(nostack, preserves_flags)) };
}

/// Makes the area that boot.s found the one of this CPU, which is starting.
///
/// # Safety
///
/// `area` must come from [`TABLE`] and be this CPU's.
pub(crate) unsafe fn init_secondary_cpu(area: &'static PerCpu) {
    install(area);
}

/// This CPU's area. With interrupts on and preemption possible it may be another CPU's the next moment.
#[inline]
pub fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: reads a register. Not `pure`: a thread may have moved since the last time.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) area, options(nomem, nostack, preserves_flags)) };
    // SAFETY: each CPU's register is set before it runs code that asks, to an area that lives for ever.
    unsafe { &*area }
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
