//! Frames of physical memory: a free list, reference counts, and what each frame is used for.
//!
//! A data frame has as many references as page tables and others name it. A table has one owner.

use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::Frame;
pub use crate::frame_info::{FrameInfo, FrameList};
use crate::frame_info::{KEPT, TABLE};
use crate::machine::Machine;
use crate::pte::{ENTRIES, ROOT_LEVEL};
use crate::sync::{AtomicU64, Lock, Ordering, fence};

/// The frames that nobody owns.
struct Pool {
    recycled: FrameList,
    /// Frames that were never handed out: booting does not have to link them one by one.
    fresh: Vec<Range<usize>>,
    free: usize,
}

/// Hands out frames and takes them back.
///
/// Its lock is an `mm` lock: interrupts are on. It is held for a few instructions.
pub struct FrameAllocator<M: Machine> {
    base: usize,
    info: &'static [FrameInfo],
    total: usize,
    pool: Lock<Pool, M>,
    refused: AtomicU64,
}

/// Fills free frames in debug builds. Not a valid descriptor, and no address that exists.
const POISON: u64 = 0xdead_f4ee_dead_f4ee;

impl<M: Machine> FrameAllocator<M> {
    /// An allocator for the frames from `base` on, as many as `info` has elements, of which those
    /// numbered in `free` may be used. The others (the kernel, firmware, holes) stay out of reach.
    ///
    /// # Panics
    /// If a free range does not lie within the described frames.
    pub fn new(base: Frame, info: &'static [FrameInfo], free: impl IntoIterator<Item = Range<usize>>) -> Self {
        let base = base.number();
        let index_of = |range: Range<usize>| {
            let described = base <= range.start && range.end <= base + info.len();
            assert!(described, "free frames {range:x?} have no metadata");
            range.start - base..range.end - base
        };
        let fresh: Vec<_> = free.into_iter().map(index_of).collect();
        let total = fresh.iter().map(Range::len).sum();
        let pool = Pool { recycled: FrameList::new(), fresh, free: total };
        Self { base, info, total, pool: Lock::new(pool), refused: AtomicU64::new(0) }
    }

    /// A frame with one reference. What it contains is left over from its last use.
    pub fn alloc(&self) -> Option<Frame> {
        self.take(1)
    }

    /// An empty root table.
    pub fn alloc_root(&self) -> Option<Frame> {
        self.alloc_table(ROOT_LEVEL)
    }

    /// A table of empty descriptors for this level. Not visible to walkers before the next
    /// `Sequence::PublishEntries`.
    pub(crate) fn alloc_table(&self, level: u8) -> Option<Frame> {
        let frame = self.take(TABLE | u32::from(level))?;
        self.info_of_table(frame).clear_used();
        M::zero_frame(frame);
        Some(frame)
    }

    fn take(&self, word: u32) -> Option<Frame> {
        self.take_free(word).or_else(|| {
            // Dead `Mm`s may wait for company or for time: now there is neither.
            M::out_of_frames();
            self.take_free(word)
        })
    }

    fn take_free(&self, word: u32) -> Option<Frame> {
        let mut pool = self.pool.lock();
        let recycled = pool.recycled.pop(self.info);
        let index = recycled.or_else(|| pool.fresh.iter_mut().find_map(Range::next))?;
        pool.free -= 1;
        drop(pool);
        let frame = Frame::from_number(self.base + index);
        if cfg!(debug_assertions) && recycled.is_some() {
            let intact = M::table(frame).entries().iter().all(|entry| entry.get().bits() == POISON);
            assert!(intact, "{frame:?} was written to after it was freed");
        }
        // Relaxed: the frame is ours alone until we pass it on.
        self.info[index].word.store(word, Ordering::Relaxed);
        Some(frame)
    }

