//! The mappings of one address space: what the lock of its `Mm` protects.
//!
//! Regions say what should be mapped, page tables what is. Each method here is one system call's
//! worth of change: it keeps the two in step, and returns when no CPU can use what it took away.

use core::mem;
use core::ops::Range;

use crate::addr::{Frame, PAGE_SIZE, Page, PageRange, USER_END, each};
use crate::fault::FaultError;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::pte::{Access, Protection};
use crate::region::{self, Attributes, OutOfMemory, Region, Regions, Sharing};
use crate::stale::Stale;
use crate::table::PageTable;

/// The lowest address that can be mapped: a null pointer with an offset must fault.
pub const LOWEST: u64 = 0x1_0000;
/// Where mappings without a place of their own end. The stack goes above, under the same tables.
pub const CEILING: u64 = USER_END - (64 << 20);

/// Where a mapping should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Wherever there is room.
    Anywhere,
    /// Here if it is free, or else anywhere.
    Near(u64),
    /// Here, in place of what is there (`MAP_FIXED`).
    At(u64),
    /// Here or nowhere (`MAP_FIXED_NOREPLACE`).
    AtFree(u64),
}

/// Why a mapping could not be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// A length of zero, or an address that is not the start of a page.
    Invalid,
    /// The range is not within the user half.
    Beyond,
    /// The range begins below [`LOWEST`].
    TooLow,
    /// Something is mapped there.
    Occupied,
    /// Something in the range is not mapped.
    Unmapped,
    /// No memory, no room, or too many regions.
    OutOfMemory,
}

impl From<OutOfMemory> for MapError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The mappings of one address space.
pub struct Space<M: Machine> {
    pub(crate) regions: Regions,
    pub(crate) tables: PageTable<M>,
    /// From the first byte of the heap to the program break.
    heap: Range<u64>,
}

impl<M: Machine> Space<M> {
    /// Nothing mapped, under this root table.
    pub(crate) fn new(root: Frame) -> Self {
        Self { regions: Regions::new(), tables: PageTable::new(root), heap: 0..0 }
    }

    /// What should be mapped, for `/proc/self/maps`.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// What is mapped.
    pub fn tables(&self) -> &PageTable<M> {
        &self.tables
    }

    /// Maps `length` bytes, rounded up to whole pages; gives the address.
    ///
    /// Private pages appear when they are first used. Shared ones appear at once: those who fork
    /// later must find the same frames.
    ///
    /// # Errors
    /// As [`MapError`] says. On an error nothing is mapped, but what [`Placement::At`] was to
    /// replace may be gone.
    pub fn map(
        &mut self,
        mm: &Mm<M>,
        placement: Placement,
        length: u64,
        attributes: Attributes,
    ) -> Result<u64, MapError> {
        let pages = self.place(placement, length)?;
        // What cannot succeed would take all memory from everybody, one page after the other, before it fails.
        if attributes.sharing == Sharing::Shared && region::length(&pages) > M::system().frames.free() as u64 {
            return Err(MapError::OutOfMemory);
        }
        self.regions.reserve()?;
        self.remove(mm, pages.clone());
        self.regions.insert(Region { pages: pages.clone(), attributes });
        if attributes.sharing == Sharing::Shared
            && let Err(error) = self.populate(&Region { pages: pages.clone(), attributes })
        {
            self.remove(mm, pages);
            return Err(error.into());
        }
        Ok(pages.start.address())
    }

    /// Unmaps a range; parts of it may be unmapped already.
    ///
    /// # Errors
    /// If the range is none, or if too many regions would be left.
    pub fn unmap(&mut self, mm: &Mm<M>, address: u64, length: u64) -> Result<(), MapError> {
        let pages = page_range(address, length)?;
        self.regions.reserve()?;
        self.remove(mm, pages);
        Ok(())
    }

