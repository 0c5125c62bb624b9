//! Page tables: walking, installing, changing and clearing entries of one address space.
//!
//! The lock of the `Mm` serialises writers; table walkers read whenever they like. So:
//!
//! * A new table or frame is complete, and that is published, before an entry names it.
//! * Invalid → valid needs no invalidation: faulting entries are not cached (Arm ARM D8.17). Nor are
//!   entries whose access flag is clear, so changing one, or taking it away, leaves nothing stale.
//! * Rights change in place. Narrower rights are stale until flushed; wider ones cost a CPU that
//!   cached the old entry one more fault.
//! * Another frame goes in only through invalid and a flush (break-before-make, Arm ARM D8.17.1).

use core::iter;
use core::marker::PhantomData;

use crate::addr::{Frame, Page, PageRange, each};
use crate::fault::provide_copy;
use crate::frame::FrameInfo;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::pte::{Access, Descriptor, ENTRIES, LEAF_LEVEL, Protection, ROOT_LEVEL, Table};
use crate::region::{self, OutOfMemory, Region, Regions, Sharing};
use crate::stale::Stale;

const INDEX_BITS: u32 = ENTRIES.trailing_zeros();

/// The tables below one root.
pub struct PageTable<M: Machine> {
    root: Frame,
    machine: PhantomData<M>,
}

impl<M: Machine> PageTable<M> {
    /// The tables below this root, which must be a table in use.
    pub(crate) fn new(root: Frame) -> Self {
        Self { root, machine: PhantomData }
    }

    /// The page's descriptor, empty if no table leads to it.
    pub fn get(&self, page: Page) -> Descriptor {
        match self.walk(page) {
            Ok(leaf) => leaf.get(page),
            Err(_) => Descriptor::EMPTY,
        }
    }

    /// Walks to the page's leaf table. If a table is missing: the pages that it would translate.
    fn walk(&self, page: Page) -> Result<Leaf<M>, PageRange> {
        let mut table = self.root;
        for level in ROOT_LEVEL..LEAF_LEVEL {
            match M::table(table).entry(index(page, level)).get().frame() {
                Some(below) => table = below,
                None => return Err(span(page, level)),
            }
        }
        Ok(Leaf::new(table, page))
    }

    /// The page's leaf table. Tables on the way to it that are missing are made and linked.
    ///
    /// # Errors
    /// If there is no frame for a table. Tables made before that stay, empty.
    pub(crate) fn leaf_or_create(&self, page: Page) -> Result<Leaf<M>, OutOfMemory> {
        let mut table = self.root;
        for level in ROOT_LEVEL..LEAF_LEVEL {
            let index = index(page, level);
            let entry = M::table(table).entry(index);
            table = match entry.get().frame() {
                Some(below) => below,
                None => link_new_table::<M>(table, index, level + 1)?,
            };
        }
        Ok(Leaf::new(table, page))
    }

    /// The parts of `pages` in which something may be mapped, each with its leaf table.
    pub(crate) fn leaves(&self, pages: PageRange) -> impl Iterator<Item = (Leaf<M>, PageRange)> {
        let tables = self.leaf_tables(pages.clone());
        tables.flat_map(move |leaf| leaf.used(&pages).map(move |used| (leaf, used)))
    }

    fn leaf_tables(&self, pages: PageRange) -> impl Iterator<Item = Leaf<M>> {
        let mut next = pages.start;
        iter::from_fn(move || {
            while next < pages.end {
                match self.walk(next) {
                    Ok(leaf) => {
                        next = leaf.first.offset(ENTRIES as u64);
                        return Some(leaf);
                    }
                    Err(missing) => next = missing.end,
                }
            }
            None
        })
    }

    /// Pages that have a frame.
    pub fn resident(&self) -> u64 {
        let all = Page::from_number(0)..Page::END;
        self.leaves(all).flat_map(|(leaf, used)| each(used).filter(move |&page| !leaf.get(page).is_empty())).count()
            as u64
    }

    /// Unmaps the pages, flushes and frees, in as many rounds as it takes.
    ///
    /// Tables that lie within `hole` go too: the caller knows that nothing else in it is mapped.
    pub(crate) fn clear(&self, mm: &Mm<M>, pages: PageRange, hole: &PageRange) {
        let mut next = pages.start;
        while next < pages.end {
            Stale::flushed(mm, |stale| {
                while next < pages.end && !stale.is_full() {
                    next = self.clear_some(next..pages.end, hole, stale);
                }
            });
        }
    }

