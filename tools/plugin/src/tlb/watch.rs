//! Which frames of memory hold tables: one bit each, looked at after every store of the kernel.

use std::sync::atomic::{AtomicU64, Ordering};

/// Frames that are told apart: 16 GiB. Above that a frame shares its bit with another, and a store to the one is taken
/// for a store to both, which costs time only.
const FRAMES: usize = 1 << 22;

/// The bits.
pub(crate) struct Watch(Vec<AtomicU64>);

impl Watch {
    pub(crate) fn new() -> Self {
        Self((0..FRAMES / 64).map(|_| AtomicU64::new(0)).collect())
    }

    fn bit(&self, address: u64) -> (&AtomicU64, u64) {
        let frame = (address >> 12) as usize % FRAMES;
        (&self.0[frame / 64], 1 << (frame % 64))
    }

    // Relaxed throughout: who adds and removes holds the lock of the world; who looks may be late, as a store that is
    // missed now is found by the walk that made the frame of interest.
    pub(crate) fn add(&self, address: u64) {
        let (word, bit) = self.bit(address);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, address: u64) {
        let (word, bit) = self.bit(address);
        word.fetch_and(!bit, Ordering::Relaxed);
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        let (word, bit) = self.bit(address);
        word.load(Ordering::Relaxed) & bit != 0
    }
}