    /// Gives a mapped range these rights.
    ///
    /// # Errors
    /// As [`MapError`] says; then nothing has changed.
    pub fn protect(&mut self, mm: &Mm<M>, address: u64, length: u64, protection: Protection) -> Result<(), MapError> {
        let pages = self.mapped_range(address, length)?;
        self.regions.reserve()?;
        self.regions.protect(&pages, protection);
        Stale::flushed(mm, |stale| self.tables.protect(pages, protection, stale));
        M::run(Sequence::PublishEntries, 0);
        Ok(())
    }

    /// Forgets what a mapped range holds (`MADV_DONTNEED`): private pages begin anew. Shared ones
    /// stay, as the object behind them would.
    ///
    /// # Errors
    /// As [`MapError`] says; then nothing has changed.
    pub fn advise_dont_need(&mut self, mm: &Mm<M>, address: u64, length: u64) -> Result<(), MapError> {
        let pages = self.mapped_range(address, length)?;
        for region in self.regions.overlapping(&pages) {
            if region.attributes.sharing == Sharing::Private {
                let part = region.pages.start.max(pages.start)..region.pages.end.min(pages.end);
                self.tables.clear(mm, part.clone(), &part);
            }
        }
        Ok(())
    }

    /// Puts the heap, still empty, at this address, rounded up to a page.
    pub fn start_heap(&mut self, address: u64) {
        let start = address.next_multiple_of(PAGE_SIZE);
        self.heap = start..start;
    }

    /// Moves the program break; gives where it is now, unchanged if it cannot go there.
    pub fn brk(&mut self, mm: &Mm<M>, wanted: u64) -> u64 {
        if (self.heap.start..=CEILING).contains(&wanted) && self.resize_heap(mm, wanted).is_ok() {
            self.heap.end = wanted;
        }
        self.heap.end
    }

    fn resize_heap(&mut self, mm: &Mm<M>, wanted: u64) -> Result<(), MapError> {
        let now = self.heap.end.next_multiple_of(PAGE_SIZE);
        let new = wanted.next_multiple_of(PAGE_SIZE);
        if new < now {
            self.unmap(mm, new, now - new)
        } else if new > now {
            let attributes = Attributes { name: "[heap]", ..Attributes::anonymous(Protection::READ_WRITE) };
            self.map(mm, Placement::AtFree(now), new - now, attributes).map(drop)
        } else {
            Ok(())
        }
    }

    /// Makes the empty `child` a copy of this address space: private pages are copied when either
    /// side writes, shared ones stay shared. The `busy` page is copied at once: both sides are about to write to it, and
    /// nobody else is.
    ///
    /// # Errors
    /// If there is no memory. The child is then incomplete and fit only to be dropped.
    pub fn fork_into(&mut self, mm: &Mm<M>, child: &mut Self, busy: Option<Page>) -> Result<(), OutOfMemory> {
        debug_assert!(child.regions.iter().next().is_none(), "fork into an address space in use");
        child.regions = self.regions.duplicate()?;
        child.heap = self.heap.clone();
        // Flushed also on an error, and before anybody runs: a thread of ours that still wrote through a
        // cached entry would write into the child's memory.
        let shared = Stale::flushed(mm, |stale| self.tables.share(&self.regions, &child.tables, busy, stale));
        M::run(Sequence::PublishEntries, 0);
        shared
    }

    /// Writes bytes as the program could, for those who prepare its memory before it runs.
    ///
    /// # Errors
    /// As for a write by the program.
    pub fn write_bytes(&mut self, mm: &Mm<M>, address: u64, bytes: &[u8]) -> Result<(), FaultError> {
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = Page::containing(at).ok_or(FaultError::Unmapped)?;
            let frame = self.fault_in(mm, page, Access::Write)?;
            let offset = (at % PAGE_SIZE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE as usize - offset));
            M::store_bytes(frame, offset, now);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Unmaps everything, for the last user. The lock is not held while frames are freed, so that
    /// a large address space does not keep its CPU from others for long.
    pub(crate) fn tear_down(mm: &Mm<M>) {
        let mut space = mm.space();
        // A dead `Mm` may wait for long, and keeps a page and its struct: not a list that a program made long.
        let regions = mem::take(&mut space.regions);
        let stale = space.tables.unlink_all();
        drop(space);
        drop(regions);
        stale.flush_dying(mm);
    }

