//! Turning CPUs on, and the machine off.

use core::arch::asm as assembly;

use aarch64_cpu::asm::{self, barrier};
use smccc::psci::{self, AffinityState, LowestAffinityLevel, error::Error};
use smccc::{Hvc, Smc};

use super::bcm_pm;
use crate::arch::mmu;
use crate::platform::{self, Conduit};
use crate::sync::IrqGuard;
use crate::{cmdline, console, memory};

/// Asks the firmware to start a CPU at a physical address, with `context` in x0.
pub fn cpu_on(conduit: Conduit, mpidr: u64, entry: u64, context: u64) -> Result<(), Error> {
    publish_for_new_cpu();
    match conduit {
        Conduit::Hvc => psci::cpu_on::<Hvc>(mpidr, entry, context),
        Conduit::Smc => psci::cpu_on::<Smc>(mpidr, entry, context),
    }
}

/// Asks the firmware to turn this CPU off. Comes back only if it will not.
pub fn cpu_off(conduit: Conduit) {
    // Either way the caller waits in a loop of its own.
    let _ = match conduit {
        Conduit::Hvc => psci::cpu_off::<Hvc>(),
        Conduit::Smc => psci::cpu_off::<Smc>(),
    };
}

/// Whether the firmware has turned a CPU off.
pub fn is_off(conduit: Conduit, mpidr: u64) -> bool {
    let state = match conduit {
        Conduit::Hvc => psci::affinity_info::<Hvc>(mpidr, LowestAffinityLevel::All),
        Conduit::Smc => psci::affinity_info::<Smc>(mpidr, LowestAffinityLevel::All),
    };
    state == Ok(AffinityState::Off)
}

/// Writes the entry point into the word that a parked CPU polls, and wakes the CPU.
///
/// Until it has turned its own caches on, that CPU reads this word and, of us, only the code of `boot.s` and its
/// constants, which the loader put into RAM: nothing else must be cleaned.
pub fn release_from_spin_table(release: u64, entry: u64) {
    publish_for_new_cpu();
    if memory::has(&(release..release + 8)) {
        let slot = mmu::phys_to_virt(release).cast::<u64>();
        // SAFETY: the device tree gives this word of RAM to the one purpose of starting the CPU, and the
        // linear map has all RAM. The CPU polls with its caches off: clean the line to memory.
        unsafe {
            slot.write_volatile(entry);
            assembly!("dc civac, {}", in(reg) slot, options(nostack, preserves_flags));
        }
    } else {
        // Firmware's own memory, which the tree forbids to map as RAM.
        let slot = mmu::map_device(release, 8).cast::<u64>();
        // SAFETY: as above, uncached.
        unsafe { slot.write_volatile(entry) };
    }
    barrier::dsb(barrier::SY);
    asm::sev();
}

/// What this CPU has stored for a CPU is visible before that CPU can start: neither a call of the firmware nor the
/// word of a spin table orders other stores.
fn publish_for_new_cpu() {
    barrier::dsb(barrier::SY);
}

/// Prepares for the end of the run. CPU 0 calls it once, when device registers can be mapped.
pub fn init() {
    bcm_pm::init();
}

/// Ends the run with a verdict: 0 for success.
///
/// With `exit=semihosting` the debugger that runs us gets the number. Without that word no `HLT`
/// is ever executed, since on real hardware it would be an undefined instruction: the number is
/// printed, and the firmware or the board's power manager turns the machine off, or with
/// `exit=restart` on again. Where neither can, this CPU sleeps for ever.
pub fn exit(code: i32) -> ! {
    let _irqs_masked = IrqGuard::new();
    let way = cmdline::get("exit");
    if way == Some("semihosting") {
        semihosting::process::exit(code);
    }
    console::end(format_args!("exit status {code}\n"));
    let restart = way == Some("restart");
    // An error means that the firmware cannot; there is nobody left to tell.
    let _ = match (platform::try_get().and_then(|platform| platform.psci), restart) {
        (Some(Conduit::Hvc), false) => psci::system_off::<Hvc>(),
        (Some(Conduit::Hvc), true) => psci::system_reset::<Hvc>(),
        (Some(Conduit::Smc), false) => psci::system_off::<Smc>(),
        (Some(Conduit::Smc), true) => psci::system_reset::<Smc>(),
        (None, restart) => {
            bcm_pm::reset(!restart);
            Ok(())
        }
    };
    loop {
        asm::wfi();
    }
}