    /// Lets page tables name these frames, which hold what never changes and are not among the free ones. So they
    /// never will be, and references to them are not counted.
    ///
    /// # Panics
    /// If a frame has no metadata, or is in use.
    pub fn keep(&self, frames: Range<usize>) {
        for frame in frames.map(Frame::from_number) {
            // Relaxed: before the first page table that names it.
            let before = self.info_of(frame).map(|info| info.word.swap(KEPT, Ordering::Relaxed));
            assert_eq!(before, Some(0), "{frame:?} cannot be kept");
        }
    }

    /// Whether a frame was given to [`keep`](Self::keep).
    pub fn is_kept(&self, frame: Frame) -> bool {
        // Relaxed: set before anybody asks, and for good.
        self.info_of(frame).is_some_and(|info| info.word.load(Ordering::Relaxed) == KEPT)
    }

    /// Lets programs execute some of these frames: the first time, instruction fetches are made to see what one holds.
    pub(crate) fn make_executable(&self, kept: Range<usize>) {
        let first = kept.start - self.base;
        for (info, frame) in self.info[first..first + kept.len()].iter().zip(kept) {
            if !info.is_executable() {
                M::sync_instructions(Frame::from_number(frame));
                info.note_executable();
            }
        }
    }

    /// Adds a reference to a data frame.
    ///
    /// # Panics
    /// If the frame is not a data frame in use, or has 2^30 references.
    pub fn get(&self, frame: Frame) {
        if self.is_kept(frame) {
            return;
        }
        // Relaxed: whoever adds a reference already has one.
        let before = self.info_of(frame).map_or(0, |info| info.word.fetch_add(1, Ordering::Relaxed));
        assert!((1..KEPT - 1).contains(&before), "{frame:?} got a reference but is not data in use");
    }

    /// Whether a data frame has more than one reference, or is kept. The caller holds one of them; that the
    /// answer is no stays true until the caller itself adds another.
    pub fn is_shared(&self, frame: Frame) -> bool {
        // Acquire: pairs with the Release in `put_into`; the other owners are done with the frame.
        self.references(frame) != 1
    }

    /// The references of a data frame that are counted; 0 for everything else.
    pub fn references(&self, frame: Frame) -> u32 {
        // Acquire: pairs with the Release in `put_into`.
        let word = self.info_of(frame).map_or(0, |info| info.word.load(Ordering::Acquire));
        if word & (TABLE | KEPT) != 0 { 0 } else { word }
    }

    /// Gives up one reference to a data frame. The last one frees it.
    ///
    /// # Panics
    /// In debug builds, if it is not a data frame in use. Release builds refuse and count it.
    pub fn put(&self, frame: Frame) {
        let mut list = FrameList::new();
        self.put_into(frame, &mut list);
        self.free_list(list);
    }

    /// Gives up the only reference to a data frame, which joins `list`. If there are others, nothing happens.
    #[must_use]
    pub(crate) fn put_last(&self, frame: Frame, list: &mut FrameList) -> bool {
        // Acquire: as in `is_shared`.
        let last = self.info_of(frame).filter(|info| info.word.load(Ordering::Acquire) == 1);
        if let Some(info) = last {
            // Relaxed: whoever adds a reference has one already, and the only one is ours.
            info.word.store(0, Ordering::Relaxed);
            list.push(self.info, frame.number() - self.base);
        }
        last.is_some()
    }

    /// As [`put`](Self::put), but a frame that loses its last reference joins `list`.
    pub fn put_into(&self, frame: Frame, list: &mut FrameList) {
        if self.put_last(frame, list) {
            return;
        }
        let Some(info) = self.info_of(frame) else { return self.refuse(frame) };
        let lower = |word| (1..KEPT).contains(&word).then(|| word - 1);
        // Release: pairs with the fence below and the Acquire in `references`: our accesses to the
        // frame come before its next use.
        match info.word.fetch_update(Ordering::Release, Ordering::Relaxed, lower) {
            Ok(1) => {
                fence(Ordering::Acquire);
                list.push(self.info, frame.number() - self.base);
            }
            Ok(_) | Err(KEPT) => {}
            Err(_) => self.refuse(frame),
        }
    }

