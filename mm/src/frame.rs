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
mod tests {
    extern crate std;

    use super::*;
    use crate::fake::{BASE, Fake};
    use alloc::vec;

    fn frames(count: usize, free: impl IntoIterator<Item = usize>) -> FrameAllocator<Fake> {
        let free = free.into_iter().map(|index| BASE + index..BASE + index + 1);
        FrameAllocator::new(Frame::from_number(BASE), Fake::info(count), free)
    }

    fn numbered(index: usize) -> Frame {
        Frame::from_number(BASE + index)
    }

    #[test]
    fn hands_out_each_free_frame_once() {
        let frames = frames(8, [1, 2, 5]);
        let given = core::array::from_fn(|_| frames.alloc());
        assert_eq!(given, [Some(numbered(1)), Some(numbered(2)), Some(numbered(5)), None]);
        assert_eq!((frames.free(), frames.total()), (0, 3));
        frames.put(numbered(2));
        assert_eq!((frames.free(), frames.alloc()), (1, Some(numbered(2))));
    }

    #[test]
    fn the_last_reference_frees() {
        let frames = frames(1, 0..1);
        let frame = frames.alloc().unwrap();
        frames.get(frame);
        assert!(frames.is_shared(frame));
        frames.put(frame);
        assert_eq!((frames.is_shared(frame), frames.free()), (false, 0));
        frames.put(frame);
        assert_eq!((frames.references(frame), frames.free()), (0, 1));
    }

    #[test]
    fn a_kept_frame_is_shared_and_never_free() {
        let frames = frames(4, 2..4);
        frames.keep(BASE..BASE + 2);
        let kept = numbered(1);
        for _ in 0..2 {
            assert!(frames.is_shared(kept), "with nobody who could write to it");
            frames.put(kept);
        }
        frames.get(kept);
        assert_eq!((frames.is_kept(kept), frames.free()), (true, 2));
        assert!(!frames.is_kept(numbered(2)));
    }

    #[test]
    #[should_panic(expected = "cannot be kept")]
    fn a_frame_in_use_is_not_kept() {
        let frames = frames(2, 0..2);
        let frame = frames.alloc().unwrap().number();
        frames.keep(frame..frame + 1);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_caught() {
        let frames = frames(2, 0..2);
        let frame = frames.alloc().unwrap();
        frames.put(frame);
        frames.put(frame);
    }

    #[test]
    #[should_panic(expected = "was never ours")]
    fn a_reserved_frame_is_not_freed() {
        frames(4, 0..2).put(numbered(3));
    }

    #[test]
    #[should_panic(expected = "was never ours")]
    fn a_foreign_frame_is_not_freed() {
        frames(4, 0..4).put(Frame::from_number(BASE - 1));
    }

    #[test]
    #[should_panic(expected = "in other use")]
    fn a_table_is_not_freed_as_data() {
        let frames = frames(4, 0..4);
        let table = frames.alloc_root().unwrap();
        frames.put(table);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_table_is_freed_once() {
        let frames = frames(4, 0..4);
        let table = frames.alloc_table(3).unwrap();
        let mut list = FrameList::new();
        frames.free_table_into(table, &mut list);
        frames.free_table_into(table, &mut list);
    }

    #[test]
    fn data_that_is_freed_as_a_table_stays_as_it_is() {
        let frames = frames(4, 0..4);
        let data = frames.alloc().unwrap();
        frames.get(data);
        let free = std::panic::AssertUnwindSafe(|| frames.free_table_into(data, &mut FrameList::new()));
        assert!(std::panic::catch_unwind(free).is_err());
        assert_eq!((frames.references(data), frames.free()), (2, 3));
    }

    #[test]
    fn what_is_refused_is_counted() {
        let frames = frames(4, 0..2);
        let free = std::panic::AssertUnwindSafe(|| frames.put(numbered(3)));
        assert_eq!(frames.refused(), 0);
        assert!(std::panic::catch_unwind(free).is_err());
        assert_eq!(frames.refused(), 1);
    }

    #[test]
    fn references_are_counted_of_data_only() {
        let frames = frames(4, 1..4);
        frames.keep(BASE..BASE + 1);
        let (table, data) = (frames.alloc_root().unwrap(), frames.alloc().unwrap());
        let counted = [numbered(0), table, data, numbered(3), Frame::from_number(BASE + 4)];
        assert_eq!(counted.map(|frame| frames.references(frame)), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_list_that_was_emptied_adds_nothing() {
        let frames = frames(2, 0..2);
        let given: [_; 2] = core::array::from_fn(|_| frames.alloc().unwrap());
        let (mut list, mut emptied) = (FrameList::new(), FrameList::new());
        frames.put_into(given[0], &mut list);
        frames.put_into(given[1], &mut emptied);
        let taken = emptied.pop(frames.info);
        list.prepend(frames.info, emptied);
        assert_eq!((taken, list.len(), list.pop(frames.info)), (Some(1), 1, Some(0)));
    }

    #[test]
    #[should_panic(expected = "still maps something")]
    fn a_root_in_use_is_not_freed() {
        let frames = frames(4, 0..4);
        let root = frames.alloc_root().unwrap();
        Fake::table(root).set_word(511, 0b11);
        frames.free_root(root);
    }

    #[test]
    #[should_panic(expected = "written to after it was freed")]
    fn a_write_after_free_is_caught() {
        let frames = frames(1, 0..1);
        let frame = frames.alloc().unwrap();
        frames.put(frame);
        Fake::table(frame).set_word(77, 1);
        frames.alloc();
    }

    #[test]
    fn lists_join_at_either_end() {
        let frames = frames(6, 0..6);
        for round in 0..4 {
            let given: [_; 6] = core::array::from_fn(|_| frames.alloc().unwrap());
            let (mut first, mut second) = (FrameList::new(), FrameList::new());
            given[..round].iter().for_each(|&frame| frames.put_into(frame, &mut first));
            given[round..].iter().for_each(|&frame| frames.put_into(frame, &mut second));
            assert_eq!((first.len(), second.len(), frames.free()), (round, 6 - round, 0));
            let mut joined = FrameList::new();
            joined.prepend(frames.info, first);
            joined.prepend(frames.info, second);
            let mut empty = FrameList::new();
            empty.prepend(frames.info, joined);
            frames.free_list(empty);
            assert_eq!(frames.free(), 6);
        }
    }

    #[test]
    fn a_table_knows_where_it_was_used() {
        let frames = frames(1, 0..1);
        let used = |table| frames.used(table).collect::<Vec<_>>();
        let table = frames.alloc_table(2).unwrap();
        assert_eq!((used(table), frames.level(table)), (vec![], 2));
        for index in [511, 7, 16, 500] {
            frames.mark_used(table, index);
        }
        assert_eq!((used(table), frames.level(table)), (vec![0..8, 16..24, 496..512], 2));
        (0..512).for_each(|index| frames.mark_used(table, index));
        assert_eq!(used(table), vec![0..512]);
        frames.free_root(table);
        assert!(used(frames.alloc_root().unwrap()).is_empty());
    }

    #[test]
    fn metadata_is_sixteen_bytes() {
        assert_eq!(size_of::<FrameInfo>(), 16);
    }
}
