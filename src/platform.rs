//! What machine this is: read once from the device tree, then asked everywhere.

mod devices;
mod error;
mod memory;
mod parse;
mod region;
mod table;
mod tree;

use dtoolkit::fdt::Fdt;
use spin::once::Once;

pub use self::error::Error;
pub use self::region::Region;
pub use self::table::Table;
use crate::sync::Relax;

/// The bits of `MPIDR_EL1` that are an affinity: Aff3 and Aff2 to Aff0.
pub const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// The instruction that reaches the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `HVC`: the firmware sits at EL2.
    Hvc,
    /// `SMC`: the firmware sits at EL3, or a hypervisor traps it.
    Smc,
}

/// How a CPU is made to leave its firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enable {
    /// The tree names no way: true of the only CPU of a machine.
    None,
    /// A PSCI `CPU_ON` call.
    Psci(Conduit),
    /// Its entry point is written to this address, then `SEV`.
    SpinTable {
        /// The physical address of the 64-bit word that the CPU polls.
        release: u64,
    },
}

/// One CPU of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its affinity: `MPIDR_EL1` under [`MPIDR_AFFINITY`].
    pub mpidr: u64,
    /// How to start it.
    pub enable: Enable,
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// GICv3 or later.
    V3 {
        /// The distributor.
        distributor: Region,
        /// The redistributors, in one or more stretches.
        redistributors: Table<Region, 8>,
    },
    /// GICv2.
    V2 {
        /// The distributor.
        distributor: Region,
        /// The CPU interface, which each CPU sees at the same address.
        cpu_interface: Region,
    },
}

/// What a serial port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm's PL011.
    Pl011,
    /// The Raspberry Pi's mini UART.
    Mini,
}

/// A serial port.
#[derive(Clone, Copy, Debug)]
pub struct Uart {
    /// What it is.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Region,
    /// Its INTID, if it can interrupt.
    pub interrupt: Option<u32>,
    /// How fast its clock runs, where the tree says it.
    pub clock_hz: Option<u32>,
    /// The pins it wants, where the tree names them.
    pub pins: Table<Pin, 8>,
}

/// A pin of a Raspberry Pi, and what it is to be connected to, in the numbers of its GPIO controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Which pin.
    pub number: u8,
    /// Its function.
    pub function: u8,
    /// Its pull resistor: 0 none, 1 up, 2 down.
    pub pull: Option<u8>,
}

/// A light that a pin switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// Which pin.
    pub number: u8,
    /// Whether it is lit when the pin is low.
    pub active_low: bool,
}

/// Everything the kernel wants to know of its machine.
pub struct Platform<'t> {
    tree: Fdt<'t>,
    /// The name the board gives itself.
    pub model: &'t str,
    /// RAM in whole pages, lowest first, disjoint, without what the tree forbids to map.
    pub ram: Table<Region, 16>,
    /// RAM in whole pages that holds something: the tree's reservations and the initrd. The tree
    /// itself and the kernel image are known to the boot code and not listed.
    pub reserved: Table<Region, 32>,
    /// The initial file system.
    pub initrd: Option<Region>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console: the port of `stdout-path`, else the first port there is.
    pub uart: Option<Uart>,
    /// The INTID of the EL1 virtual timer, for the scheduler.
    pub timer_interrupt: u32,
    /// The INTID of the EL1 physical timer, for the watchdog.
    pub watchdog_interrupt: u32,
    /// The registers of a Raspberry Pi's power manager.
    pub power_manager: Option<Region>,
    /// Those of its pins.
    pub gpio: Option<Region>,
    /// Those of its mailbox to the VideoCore.
    pub mailbox: Option<Region>,
    /// Its activity LED.
    pub led: Option<Led>,
    /// How to call PSCI, if there is one.
    pub psci: Option<Conduit>,
    /// How many CPUs [`Platform::cpus`] yields.
    pub cpu_count: usize,
}

/// The tree, from the moment it is known to be one. Set by CPU 0, read by all.
static TREE: Once<Fdt<'static>, Relax> = Once::new();
/// The machine. Set by CPU 0 before there is a second CPU.
static PLATFORM: Once<Platform<'static>, Relax> = Once::new();

/// Reads the device tree that the boot code found.
///
/// On an error [`bootargs`] still answers if the tree's structure is sound, so that a boot that
/// fails here can end the way its command line asks for.
pub fn init(blob: &'static [u8]) -> Result<&'static Platform<'static>, Error> {
    let tree = Fdt::new(blob)?;
    TREE.call_once(|| tree);
    let platform = Platform::parse(tree)?;
    Ok(PLATFORM.call_once(|| platform))
}

/// The machine.
///
/// # Panics
/// Before [`init`] has succeeded.
pub fn get() -> &'static Platform<'static> {
    PLATFORM.get().expect("the device tree is read before anything asks what it says")
}

/// The machine, or nothing as long as it is not known: for code that must work at any moment,
/// such as a panic.
pub fn try_get() -> Option<&'static Platform<'static>> {
    PLATFORM.get()
}

/// The kernel's command line; empty if there is none, or no tree yet.
pub fn bootargs() -> &'static str {
    TREE.get().and_then(|&tree| parse::bootargs(tree)).unwrap_or("")
}

/// What the loader gives as a seed for random numbers; empty if it gives none.
pub fn random_seed() -> &'static [u8] {
    TREE.get().and_then(|&tree| parse::random_seed(tree)).unwrap_or(&[])
}
