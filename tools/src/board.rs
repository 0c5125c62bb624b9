//! The boards that QEMU emulates, and what its command line must say for each.

/// A board.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Board {
    /// QEMU's own machine: whatever GIC, CPUs and memory one asks for
    Virt,
    /// The Raspberry Pi 4: GIC-400, four Cortex-A72, 2 GiB, always entered at EL2
    Rpi4,
}

impl Board {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Virt, Self::Rpi4];

    /// The name of it that `BOARD=` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::Rpi4 => "rpi4",
        }
    }

    /// The first major version of QEMU that has it.
    pub(crate) fn first_qemu(self) -> u32 {
        match self {
            Self::Virt => 7,
            Self::Rpi4 => 9,
        }
    }
}
