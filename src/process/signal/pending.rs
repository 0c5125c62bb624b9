//! Signals that wait to be delivered.

use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use crate::errno::Errno;
use crate::heap;
use crate::process::signal::{Cause, Info, Signal, SignalSet};

/// How many signals can wait for one thread or process (`RLIMIT_SIGPENDING` for the real-time
/// ones; of each other signal only one waits).
const LIMIT: usize = 128;

/// Signals that wait, in the order in which they came.
pub struct Pending {
    set: SignalSet,
    queue: Vec<Info>,
}

impl Pending {
    /// None.
    pub const fn new() -> Self {
        Self { set: SignalSet::EMPTY, queue: Vec::new() }
    }

    /// Which signals wait.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal; fails if a real-time signal finds no room. Another one then comes without its information, as in
    /// Linux.
    pub fn add(&mut self, info: Info) -> Result<(), Errno> {
        let signal = info.signal;
        if self.set.contains(signal) && !signal.is_real_time() {
            return Ok(());
        }
        let queued = match self.queue.len() {
            LIMIT.. if signal.is_real_time() => Err(Errno::EAGAIN),
            _ => heap::push(&mut self.queue, info).map_err(|_| Errno::EAGAIN),
        };
        if signal.is_real_time() {
            queued?;
        }
        self.set = self.set.with(signal);
        Ok(())
    }

    /// Takes the first signal of `wanted`.
    pub fn take(&mut self, wanted: SignalSet) -> Option<Info> {
        let signal = SignalSet(self.set.0 & wanted.0).first()?;
        let index = self.queue.iter().position(|info| info.signal == signal);
        let without = Info { signal, code: linux::SI_USER as i32, cause: Cause::Kernel };
        let info = index.map_or(without, |index| self.queue.remove(index));
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(SignalSet::of(&[signal]));
        }
        Some(info)
    }

    /// Forgets a signal that is ignored from now on.
    pub fn forget(&mut self, signal: Signal) {
        self.queue.retain(|info| info.signal != signal);
        self.set = self.set.without(SignalSet::of(&[signal]));
    }
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}
