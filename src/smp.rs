//! Starting the other CPUs, one after the other.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use mm::CpuId;

use crate::arch::boot;
use crate::drivers::{gic, power};
pub use crate::ipi::online;
use crate::platform::{self, Enable};
use crate::{ipi, percpu, println, sched, sync, watchdog};

/// How long a CPU may take from its start to its first sign of life.
const PATIENCE_SECONDS: u64 = 5;

/// The CPU that is being started. One that comes when nobody waits for it any more must not join.
static AWAITED: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

/// Why a CPU was not started.
enum Failure {
    NoMethod,
    Firmware(smccc::psci::error::Error),
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

fn start(cpu: usize) -> Result<(), Failure> {
    let mpidr = percpu::of(cpu).mpidr;
    let description = platform::get().cpus().find(|description| description.mpidr == mpidr);
    let entry = boot::secondary_entry();
    // Release: pairs with the Acquire in `secondary_main`; what CPU 0 has set up is visible there.
    AWAITED.store(cpu, Ordering::Release);
    match description.map_or(Enable::None, |description| description.enable) {
        Enable::None => return Err(Failure::NoMethod),
        Enable::Psci(conduit) => power::cpu_on(conduit, mpidr, entry, 0).map_err(Failure::Firmware)?,
        Enable::SpinTable { release } => power::release_from_spin_table(release, entry),
    }
    let end = CNTVCT_EL0.get() + PATIENCE_SECONDS * CNTFRQ_EL0.get();
    while !online().contains(CpuId(cpu as u16)) {
        // If the exchange fails, the CPU has just arrived: it will be online in a moment.
        // Relaxed: withdrawing the invitation publishes nothing.
        let withdraw = || AWAITED.compare_exchange(cpu, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
        if CNTVCT_EL0.get() > end && withdraw().is_ok() {
            return Err(Failure::TimedOut);
        }
        sync::relax();
    }
    Ok(())
}

/// Where every other CPU arrives from the boot code, on its own stack, with interrupts masked.
pub fn secondary_main() -> ! {
    let cpu = percpu::cpu_id();
    // Acquire: pairs with the Release in `start`.
    if AWAITED.compare_exchange(cpu, NOBODY, Ordering::Acquire, Ordering::Relaxed).is_err() {
        loop {
            asm::wfi();
        }
    }
    gic::init_cpu();
    sched::join_cpu();
    watchdog::init_cpu();
    ipi::go_online();
    sync::unmask_irqs();
    sched::idle::run()
}
