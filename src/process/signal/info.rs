//! `siginfo_t`: what a signal says about itself.

use crate::process::signal::Signal;

/// How many bytes a `siginfo_t` has.
pub const SIZE: usize = 128;

/// A signal and why it was sent.
#[derive(Clone, Copy)]
pub struct Info {
    /// The signal.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// What else it says.
    pub cause: Cause,
}

/// Where a signal comes from.
#[derive(Clone, Copy)]
pub enum Cause {
    /// The kernel, for a reason that needs no words.
    Kernel,
    /// A process.
    Process {
        /// Its number.
        pid: u32,
    },
    /// A process, with a word of its own (`rt_sigqueueinfo`).
    Queued {
        /// Its number.
        pid: u32,
        /// Who it says it is.
        uid: u32,
        /// The word.
        value: u64,
    },
    /// A child that ended.
    Child {
        /// Its number.
        pid: u32,
        /// What it returned, or the signal that ended it.
        status: u32,
    },
    /// An instruction.
    Fault {
        /// Its address, or the address it could not use.
        address: u64,
        /// ESR_EL1, which the signal frame shows too.
        syndrome: u64,
    },
}

impl Info {
    /// The structure, as a program sees it. All users are root.
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.signal.number().to_le_bytes());
        put(8, &self.code.to_le_bytes());
        match self.cause {
            Cause::Kernel => {}
            Cause::Process { pid } => put(16, &pid.to_le_bytes()),
            Cause::Queued { pid, uid, value } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            Cause::Child { pid, status } => {
                put(16, &pid.to_le_bytes());
                put(24, &status.to_le_bytes());
            }
            Cause::Fault { address, .. } => put(16, &address.to_le_bytes()),
        }
        bytes
    }
}
