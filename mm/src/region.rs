//! Regions: which user pages are mapped, with what rights, and what is behind them.

use alloc::vec::Vec;
use core::cell::Cell;

use crate::addr::{PAGE_SIZE, Page, PageRange};
use crate::pte::Protection;

/// The most regions one address space may have (Linux: `vm.max_map_count`).
pub const MOST_REGIONS: usize = 65_530;

/// Room for as many is made for the first region: a program has a dozen.
const USUAL_REGIONS: usize = 16;

/// No memory, or no room in a table of fixed size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// What a page holds before it is first written.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// Zeroes.
    Anonymous,
    /// The bytes of a file; zeroes after its end.
    Image {
        /// The file's contents.
        bytes: &'static [u8],
        /// Where in the file the region's first page begins.
        offset: usize,
    },
}

impl Backing {
    /// The backing of the part that begins `pages` further up.
    fn advanced(self, pages: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::Image { bytes, offset } => {
                Self::Image { bytes, offset: offset.saturating_add((pages * PAGE_SIZE) as usize) }
            }
        }
    }

    fn same_as(self, other: Self) -> bool {
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (Self::Image { bytes, offset }, Self::Image { bytes: others, offset: other }) => {
                core::ptr::eq(bytes, others) && offset == other
            }
            _ => false,
        }
    }
}

/// Who sees a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// This address space; a fork copies on the next write.
    Private,
    /// Also those who forked from it.
    Shared,
}

/// Everything about a region but its place.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// What the program may do.
    pub protection: Protection,
    /// What is behind it.
    pub backing: Backing,
    /// Who sees a write.
    pub sharing: Sharing,
    /// What it is called in `/proc/self/maps`; may be empty.
    pub name: &'static str,
}

impl Attributes {
    /// Private zero-filled memory without a name.
    pub const fn anonymous(protection: Protection) -> Self {
        Self { protection, backing: Backing::Anonymous, sharing: Sharing::Private, name: "" }
    }

    fn continued_by(&self, pages: u64, next: &Self) -> bool {
        self.protection == next.protection
            && self.sharing == next.sharing
            && self.name == next.name
            && self.backing.advanced(pages).same_as(next.backing)
    }
}

/// A run of pages that are alike.
#[derive(Clone, Debug)]
pub struct Region {
    /// Where.
    pub pages: PageRange,
    /// What.
    pub attributes: Attributes,
}

impl Region {
    /// How many pages.
    pub fn len(&self) -> u64 {
        length(&self.pages)
    }

    /// Whether it has no page; no region in [`Regions`] is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `next` goes on where this one ends, and is alike.
    fn is_continued_by(&self, next: &Self) -> bool {
        self.pages.end == next.pages.start && self.attributes.continued_by(self.len(), &next.attributes)
    }

    /// The part from this page on, which lies in the region.
    fn from(&self, page: Page) -> Self {
        let backing = self.attributes.backing.advanced(page.number() - self.pages.start.number());
        Self { pages: page..self.pages.end, attributes: Attributes { backing, ..self.attributes } }
    }

    /// The bytes of the image that belong in these pages of the region: fewer at the image's end, none for anonymous
    /// memory.
    pub fn image_of(&self, pages: &PageRange) -> &'static [u8] {
        match self.attributes.backing.advanced(pages.start.number() - self.pages.start.number()) {
            Backing::Anonymous => &[],
            Backing::Image { bytes, offset } => {
                let rest = bytes.get(offset..).unwrap_or(&[]);
                &rest[..rest.len().min((length(pages) * PAGE_SIZE) as usize)]
            }
        }
    }
}

/// How many pages a range has.
pub fn length(pages: &PageRange) -> u64 {
    pages.end.number().saturating_sub(pages.start.number())
}

/// The regions of one address space: sorted, never overlapping, never empty.
///
/// A sorted array, because a program has a dozen regions and each fault looks one up.
#[derive(Default)]
pub struct Regions {
    list: Vec<Region>,
    /// What the last search found: what a program uses next is mostly near what it used last, and a system call
    /// searches for the same place more than once.
    recent: Cell<usize>,
}

impl Regions {
    /// No regions.
    pub const fn new() -> Self {
        Self { list: Vec::new(), recent: Cell::new(0) }
    }