    /// Frees an empty root table.
    ///
    /// # Panics
    /// In debug builds, if it is not a table in use or not empty. Release builds refuse a frame
    /// that is not a table, and count it.
    pub fn free_root(&self, root: Frame) {
        let empty = || M::table(root).entries().iter().all(|entry| entry.get().is_empty());
        debug_assert!(empty(), "{root:?} is freed as a root but still maps something");
        let mut list = FrameList::new();
        self.free_table_into(root, &mut list);
        self.free_list(list);
    }

    /// Gives up a table, which joins `list`. What its entries name stays as it is.
    pub(crate) fn free_table_into(&self, table: Frame, list: &mut FrameList) {
        match self.info_of(table) {
            // AcqRel: a second free of the same table, on another CPU, must find the zero.
            Some(info) if info.word.fetch_and(!TABLE, Ordering::AcqRel) & TABLE != 0 => {
                info.word.store(0, Ordering::Relaxed);
                list.push(self.info, table.number() - self.base);
            }
            _ => self.refuse(table),
        }
    }

    /// Makes the frames of a list, which nobody refers to any more, available again.
    pub fn free_list(&self, list: FrameList) {
        if list.is_empty() {
            return;
        }
        if cfg!(debug_assertions) {
            self.poison(&list);
        }
        let mut pool = self.pool.lock();
        pool.free += list.len();
        pool.recycled.prepend(self.info, list);
    }

    /// Overwrites every frame of the list, so that a stale access shows itself.
    fn poison(&self, list: &FrameList) {
        for index in list.iter(self.info) {
            let frame = Frame::from_number(self.base + index);
            assert_eq!(self.info[index].word.load(Ordering::Relaxed), 0, "{frame:?} is on a free list but in use");
            (0..ENTRIES).for_each(|word| M::table(frame).set_word(word, POISON));
        }
    }

    /// Links a table that was taken out of its address space onto `list`. It stays a table.
    pub(crate) fn set_aside(&self, table: Frame, list: &mut FrameList) {
        debug_assert!(self.info_of(table).is_some(), "{table:?} is not ours");
        list.push(self.info, table.number() - self.base);
    }

    /// Takes a frame off a list, if there is one.
    pub(crate) fn pop(&self, list: &mut FrameList) -> Option<Frame> {
        list.pop(self.info).map(|index| Frame::from_number(self.base + index))
    }

    /// The level of a table in use.
    pub(crate) fn level(&self, table: Frame) -> u8 {
        // Relaxed: set before the table was linked.
        (self.info_of_table(table).word.load(Ordering::Relaxed) & !TABLE) as u8
    }

    /// Notes that an entry of a table is set. The caller holds the lock of the address space.
    #[inline]
    pub(crate) fn mark_used(&self, table: Frame, index: usize) {
        self.info_of_table(table).mark_used(index);
    }

    /// Runs of a table's indices outside which no entry was ever set.
    pub(crate) fn used(&self, table: Frame) -> impl Iterator<Item = Range<usize>> + use<M> {
        self.info_of_table(table).used(0..ENTRIES)
    }

    /// What is known about a table in use.
    #[inline]
    pub(crate) fn info_of_table(&self, table: Frame) -> &'static FrameInfo {
        let info = &self.info[table.number() - self.base];
        debug_assert!(info.word.load(Ordering::Relaxed) & TABLE != 0, "{table:?} is not a table in use");
        info
    }

    fn info_of(&self, frame: Frame) -> Option<&'static FrameInfo> {
        self.info.get(frame.number().checked_sub(self.base)?)
    }

    #[cold]
    fn refuse(&self, frame: Frame) {
        // Relaxed: a number for people.
        self.refused.fetch_add(1, Ordering::Relaxed);
        debug_assert!(false, "{frame:?} was freed twice, is in other use, or was never ours");
    }

    /// Frames that can be handed out now.
    pub fn free(&self) -> usize {
        self.pool.lock().free
    }

    /// Frames that could be handed out at boot.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Frees that were refused because they were wrong. Anything but 0 is a bug of the kernel.
    pub fn refused(&self) -> u64 {
        // Relaxed: a number for people.
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
