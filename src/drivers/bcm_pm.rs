//! The power manager of the Raspberry Pi's BCM2835 family: how a board without PSCI ends or restarts a run.
//!
//! Its watchdog resets the whole chip, the VideoCore included, whose boot code then reads from a status register
//! which partition to start; number 63 means none: the board stays off. (Linux: drivers/watchdog/bcm2835_wdt.c.)

use core::ptr::NonNull;

use safe_mmio::fields::ReadPureWrite;
use safe_mmio::{UniqueMmioPointer, field};
use spin::once::Once;

use crate::arch::mmu;
use crate::platform;
use crate::sync::Relax;

#[repr(C)]
struct Registers {
    _reserved: [u32; 7],
    rstc: ReadPureWrite<u32>,
    rsts: ReadPureWrite<u32>,
    wdog: ReadPureWrite<u32>,
}

/// A write without it in the upper byte has no effect.
const PASSWORD: u32 = 0x5a << 24;
/// RSTC: what an expired watchdog does, and the value that means a full reset.
const RSTC_CONFIGURATION: u32 = 0b11 << 4;
const RSTC_FULL_RESET: u32 = 0b10 << 4;
/// RSTS: the partition to boot, its six bits in every second one from 0 on.
const RSTS_PARTITION: u32 = 0x555;
/// Until the reset, in units of about 15 µs.
const TICKS: u32 = 10;

/// A mapped power manager.
#[derive(Clone, Copy)]
struct PowerManager(NonNull<Registers>);

// SAFETY: the pointer is to device registers, mapped for every CPU and for ever.
unsafe impl Send for PowerManager {}
// SAFETY: as above; only the one CPU that ends the run writes to them.
unsafe impl Sync for PowerManager {}

/// Set by CPU 0 before there is another one.
static POWER_MANAGER: Once<PowerManager, Relax> = Once::new();

/// Maps the registers now, because the end of a run may come with any lock held.
pub(super) fn init() {
    if let Some(region) = platform::get().power_manager {
        POWER_MANAGER.call_once(|| {
            let base = mmu::map_device(region.base, region.len.max(size_of::<Registers>() as u64));
            PowerManager(NonNull::new(base).expect("mappings are not at 0").cast())
        });
    }
}

/// Resets the chip in a moment, to boot again or, with `off`, to stay off. Nothing where there is no power manager.
pub(super) fn reset(off: bool) {
    let Some(manager) = POWER_MANAGER.get() else { return };
    // SAFETY: mapped device registers; the run ends here, on one CPU.
    let mut registers = unsafe { UniqueMmioPointer::new(manager.0) };
    let mut status = field!(registers, rsts);
    let kept = status.read() & !RSTS_PARTITION & !PASSWORD;
    status.write(PASSWORD | kept | if off { RSTS_PARTITION } else { 0 });
    field!(registers, wdog).write(PASSWORD | TICKS);
    let mut control = field!(registers, rstc);
    let kept = control.read() & !RSTC_CONFIGURATION & !PASSWORD;
    control.write(PASSWORD | kept | RSTC_FULL_RESET);
}