    /// Clears from the first of the pages on, within one table; gives the next one to clear.
    fn clear_some(&self, pages: PageRange, hole: &PageRange, stale: &mut Stale<M>) -> Page {
        let mut table = self.root;
        for level in ROOT_LEVEL..LEAF_LEVEL {
            let entry = M::table(table).entry(index(pages.start, level));
            let covered = span(pages.start, level);
            let Some(below) = entry.get().frame() else { return covered.end };
            if hole.start <= covered.start && covered.end <= hole.end {
                if let Some(unlinked) = entry.take().frame() {
                    stale.add_table(unlinked, intersection(&covered, &pages));
                }
                return covered.end;
            }
            table = below;
        }
        let leaf = Leaf::new(table, pages.start);
        let mut used = leaf.used(&pages).flat_map(each);
        let unfinished = used.find(|&page| {
            let is_full = stale.is_full();
            if !is_full {
                leaf.clear(page, stale);
            }
            is_full
        });
        unfinished.unwrap_or_else(|| leaf.first.offset(ENTRIES as u64))
    }

    /// Takes every table away from the root.
    ///
    /// Everything is stale then, also if no table is left to take: walk caches may know tables that
    /// are gone. Only if no table was ever linked is there nothing that a walk could have cached.
    pub(crate) fn unlink_all(&self) -> Stale<M> {
        let mut stale = Stale::new();
        for used in M::system().frames.used(self.root) {
            stale.add_everything();
            let linked = M::table(self.root).entries()[used].iter().filter(|entry| !entry.get().is_empty());
            for unlinked in linked.filter_map(|entry| entry.take().frame()) {
                stale.add_table(unlinked, Page::from_number(0)..Page::END);
            }
        }
        stale
    }

    /// Maps in `other` what is mapped here, frames shared, but for what an image lends. What the regions do not share
    /// on purpose becomes copy-on-write on both sides; the rights that this side loses are stale. It loses none to the
    /// `busy` page, if that may be written: the other side gets a copy.
    ///
    /// # Errors
    /// If there is no frame for a table. What was shared until then stays shared.
    pub(crate) fn share(
        &self,
        regions: &Regions,
        other: &Self,
        busy: Option<Page>,
        stale: &mut Stale<M>,
    ) -> Result<(), OutOfMemory> {
        // Neighbouring regions mostly have a table in common.
        let mut pair: Option<Pair<M>> = None;
        for region in regions.iter() {
            let mut rest = region.pages.clone();
            while rest.start < rest.end {
                let same = pair.take().filter(|pair| span(rest.start, LEAF_LEVEL - 1).start == pair.from.first);
                let found = same.map_or_else(|| self.walk(rest.start).map(|from| Pair { from, to: None }), Ok);
                rest.start = match found {
                    Ok(mut found) => {
                        found.share(region, &rest, other, busy, stale)?;
                        pair.insert(found).from.first.offset(ENTRIES as u64)
                    }
                    Err(missing) => missing.end,
                };
            }
        }
        Ok(())
    }

    /// Gives all mapped pages of the range these rights. What was copy-on-write stays so.
    pub(crate) fn protect(&self, pages: PageRange, protection: Protection, stale: &mut Stale<M>) {
        for leaf in self.leaf_tables(pages.clone()) {
            for page in leaf.used(&pages).flat_map(each) {
                let old = leaf.get(page);
                let Some(frame) = old.frame() else { continue };
                if protection.execute && !old.allows(Access::Execute) {
                    M::sync_instructions(frame);
                }
                leaf.change(page, old.with_protection(protection), stale);
            }
        }
    }
}

#[cold]
fn link_new_table<M: Machine>(parent: Frame, index: usize, level: u8) -> Result<Frame, OutOfMemory> {
    let frames = &M::system().frames;
    let table = frames.alloc_table(level).ok_or(OutOfMemory)?;
    // A walker that sees the link must see the zeroes, not what the frame held before.
    M::run(Sequence::PublishEntries, 0);
    frames.mark_used(parent, index);
    M::table(parent).entry(index).set(Descriptor::table(table));
    Ok(table)
}

/// A leaf table: the descriptors of 512 neighbouring pages.
pub(crate) struct Leaf<M: Machine> {
    info: &'static FrameInfo,
    table: &'static Table,
    /// The page of its first entry.
    first: Page,
    machine: PhantomData<M>,
}

impl<M: Machine> Clone for Leaf<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Leaf<M> {}

impl<M: Machine> Leaf<M> {
    /// The leaf table in this frame, which translates this page.
    fn new(frame: Frame, page: Page) -> Self {
        debug_assert_eq!(M::system().frames.level(frame), LEAF_LEVEL, "{frame:?} is not a leaf table");
        let first = span(page, LEAF_LEVEL - 1).start;
        Self { info: M::system().frames.info_of_table(frame), table: M::table(frame), first, machine: PhantomData }
    }