    /// Unmaps a range. Room for one more region was reserved.
    fn remove(&mut self, mm: &Mm<M>, pages: PageRange) {
        if self.regions.is_free(&pages) {
            return;
        }
        self.regions.remove(&pages);
        let hole = self.regions.hole_around(&pages);
        self.tables.clear(mm, pages, &hole);
    }

    fn populate(&self, region: &Region) -> Result<(), OutOfMemory> {
        for page in each(region.pages.clone()) {
            let leaf = self.tables.leaf_or_create(page)?;
            crate::fault::provide_untouched::<M>(region, page, &leaf)?;
        }
        Ok(())
    }

    fn place(&self, placement: Placement, length: u64) -> Result<PageRange, MapError> {
        let count = length.div_ceil(PAGE_SIZE);
        if count == 0 {
            return Err(MapError::Invalid);
        }
        if count > Page::END.number() {
            return Err(MapError::OutOfMemory);
        }
        let fixed = |address: u64| match page_range(address, length)? {
            _ if address < LOWEST => Err(MapError::TooLow),
            pages => Ok(pages),
        };
        match placement {
            Placement::At(address) => fixed(address),
            Placement::AtFree(address) => fixed(address)
                .and_then(|pages| if self.regions.is_free(&pages) { Ok(pages) } else { Err(MapError::Occupied) }),
            Placement::Near(address) => match fixed(address / PAGE_SIZE * PAGE_SIZE) {
                Ok(pages) if self.regions.is_free(&pages) => Ok(pages),
                _ => self.place(Placement::Anywhere, length),
            },
            Placement::Anywhere => {
                let area = Page::from_number(LOWEST / PAGE_SIZE)..Page::from_number(CEILING / PAGE_SIZE);
                let start = self.regions.find_gap(count, &area).ok_or(MapError::OutOfMemory)?;
                Ok(start..start.offset(count))
            }
        }
    }

    fn mapped_range(&self, address: u64, length: u64) -> Result<PageRange, MapError> {
        if length == 0 && address.is_multiple_of(PAGE_SIZE) {
            return Ok(Page::END..Page::END);
        }
        let pages = page_range(address, length)?;
        if self.regions.covers(&pages) { Ok(pages) } else { Err(MapError::Unmapped) }
    }
}

/// The pages of a range that begins at a page and is not empty.
fn page_range(address: u64, length: u64) -> Result<PageRange, MapError> {
    if length == 0 || !address.is_multiple_of(PAGE_SIZE) {
        return Err(MapError::Invalid);
    }
    let start = Page::containing(address).ok_or(MapError::Beyond)?;
    let end = address.checked_add(length).filter(|&end| end <= USER_END).ok_or(MapError::Beyond)?;
    Ok(start..Page::from_number(end.div_ceil(PAGE_SIZE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// While a lazy CPU has it loaded, a dead `Mm` costs a page and a struct.
    #[test]
    fn a_list_of_regions_goes_with_the_last_user() {
        Fake::start(20);
        let user = Mm::<Fake>::create().unwrap();
        let reference = user.grab_ref();
        let mut space = user.space();
        for index in 0..100 {
            let place = Placement::At(LOWEST + 2 * index * PAGE_SIZE);
            space.map(&user, place, PAGE_SIZE, Attributes::anonymous(Protection::READ)).unwrap();
        }
        drop(space);
        assert!(reference.space().regions.capacity() >= 100);
        user.put();
        assert_eq!(reference.space().regions.capacity(), 0);
    }
}