    /// All regions, lowest first.
    pub fn iter(&self) -> core::slice::Iter<'_, Region> {
        self.list.iter()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.list.capacity()
    }

    /// The region that holds this page.
    pub fn find(&self, page: Page) -> Option<&Region> {
        self.list.get(self.first_ending_after(page)).filter(|region| region.pages.start <= page)
    }

    /// The regions that have pages in this range, lowest first.
    pub fn overlapping(&self, pages: &PageRange) -> impl Iterator<Item = &Region> {
        let end = pages.end;
        self.list[self.first_ending_after(pages.start)..].iter().take_while(move |region| region.pages.start < end)
    }

    /// Whether no page of the range is mapped.
    pub fn is_free(&self, pages: &PageRange) -> bool {
        self.list.get(self.first_ending_after(pages.start)).is_none_or(|next| pages.end <= next.pages.start)
    }

    /// Whether every page of the range is mapped.
    pub fn covers(&self, pages: &PageRange) -> bool {
        let mut reached = pages.start;
        for region in &self.list[self.first_ending_after(pages.start)..] {
            if reached >= pages.end || region.pages.start > reached {
                break;
            }
            reached = region.pages.end;
        }
        reached >= pages.end
    }

    /// The range and the free pages on both its sides. The range itself is free.
    pub fn hole_around(&self, pages: &PageRange) -> PageRange {
        let next = self.first_ending_after(pages.start);
        let start = next.checked_sub(1).map_or(Page::from_number(0), |before| self.list[before].pages.end);
        start..self.list.get(next).map_or(Page::END, |region| region.pages.start)
    }

    /// The start of the highest run of `count` free pages within `area`.
    pub fn find_gap(&self, count: u64, area: &PageRange) -> Option<Page> {
        let mut end = area.end.number();
        // Hardly anything lies above the area.
        for region in self.list.iter().rev().filter(|region| region.pages.start < area.end) {
            if end.saturating_sub(region.pages.end.number()) >= count {
                break;
            }
            end = region.pages.start.number();
        }
        let start = end.checked_sub(count)?;
        (start >= area.start.number()).then(|| Page::from_number(start))
    }

    /// Makes room so that the changes of one system call cannot fail. A mapping that replaces
    /// another and is then given up adds the most.
    ///
    /// # Errors
    /// If there is no memory, or if there are too many regions.
    pub fn reserve(&mut self) -> Result<(), OutOfMemory> {
        const MOST_ADDED: usize = 3;
        if self.list.len() + MOST_ADDED > MOST_REGIONS {
            return Err(OutOfMemory);
        }
        let more = MOST_ADDED.max(USUAL_REGIONS.saturating_sub(self.list.len()));
        self.list.try_reserve(more).map_err(|_| OutOfMemory)
    }

    /// Adds a region where nothing is mapped, joined with its neighbours if they are alike.
    pub fn insert(&mut self, region: Region) {
        debug_assert!(!region.is_empty() && self.is_free(&region.pages), "{region:?} is empty or overlaps");
        let index = self.first_ending_after(region.pages.start);
        let below = index.checked_sub(1).filter(|&below| self.list[below].is_continued_by(&region));
        let above = self.list.get(index).filter(|above| region.is_continued_by(above)).map(|above| above.pages.end);
        match (below, above) {
            (Some(below), Some(end)) => {
                self.list[below].pages.end = end;
                self.list.remove(index);
            }
            (Some(below), None) => self.list[below].pages.end = region.pages.end,
            (None, Some(end)) => self.list[index] = Region { pages: region.pages.start..end, ..region },
            (None, None) => self.list.insert(index, region),
        }
    }

    /// Cuts the range out.
    pub fn remove(&mut self, pages: &PageRange) {
        let mut first = self.first_ending_after(pages.start);
        let mut above = None;
        if let Some(region) = self.list.get_mut(first).filter(|region| region.pages.start < pages.start) {
            above = (pages.end < region.pages.end).then(|| region.from(pages.end));
            region.pages.end = pages.start;
            first += 1;
        }
        self.recent.set(first);
        if let Some(above) = above {
            return self.list.insert(first, above);
        }
        let end = self.first_ending_behind(pages.end, first);
        if first < end {
            self.list.drain(first..end);
        }
        if let Some(region) = self.list.get_mut(first).filter(|region| region.pages.start < pages.end) {
            *region = region.from(pages.end);
        }
    }

    /// Gives every region in the range these rights.
    pub fn protect(&mut self, pages: &PageRange, protection: Protection) {
        let (first, end) = self.isolate(pages);
        for region in &mut self.list[first..end] {
            region.attributes.protection = protection;
        }
        self.merge(first, end);
    }

    /// A copy for a fork.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn duplicate(&self) -> Result<Self, OutOfMemory> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(self.list.len()).map_err(|_| OutOfMemory)?;
        copy.extend_from_slice(&self.list);
        Ok(Self { list: copy, recent: self.recent.clone() })
    }

    /// The index of the first region that reaches beyond this page.
    fn first_ending_after(&self, page: Page) -> usize {
        let ends_before = |region: &Region| region.pages.end <= page;
        let recent = self.recent.get();
        if let Some((below, rest)) = self.list.split_at_checked(recent)
            && below.last().is_none_or(ends_before)
            && !rest.first().is_some_and(ends_before)
        {
            return recent;
        }
        let found = self.list.partition_point(ends_before);
        self.recent.set(found);
        found
    }

    /// The same of a page near the region at `from`, which no region before that one reaches.
    fn first_ending_behind(&self, page: Page, from: usize) -> usize {
        from + self.list[from..].iter().take_while(|region| region.pages.end <= page).count()
    }

    /// Splits regions so that each lies either inside the range or outside it; gives the indices of
    /// those inside.
    fn isolate(&mut self, pages: &PageRange) -> (usize, usize) {
        let first = self.first_ending_after(pages.start);
        let first = self.split_at(first, pages.start);
        let end = self.first_ending_behind(pages.end, first);
        (first, self.split_at(end, pages.end))
    }

    /// Splits the region with this index, the first that reaches beyond the page, if it begins before it; gives the
    /// index of the first region from this page on.
    fn split_at(&mut self, index: usize, page: Page) -> usize {
        let Some(region) = self.list.get_mut(index).filter(|region| region.pages.start < page) else { return index };
        let upper = region.from(page);
        region.pages.end = page;
        self.list.insert(index + 1, upper);
        index + 1
    }

    /// Joins neighbours that are alike, from the one before `first` to the one at `end`.
    fn merge(&mut self, first: usize, end: usize) {
        let last = end.min(self.list.len().saturating_sub(1));
        for index in (first.max(1)..=last).rev() {
            let [lower, upper] = &mut self.list[index - 1..=index] else { continue };
            if lower.is_continued_by(upper) {
                lower.pages.end = upper.pages.end;
                self.list.remove(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn pages(range: core::ops::Range<u64>) -> PageRange {
        Page::from_number(range.start)..Page::from_number(range.end)
    }

    fn anonymous(range: core::ops::Range<u64>, protection: Protection) -> Region {
        Region { pages: pages(range), attributes: Attributes::anonymous(protection) }
    }

    fn layout(regions: &Regions) -> Vec<(u64, u64, bool)> {
        let of = |r: &Region| (r.pages.start.number(), r.pages.end.number(), r.attributes.protection.write);
        regions.iter().map(of).collect()
    }

    fn with<const N: usize>(ranges: [(u64, u64); N]) -> Regions {
        let mut regions = Regions::new();
        ranges.iter().for_each(|&(start, end)| regions.insert(anonymous(start..end, Protection::READ_WRITE)));
        regions
    }

    #[test]
    fn neighbours_that_are_alike_become_one() {
        let mut regions = with([(10, 12), (14, 16), (12, 14)]);
        assert_eq!(layout(&regions), [(10, 16, true)]);
        regions.insert(anonymous(16..17, Protection::READ));
        assert_eq!(layout(&regions), [(10, 16, true), (16, 17, false)]);
    }

    #[test]
    fn a_range_meets_the_regions_that_share_a_page_with_it() {
        let regions = with([(10, 12), (14, 16), (20, 22)]);
        let met = |range| {
            let range = pages(range);
            regions.overlapping(&range).map(|region| region.pages.start.number()).collect::<Vec<_>>()
        };
        assert_eq!(met(11..15), [10, 14]);
        assert_eq!(met(11..20), [10, 14]);
        assert_eq!((met(12..14), met(0..10), met(0..100)), (vec![], vec![], vec![10, 14, 20]));
        assert!(anonymous(5..5, Protection::READ).is_empty() && !anonymous(5..6, Protection::READ).is_empty());
    }

    #[test]
    fn removal_cuts_through_the_middle() {
        let mut regions = with([(10, 20), (30, 40)]);
        regions.remove(&pages(12..35));
        assert_eq!(layout(&regions), [(10, 12, true), (35, 40, true)]);
        regions.remove(&pages(36..37));
        assert_eq!(layout(&regions), [(10, 12, true), (35, 36, true), (37, 40, true)]);
    }

    #[test]
    fn removal_cuts_ends_off() {
        let mut regions = with([(10, 20), (30, 40), (50, 60)]);
        regions.remove(&pages(15..20));
        regions.remove(&pages(30..35));
        assert_eq!(layout(&regions), [(10, 15, true), (35, 40, true), (50, 60, true)]);
        regions.remove(&pages(12..60));
        assert_eq!(layout(&regions), [(10, 12, true)]);
        regions.remove(&pages(10..12));
        assert_eq!(layout(&regions), []);
    }

    #[test]
    fn a_search_finds_the_same_wherever_the_last_one_ended() {
        let regions = with([(10, 20), (20, 22), (30, 40)]);
        for (recent, page) in (0..6).flat_map(|recent| (0..50).map(move |page| (recent, page))) {
            regions.recent.set(recent);
            let expected = regions.iter().position(|region| page < region.pages.end.number()).unwrap_or(2);
            assert_eq!(regions.first_ending_after(Page::from_number(page)), expected, "page {page} from {recent}");
        }
    }

    #[test]
    fn protection_splits_and_joins_again() {
        let mut regions = with([(10, 20)]);
        regions.protect(&pages(12..14), Protection::READ);
        assert_eq!(layout(&regions), [(10, 12, true), (12, 14, false), (14, 20, true)]);
        regions.protect(&pages(12..14), Protection::READ_WRITE);
        assert_eq!(layout(&regions), [(10, 20, true)]);
    }

    #[test]
    fn an_image_keeps_its_place_through_a_split() {
        static BYTES: [u8; 10_000] = [7; 10_000];
        let backing = Backing::Image { bytes: &BYTES, offset: 4096 };
        let attributes = Attributes { backing, ..Attributes::anonymous(Protection::READ) };
        let mut regions = Regions::new();
        regions.insert(Region { pages: pages(10..13), attributes });
        regions.remove(&pages(10..11));
        let rest = regions.find(Page::from_number(11)).unwrap();
        assert!(core::ptr::eq(rest.image_of(&pages(11..12)), &BYTES[8192..]), "the file ends in this page");
        assert!(core::ptr::eq(rest.image_of(&pages(11..13)), &BYTES[8192..]), "and the next has nothing of it");
        assert_eq!(rest.image_of(&pages(12..13)), &[] as &[u8], "past the end of the file");
        regions.insert(Region { pages: pages(10..11), attributes });
        assert_eq!(layout(&regions), [(10, 13, false)], "the cut piece fits back");
    }

    #[test]
    fn different_places_of_an_image_do_not_join() {
        static BYTES: [u8; 8192] = [7; 8192];
        let attributes = |offset| Attributes {
            backing: Backing::Image { bytes: &BYTES, offset },
            ..Attributes::anonymous(Protection::READ)
        };
        let mut regions = Regions::new();
        regions.insert(Region { pages: pages(1..2), attributes: attributes(0) });
        regions.insert(Region { pages: pages(2..3), attributes: attributes(0) });
        assert_eq!(regions.iter().count(), 2);
    }

    #[test]
    fn gaps_are_taken_from_the_top() {
        let regions = with([(10, 20), (30, 40)]);
        let gap = |count, area| regions.find_gap(count, &pages(area)).map(Page::number);
        assert_eq!(gap(10, 5..50), Some(40));
        assert_eq!(gap(10, 5..49), Some(20));
        assert_eq!(gap(11, 5..45), None);
        assert_eq!(gap(5, 5..35), Some(25), "the area ends inside a region");
        assert_eq!(gap(5, 5..30), Some(25));
        assert_eq!(gap(6, 15..20), None);
    }

    #[test]
    fn holes_and_coverage() {
        let regions = with([(10, 20), (30, 40)]);
        assert_eq!(regions.hole_around(&pages(22..24)), pages(20..30));
        assert_eq!(regions.hole_around(&pages(2..4)), pages(0..10));
        assert_eq!(regions.hole_around(&pages(50..51)).end, Page::END);
        assert!(regions.covers(&pages(12..20)) && !regions.covers(&pages(12..21)));
        assert!(!regions.covers(&pages(15..35)) && !regions.covers(&pages(9..11)));
        assert!(regions.is_free(&pages(20..30)) && !regions.is_free(&pages(19..30)));
    }

    #[test]
    fn there_is_a_limit() {
        let mut regions =
            Regions { list: vec![anonymous(1..2, Protection::READ); MOST_REGIONS - 3], recent: Cell::new(0) };
        assert_eq!(regions.reserve(), Ok(()));
        regions.list.push(anonymous(1..2, Protection::READ));
        assert_eq!(regions.reserve(), Err(OutOfMemory));
    }
}
