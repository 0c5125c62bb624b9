//! What is known about each frame: sixteen bytes, kept outside it.
//!
//! So a frame that nobody owns is never touched, and a list of frames needs no memory of its own.

use core::iter;
use core::ops::Range;

use crate::pte::ENTRIES;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What is known about one frame. All zeroes is a valid value: a frame that nobody owns.
#[derive(Default)]
pub struct FrameInfo {
    /// 0: nobody's (free, reserved, or on a [`FrameList`]). Below [`KEPT`]: data, with so many
    /// references. [`KEPT`]: data for good. With [`TABLE`] set: a translation table, its level in the lowest bits.
    pub(crate) word: AtomicU32,
    /// Index + 1 of the next frame of the list that this one is on; 0 ends it.
    next: AtomicU32,
    /// Of a table: the groups of entries that were ever set, one bit for each. Of data that never changes: 1 once it
    /// can be executed.
    used: AtomicU64,
}

/// Marks the word of a table.
pub(crate) const TABLE: u32 = 1 << 31;
/// The word of data that never changes and is never free: nobody counts who refers to it.
pub(crate) const KEPT: u32 = 1 << 30;
/// Entries in a group.
const GROUP: usize = ENTRIES / u64::BITS as usize;

// Relaxed for tables: their use is read and written under the lock of their address space.
impl FrameInfo {
    /// Forgets which entries were set: the table is new.
    pub(crate) fn clear_used(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// Notes that an entry is set.
    #[inline]
    pub(crate) fn mark_used(&self, index: usize) {
        let (used, group) = (self.used.load(Ordering::Relaxed), 1 << (index / GROUP));
        if used & group == 0 {
            self.used.store(used | group, Ordering::Relaxed);
        }
    }

    /// Notes that these entries are set, some at least.
    pub(crate) fn mark_all_used(&self, indices: Range<usize>) {
        let last = (indices.end - 1) / GROUP;
        let groups = u64::MAX << (indices.start / GROUP) & u64::MAX >> (u64::BITS as usize - 1 - last);
        self.used.store(self.used.load(Ordering::Relaxed) | groups, Ordering::Relaxed);
    }

    /// Whether instruction fetches see what a frame of a program's image holds.
    pub(crate) fn is_executable(&self) -> bool {
        // Acquire: pairs with the Release below.
        self.used.load(Ordering::Acquire) != 0
    }

    /// Notes that they do, which stays so.
    pub(crate) fn note_executable(&self) {
        // Release: whoever reads it does so after the barrier that completed the maintenance, on whatever CPU.
        self.used.store(1, Ordering::Release);
    }

    /// Runs of indices outside which no entry `within` was ever set. Most tables hold a few neighbours, and
    /// a fork or an exit looks at every table of its program.
    pub(crate) fn used(&self, within: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let mut groups = self.used.load(Ordering::Relaxed) & u64::MAX.unbounded_shl((within.start / GROUP) as u32);
        iter::from_fn(move || {
            let first = groups.trailing_zeros() as usize;
            let start = within.start.max(first * GROUP);
            if start >= within.end {
                return None;
            }
            let end = first + (groups >> first).trailing_ones() as usize;
            // The carry runs through the lowest run of ones.
            groups &= groups.wrapping_add(1 << first);
            Some(start..within.end.min(end * GROUP))
        })
    }
}

/// Frames linked through their metadata.
///
/// Dropping a list that is not empty loses its frames.
#[must_use]
#[derive(Default)]
pub struct FrameList {
    /// Index + 1 of the first frame; 0 if there is none.
    head: u32,
    /// Index + 1 of the last frame.
    tail: u32,
    len: usize,
}

impl FrameList {
    /// A list without frames.
    pub const fn new() -> Self {
        Self { head: 0, tail: 0, len: 0 }
    }

    /// How many frames are on it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no frame on it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    // Relaxed throughout: the links of a list change under whatever owns the list.

    pub(crate) fn push(&mut self, info: &[FrameInfo], index: usize) {
        info[index].next.store(self.head, Ordering::Relaxed);
        self.head = index as u32 + 1;
        if self.len == 0 {
            self.tail = self.head;
        }
        self.len += 1;
    }

    pub(crate) fn pop(&mut self, info: &[FrameInfo]) -> Option<usize> {
        let index = self.head.checked_sub(1)? as usize;
        self.head = info[index].next.load(Ordering::Relaxed);
        self.len -= 1;
        Some(index)
    }

    /// The indices of its frames, first to last.
    pub(crate) fn iter(&self, info: &[FrameInfo]) -> impl Iterator<Item = usize> {
        let next = |&index: &usize| (info[index].next.load(Ordering::Relaxed) as usize).checked_sub(1);
        iter::successors((self.head as usize).checked_sub(1), next).take(self.len)
    }

    pub(crate) fn prepend(&mut self, info: &[FrameInfo], other: FrameList) {
        let Some(last) = other.tail.checked_sub(1).filter(|_| other.len > 0) else { return };
        info[last as usize].next.store(self.head, Ordering::Relaxed);
        if self.len == 0 {
            self.tail = other.tail;
        }
        self.head = other.head;
        self.len += other.len;
    }
}
