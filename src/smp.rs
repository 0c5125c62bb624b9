//! Starting the other CPUs, one after the other, and stopping one that nothing needs any more.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_cpu::asm::{self, barrier};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use mm::{CpuId, Sequence, System};

use crate::arch::{boot, timer, tlbi};
use crate::drivers::{gic, power};
pub use crate::ipi::online;
use crate::machine::Kernel;
use crate::platform::Enable;
use crate::{hotplug, ipi, percpu, println, sched, start, sync, watchdog};

/// How long a CPU may take from its start to its first sign of life, and from its last to its end.
const PATIENCE_SECONDS: u64 = 5;

/// The CPU that is being started. One that comes when nobody waits for it any more must not join.
static AWAITED: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

/// Why a CPU was not started, or did not stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Nothing says how to start it.
    NoMethod,
    /// The firmware refused.
    Firmware(smccc::psci::error::Error),
    /// It was not seen to do what it was asked for.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod => write!(f, "the device tree has no enable-method for it"),
            Self::Firmware(error) => write!(f, "PSCI CPU_ON: {error}"),
            Self::TimedOut => write!(f, "it gave no sign of life for {PATIENCE_SECONDS} s"),
        }
    }
}

/// Starts every CPU of the device tree but this one. One that does not come is named, and the
/// machine goes on without it.
pub fn start_secondaries() {
    for cpu in 1..percpu::count() {
        if let Err(failure) = start(cpu) {
            let mpidr = percpu::of(cpu).mpidr;
            println!("CPU {cpu} (MPIDR {mpidr:#x}) did not start: {failure}");
        }
    }
}

/// Starts a CPU and waits until it is online. One caller at a time.
///
/// # Errors
/// If it does not come.
pub fn start(cpu: usize) -> Result<(), Failure> {
    let area = percpu::of(cpu);
    let entry = boot::secondary_entry();
    // Before the next step, at which it stops being so. Acquire: pairs with the Release in `park`.
    let is_parked = area.parked.load(Ordering::Acquire);
    // Release: pairs with the Acquire in `secondary_main` and `park`; what this CPU has set up is visible there.
    AWAITED.store(cpu, Ordering::Release);
    let mut asked = Ok(());
    match area.enable {
        _ if is_parked => wake_parked(),
        Enable::None => asked = Err(Failure::NoMethod),
        Enable::Psci(conduit) => asked = power::cpu_on(conduit, area.mpidr, entry, 0).map_err(Failure::Firmware),
        Enable::SpinTable { release } => power::release_from_spin_table(release, entry),
    }
    let is_online = || online().contains(CpuId(cpu as u16));
    // Relaxed: withdrawing the invitation publishes nothing.
    let withdraw = || AWAITED.compare_exchange(cpu, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    let came = asked.is_ok() && patiently(is_online);
    // Withdrawn in any case: one that was online already has not taken it, and must find none when it parks.
    if withdraw() && !came {
        return asked.and(Err(Failure::TimedOut));
    }
    // If the invitation could not be withdrawn, the CPU has just arrived.
    while !is_online() {
        sync::relax();
    }
    Ok(())
}

/// The CPU that is being started.
pub fn awaited() -> Option<usize> {
    // Relaxed: it publishes nothing.
    Some(AWAITED.load(Ordering::Relaxed)).filter(|&cpu| cpu != NOBODY)
}

/// Waits until something is so. False if that takes too long.
fn patiently(is_so: impl Fn() -> bool) -> bool {
    let end = CNTVCT_EL0.get() + PATIENCE_SECONDS * CNTFRQ_EL0.get();
    while !is_so() {
        if CNTVCT_EL0.get() > end {
            return false;
        }
        sync::relax();
    }
    true
}

/// Lets others send threads and IPIs to this CPU, whose interrupts are masked. In this order: whoever sees it online may
/// send it a thread.
pub fn go_online() {
    sched::open_cpu();
    ipi::go_online();
    // Masks may hold this CPU's bit from before it left. They count again from here on, and whoever clears an entry and
    // does not see that must be sure that no walk of this CPU finds the old one.
    tlbi::run(Sequence::PublishHolder, 0);
}

/// Where every other CPU arrives from the boot code, on its own stack, with interrupts masked: when it is first
/// started, and whenever it comes back.
pub fn secondary_main() -> ! {
    let cpu = percpu::cpu_id();
    // Acquire: pairs with the Release in `start`.
    if AWAITED.compare_exchange(cpu, NOBODY, Ordering::Acquire, Ordering::Relaxed).is_err() {
        park();
    }
    System::<Kernel>::enter_cpu();
    gic::init_cpu();
    sched::join_cpu();
    watchdog::init_cpu();
    go_online();
    sync::unmask_irqs();
    sched::idle::run_while_open();
    hotplug::leave()
}

/// Ends this CPU's work, until somebody calls [`start()`] for it. Interrupts are masked, and it is offline.
pub fn stop() -> ! {
    timer::stop_cpu();
    watchdog::stop_cpu();
    if let Enable::Psci(conduit) = percpu::this().enable {
        power::cpu_off(conduit);
    }
    park()
}

/// Waits until a CPU has ended its work, so that it can be started again.
///
/// # Errors
/// If it does not end.
pub fn wait_for_stop(cpu: usize) -> Result<(), Failure> {
    let area = percpu::of(cpu);
    let is_off = || match area.enable {
        Enable::Psci(conduit) => power::is_off(conduit, area.mpidr),
        _ => false,
    };
    // Acquire: pairs with the Release in `park`.
    let has_stopped = || area.parked.load(Ordering::Acquire) || is_off();
    if patiently(has_stopped) { Ok(()) } else { Err(Failure::TimedOut) }
}

/// Where a CPU waits that cannot be turned off: started by a spin table, its firmware refused, or it came too late.
fn park() -> ! {
    let this = percpu::this();
    // Release: pairs with the Acquire in `start` and `wait_for_stop`.
    this.parked.store(true, Ordering::Release);
    // Acquire: pairs with the Release in `start`.
    while AWAITED.load(Ordering::Acquire) != this.id {
        asm::wfe();
    }
    // Relaxed: who starts the CPU the next time has seen it online before.
    this.parked.store(false, Ordering::Relaxed);
    start::restart_secondary()
}

/// Makes parked CPUs look whether they are awaited.
fn wake_parked() {
    barrier::dsb(barrier::ISHST);
    asm::sev();
}
