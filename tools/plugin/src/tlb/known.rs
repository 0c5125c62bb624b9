//! What each CPU accessed lately that was in order: a short cut past the model.

use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that a CPU knows.
const PAGES: usize = 512;
/// Bits of a frame's number; above it stands the epoch.
const FRAME_BITS: u32 = 36;
const FRAME: u64 = (1 << FRAME_BITS) - 1;

/// One CPU's pages. They are known until the epoch of their half of the address space changes.
pub(super) struct Known {
    epochs: [AtomicU64; 2],
    /// Page, and frame with epoch. Only the CPU itself uses them.
    pages: Vec<[AtomicU64; 2]>,
}

// Relaxed throughout: a CPU that learns late that something changed is a CPU that accessed a little earlier.
impl Known {
    pub(super) fn new() -> Self {
        let pages = (0..PAGES).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        Self { epochs: [AtomicU64::new(1), AtomicU64::new(1)], pages }
    }

    /// The epoch of an address, to be read before what is then inserted under it is looked up.
    pub(super) fn epoch(&self, va: u64) -> u64 {
        self.epochs[(va >> 63) as usize].load(Ordering::Relaxed) << FRAME_BITS
    }

    /// The physical address, if its page is known.
    pub(super) fn find(&self, va: u64) -> Option<u64> {
        let [page, frame] = &self.pages[(va >> 12) as usize % PAGES];
        let frame = frame.load(Ordering::Relaxed);
        let known = page.load(Ordering::Relaxed) == va >> 12 && frame & !FRAME == self.epoch(va);
        known.then_some((frame & FRAME) << 12 | va & 0xfff)
    }

    /// Knows a page from now on.
    pub(super) fn insert(&self, va: u64, epoch: u64, address: u64) {
        let [page, frame] = &self.pages[(va >> 12) as usize % PAGES];
        page.store(va >> 12, Ordering::Relaxed);
        frame.store(epoch | address >> 12 & FRAME, Ordering::Relaxed);
    }

    /// Knows nothing of these halves any more: 0 is the programs', 1 the kernel's.
    pub(super) fn forget(&self, halves: impl IntoIterator<Item = usize>) {
        halves.into_iter().for_each(|half| {
            self.epochs[half].fetch_add(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_until_its_half_is_forgotten() {
        let (known, kernel) = (Known::new(), 0xffff_0000_4567_8000);
        known.insert(0x40_0123, known.epoch(0x40_0123), 0x4567_8123);
        known.insert(kernel, known.epoch(kernel), 0x4567_8000);
        assert_eq!(known.find(0x40_0ff8), Some(0x4567_8ff8));
        assert_eq!(known.find(0x40_1000), None);
        known.forget([0]);
        assert_eq!((known.find(0x40_0ff8), known.find(kernel)), (None, Some(0x4567_8000)));
    }

    #[test]
    fn what_changed_during_the_look_is_not_known() {
        let known = Known::new();
        let epoch = known.epoch(0x1000);
        known.forget([0]);
        known.insert(0x1000, epoch, 0x5000);
        assert_eq!(known.find(0x1000), None);
    }
}
