//! Stale translations: what page-table changes left behind in TLBs, and the frames they can reach.
//!
//! A frame taken out of a table is not free. Until an invalidation is complete, any CPU that has
//! the `Mm` loaded, lazy ones included, may still reach it through a cached entry. So the change
//! yields a [`Stale`] that owns the frame, and only [`Stale::flush`] gives it on.

use core::marker::PhantomData;
use core::mem;

use crate::addr::{Frame, Page, PageRange};
use crate::flush::{Extent, invalidate, invalidate_dying, retire};
use crate::frame::FrameList;
use crate::machine::{Machine, Point, point};
use crate::mm::Mm;
use crate::pte::{Descriptor, Entry, LEAF_LEVEL};

/// How many references to frames with other owners one token holds.
pub const MOST_SHARED: usize = 32;

/// What must be invalidated before its frames are free. Dropping it unflushed is a bug: debug
/// builds panic, release builds lose the frames. They never free them.
///
/// It needs no memory of its own. Frames without other owners are linked through their metadata;
/// an unlinked table still lists all that is below it; only references to frames that other address
/// spaces use too (which therefore cannot be linked here) take a place in an array.
#[must_use = "cleared entries stay cached until `flush`"]
pub struct Stale<M: Machine> {
    extent: Extent,
    /// Data that nobody but a TLB refers to.
    frames: FrameList,
    /// Tables with everything below them.
    tables: FrameList,
    /// The first `shared_count` of them. Most changes have none, and need not prepare an array.
    shared: Option<[Frame; MOST_SHARED]>,
    shared_count: usize,
    machine: PhantomData<M>,
}

impl<M: Machine> Stale<M> {
    /// Makes a change, and flushes what it leaves stale. In place: a token that is handed on is copied.
    pub(crate) fn flushed<R>(mm: &Mm<M>, change: impl FnOnce(&mut Self) -> R) -> R {
        let mut stale = Self::new();
        let result = change(&mut stale);
        stale.settle(mm);
        result
    }

    /// Nothing is stale yet.
    pub fn new() -> Self {
        Self {
            extent: Extent::Nothing,
            frames: FrameList::new(),
            tables: FrameList::new(),
            shared: None,
            shared_count: 0,
            machine: PhantomData,
        }
    }

    /// Whether it must be flushed before another page is added.
    pub fn is_full(&self) -> bool {
        self.shared_count == MOST_SHARED
    }

    /// What must be invalidated.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// The rights to this page were narrowed.
    pub(crate) fn add_narrowed(&mut self, page: Page) {
        self.extend(page..page.offset(1), false);
    }

    /// This descriptor was taken out of a leaf table: the page's frame now belongs to the token.
    pub(crate) fn add_page(&mut self, page: Page, removed: Descriptor) {
        let Some(frame) = removed.frame() else { return };
        if removed.may_be_cached() {
            self.extend(page..page.offset(1), false);
        }
        let frames = &M::system().frames;
        if removed.is_lent() {
            // The image keeps it: there is no reference to give up.
        } else if !frames.put_last(frame, &mut self.frames) {
            // The reference is kept until after the flush: were it given up now, the other owner
            // could become the last one, flush its own entries and free what ours still reach.
            self.shared.get_or_insert([frame; MOST_SHARED])[self.shared_count] = frame;
            self.shared_count += 1;
        }
    }

    /// This table was unlinked. `pages` are those it translated, as far as any was mapped.
    pub(crate) fn add_table(&mut self, table: Frame, pages: PageRange) {
        let frames = &M::system().frames;
        if frames.level(table) == LEAF_LEVEL {
            self.extend(pages, true);
        } else {
            // Walk caches may hold each table below this one, under addresses that were never
            // mapped. Invalidating `pages` would miss those.
            self.add_everything();
        }
        frames.set_aside(table, &mut self.tables);
    }

    /// Whatever this address space has cached, of pages and of tables.
    pub(crate) fn add_everything(&mut self) {
        self.extent = Extent::All;
    }

    fn extend(&mut self, added: PageRange, table: bool) {
        match &mut self.extent {
            Extent::Nothing => self.extent = Extent::Pages { pages: added, tables: table },
            Extent::Pages { pages, tables } => {
                pages.start = pages.start.min(added.start);
                pages.end = pages.end.max(added.end);
                *tables |= table;
            }
            Extent::All => {}
        }
    }

    /// Invalidates, waits until no CPU can use what was cached, and frees.
    pub fn flush(mut self, mm: &Mm<M>) {
        self.settle(mm);
    }

