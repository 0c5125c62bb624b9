//! What a flattened device tree says of its machine (Devicetree Specification, release 0.4).

mod devices;
mod error;
mod found;
mod memory;
mod parse;
mod region;
mod table;
mod tree;

pub use dtoolkit::fdt::Fdt;

pub use self::error::Error;
pub use self::parse::{bootargs, random_seed};
pub use self::region::Region;
pub use self::table::Table;

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
