//! What a record can tell, and how it travels in a word.

use mm::Counter;

/// What happened. Its two words depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The mm layer counted something: what it was about (see [`mm::Machine::event`]); then, for a switch, the
    /// name of a kernel thread ([`name_word`]), and for deaths and frees how many dead `Mm`s there are.
    Mm(Counter),
    /// The kernel did something.
    Kernel(Kind),
}

macro_rules! define_kinds {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What the kernel, without the mm layer, records.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// What it is called in `/proc/trace`.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Kind::$name => $label,)*
                }
            }
        }
    };
}

define_kinds! {
    /// A program's system call begins: its number, its first argument.
    CallEnter = "call_enter",
    /// It ends: its number, what it returns.
    CallExit = "call_exit",
    /// A program's exception, or one of the kernel while it copies from or to a program, begins: address, ESR_EL1.
    FaultEnter = "fault_enter",
    /// It is dealt with.
    FaultExit = "fault_exit",
    /// Another CPU is to be interrupted: `ipi::Reason`, the CPU.
    IpiSend = "ipi_send",
    /// The one that sent IPIs goes on, and if it waited all have done what they were asked for: `ipi::Reason`.
    IpiDone = "ipi_done",
    /// A CPU does what it was asked for: `ipi::Reason`, and who asked, if that is known.
    IpiHandle = "ipi_handle",
    /// It has: `ipi::Reason`, and who asked. The acknowledgement follows.
    IpiAck = "ipi_ack",
    /// What the thread is called from now on: 16 bytes.
    Name = "name",
}

/// Where the kernel's own kinds begin; below are counters.
const KERNEL: u64 = 1 << 8;
const _: () = assert!(Counter::ALL.len() <= KERNEL as usize);

impl Event {
    /// As a number of at most 16 bits.
    pub(super) const fn code(self) -> u64 {
        match self {
            Event::Mm(counter) => counter as u64,
            Event::Kernel(kind) => KERNEL + kind as u64,
        }
    }

    /// The event with that number.
    pub(super) fn of(code: u64) -> Option<Self> {
        match code.checked_sub(KERNEL) {
            Some(kind) => Kind::ALL.get(kind as usize).copied().map(Event::Kernel),
            None => Counter::ALL.get(code as usize).copied().map(Event::Mm),
        }
    }

    /// What it is called in `/proc/trace`.
    pub const fn label(self) -> &'static str {
        match self {
            Event::Mm(counter) => counter.label(),
            Event::Kernel(kind) => kind.label(),
        }
    }
}

/// The first eight bytes of a name.
pub fn name_word(name: &str) -> u64 {
    let mut word = [0; 8];
    let length = name.len().min(word.len());
    word[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_le_bytes(word)
}