    /// Runs of pages outside which none of `pages` was ever installed here.
    fn used(self, pages: &PageRange) -> impl Iterator<Item = PageRange> + use<M> {
        let first = self.first.number();
        let index = |page: Page| (page.number().max(first) - first).min(ENTRIES as u64) as usize;
        let page = move |index| Page::from_number(first + index as u64);
        self.info.used(index(pages.start)..index(pages.end)).map(move |used| page(used.start)..page(used.end))
    }

    /// The page's descriptor.
    pub(crate) fn get(&self, page: Page) -> Descriptor {
        self.table.entry(index(page, LEAF_LEVEL)).get()
    }

    /// Maps a page that was not mapped. The caller publishes it (`Sequence::PublishEntries`)
    /// before the program may rely on it.
    pub(crate) fn install(&self, page: Page, new: Descriptor) {
        debug_assert!(!self.get(page).is_valid(), "{page:?} was mapped already: break before make");
        let index = index(page, LEAF_LEVEL);
        self.info.mark_used(index);
        self.table.entry(index).set(new);
    }

    /// Maps those of the pages, at least one, that were not mapped: the first to what `new` says, the others to the frames
    /// behind. The caller publishes it, as after [`install`](Self::install).
    pub(crate) fn install_run(&self, pages: &PageRange, mut new: Descriptor) {
        let first = index(pages.start, LEAF_LEVEL);
        let indices = first..first + region::length(pages) as usize;
        self.info.mark_all_used(indices.clone());
        for entry in &self.table.entries()[indices] {
            if entry.get().is_empty() {
                entry.set(new);
            }
            new = new.next();
        }
    }

    /// Widens the rights to a page. A CPU that cached the narrower ones faults once more.
    pub(crate) fn widen(&self, page: Page, new: Descriptor) {
        debug_assert_eq!(self.get(page).frame(), new.frame(), "{page:?} got another frame: break before make");
        self.table.entry(index(page, LEAF_LEVEL)).set(new);
    }

    /// Changes the rights to a page. If they are narrower than before, they are stale.
    pub(crate) fn change(&self, page: Page, new: Descriptor, stale: &mut Stale<M>) {
        let old = self.get(page);
        debug_assert_eq!(old.frame(), new.frame(), "{page:?} got another frame: break before make");
        if old == new {
            return;
        }
        self.table.entry(index(page, LEAF_LEVEL)).set(new);
        let lost = |access| old.allows(access) && !new.allows(access);
        if lost(Access::Read) || lost(Access::Write) || lost(Access::Execute) {
            stale.add_narrowed(page);
        }
    }

    /// Unmaps a page; the token owns its frame.
    pub(crate) fn clear(&self, page: Page, stale: &mut Stale<M>) {
        let entry = self.table.entry(index(page, LEAF_LEVEL));
        if !entry.get().is_empty() {
            stale.add_page(page, entry.take());
        }
    }
}

/// Leaf tables of two address spaces for the same pages, of which the other has none as long as nothing is shared.
struct Pair<M: Machine> {
    from: Leaf<M>,
    to: Option<Leaf<M>>,
}

impl<M: Machine> Pair<M> {
    /// Shares those of the pages that lie in the region and in this table, as [`PageTable::share`] says.
    fn share(
        &mut self,
        region: &Region,
        pages: &PageRange,
        other: &PageTable<M>,
        busy: Option<Page>,
        stale: &mut Stale<M>,
    ) -> Result<(), OutOfMemory> {
        for run in self.from.used(pages) {
            for page in each(run) {
                let mut entry = self.from.get(page);
                // What an image lends, it lends to the other side, too, which most likely will use little of it.
                let Some(frame) = entry.frame().filter(|_| !entry.is_lent()) else { continue };
                let to = match self.to {
                    Some(to) => to,
                    None => *self.to.insert(other.leaf_or_create(page)?),
                };
                if region.attributes.sharing == Sharing::Private {
                    if busy == Some(page) && region.attributes.protection.write {
                        provide_copy(region, page, &to, frame)?;
                        continue;
                    }
                    entry = entry.as_copy_on_write();
                    self.from.change(page, entry, stale);
                }
                M::system().frames.get(frame);
                to.install(page, entry);
            }
        }
        Ok(())
    }
}

/// The index of the page's entry in a table of this level.
fn index(page: Page, level: u8) -> usize {
    (page.number() >> shift(level)) as usize % ENTRIES
}

/// log2 of the pages that one entry of this level translates.
fn shift(level: u8) -> u32 {
    INDEX_BITS * u32::from(LEAF_LEVEL - level)
}

/// The pages that the page's entry of this level translates.
fn span(page: Page, level: u8) -> PageRange {
    page.block(shift(level))
}

fn intersection(a: &PageRange, b: &PageRange) -> PageRange {
    a.start.max(b.start)..a.end.min(b.end)
}