    fn settle(&mut self, mm: &Mm<M>) {
        point::<M>(Point::Unmapped);
        invalidate(mm, &self.extent);
        self.extent = Extent::Nothing;
        point::<M>(Point::Flushed);
        self.free();
    }

    /// As [`flush`](Self::flush), for an `Mm` whose users are gone: at most once in its life.
    pub(crate) fn flush_dying(mut self, mm: &Mm<M>) {
        point::<M>(Point::Unmapped);
        if !(M::system().config.retire && retire(mm)) {
            invalidate_dying(mm, &self.extent);
        }
        self.extent = Extent::Nothing;
        point::<M>(Point::Flushed);
        self.free();
    }

    fn free(&mut self) {
        let frames = &M::system().frames;
        let mut freed = mem::take(&mut self.frames);
        for &frame in self.shared.iter().flatten().take(mem::take(&mut self.shared_count)) {
            frames.put_into(frame, &mut freed);
        }
        while let Some(table) = frames.pop(&mut self.tables) {
            free_tree::<M>(table, &mut freed);
        }
        frames.free_list(freed);
    }
}

/// Gives up a table and all that its entries name. No walker can reach it any more.
fn free_tree<M: Machine>(table: Frame, freed: &mut FrameList) {
    let frames = &M::system().frames;
    let leaf = frames.level(table) == LEAF_LEVEL;
    let used = frames.used(table).flat_map(|used| &M::table(table).entries()[used]).map(Entry::get);
    used.filter(|entry| !entry.is_lent()).for_each(|entry| match entry.frame() {
        Some(frame) if leaf => frames.put_into(frame, freed),
        Some(below) => free_tree::<M>(below, freed),
        None => {}
    });
    frames.free_table_into(table, freed);
}

impl<M: Machine> Default for Stale<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Drop for Stale<M> {
    fn drop(&mut self) {
        let settled = self.extent == Extent::Nothing
            && self.frames.is_empty()
            && self.tables.is_empty()
            && self.shared_count == 0;
        debug_assert!(settled, "stale translations of {:?} were never invalidated", self.extent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::pte::Protection;

    #[test]
    #[should_panic(expected = "were never invalidated")]
    fn a_token_must_be_flushed() {
        let mut stale = Stale::<Fake>::new();
        stale.add_narrowed(Page::from_number(1));
    }

    #[test]
    fn a_frame_with_two_owners_outlives_the_flush_of_each() {
        let frames = &Fake::start(10).frames;
        let mm = Mm::<Fake>::create().unwrap();
        let frame = frames.alloc().unwrap();
        frames.get(frame);
        let free = frames.free();
        let page = Page::from_number(1);
        let mut ours = Stale::new();
        ours.add_page(page, Descriptor::page(frame, Protection::READ));
        let mut theirs = Stale::new();
        theirs.add_page(page, Descriptor::page(frame, Protection::READ));
        theirs.flush(&mm);
        assert_eq!(frames.free(), free, "our TLB entries still reach it");
        ours.flush(&mm);
        assert_eq!(frames.free(), free + 1);
    }

    #[test]
    fn the_extent_is_what_was_touched() {
        let mut stale = Stale::<Fake>::new();
        assert_eq!(stale.extent(), &Extent::Nothing);
        stale.add_narrowed(Page::from_number(7));
        stale.add_narrowed(Page::from_number(3));
        let pages = Page::from_number(3)..Page::from_number(8);
        assert_eq!(stale.extent(), &Extent::Pages { pages, tables: false });
        stale.add_everything();
        stale.add_narrowed(Page::from_number(1));
        assert_eq!(mem::replace(&mut stale.extent, Extent::Nothing), Extent::All);
    }

    /// Its walk caches go, whatever else goes before or after it.
    #[test]
    fn a_table_among_pages_is_not_forgotten() {
        let frames = &Fake::start(10).frames;
        let mm = Mm::<Fake>::create().unwrap();
        let pages = |range: core::ops::Range<u64>| Page::from_number(range.start)..Page::from_number(range.end);
        let free = frames.free();
        for table_first in [false, true] {
            let mut stale = Stale::<Fake>::new();
            let table = frames.alloc_table(LEAF_LEVEL).unwrap();
            if table_first {
                stale.add_table(table, pages(4..6));
            }
            stale.add_narrowed(Page::from_number(9));
            if !table_first {
                stale.add_table(table, pages(4..6));
            }
            assert_eq!(stale.extent(), &Extent::Pages { pages: pages(4..10), tables: true });
            stale.flush(&mm);
            assert_eq!(frames.free(), free);
        }
    }
}
