//! Addresses, frames, pages and CPU numbers as types of their own.

use core::fmt;
use core::ops::Range;

/// log2 of the page size: the 4 KiB granule.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page, a frame and a table.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// One past the last address of the lower (TTBR0) half: 48 bits, `TCR_EL1.T0SZ` = 16.
pub const USER_END: u64 = 1 << 48;

/// A physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PA {:#x}", self.0)
    }
}

/// A 4 KiB frame of physical memory, named by its number (physical address >> 12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u32);

impl Frame {
    /// The frame that holds `address`.
    ///
    /// # Panics
    /// If the address lies beyond 16 TiB, more than any board here has.
    pub fn containing(address: PhysAddr) -> Self {
        Self::from_number((address.0 >> PAGE_SHIFT) as usize)
    }

    /// The frame with this number.
    ///
    /// # Panics
    /// If the number does not fit 32 bits.
    pub fn from_number(number: usize) -> Self {
        Self(u32::try_from(number).expect("frame number beyond 16 TiB"))
    }

    /// The frame that a table entry names in its bits 43:12. It was made of one, so the bits above are clear.
    pub(crate) const fn in_entry(bits: u64) -> Self {
        Self((bits >> PAGE_SHIFT) as u32)
    }

    /// This frame's number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The physical address of the frame's first byte.
    pub const fn address(self) -> PhysAddr {
        PhysAddr((self.0 as u64) << PAGE_SHIFT)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.address().0)
    }
}

/// A user page, named by its number (virtual address >> 12). Always below [`USER_END`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page(u64);

impl Page {
    /// One past the last user page.
    pub const END: Page = Page(USER_END >> PAGE_SHIFT);

    /// The page that holds the user address, or `None` if it lies outside the user half.
    pub const fn containing(address: u64) -> Option<Self> {
        if address < USER_END { Some(Self(address >> PAGE_SHIFT)) } else { None }
    }

    /// The page with this number; clamps to [`Page::END`].
    pub const fn from_number(number: u64) -> Self {
        if number < Self::END.0 { Self(number) } else { Self::END }
    }

    /// This page's number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The virtual address of the page's first byte.
    pub const fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The aligned block of 2^`bits` pages that holds this page. It lies in the user half, which is such a block itself.
    pub(crate) const fn block(self, bits: u32) -> PageRange {
        let start = self.0 >> bits << bits;
        Self(start)..Self(start + (1 << bits))
    }

    /// The page `count` pages further up, clamped to [`Page::END`].
    pub const fn offset(self, count: u64) -> Self {
        Self::from_number(self.0.saturating_add(count))
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x}", self.address())
    }
}

/// A half-open run of user pages.
pub type PageRange = Range<Page>;

/// The pages of a run, lowest first.
pub(crate) fn each(pages: PageRange) -> impl Iterator<Item = Page> {
    (pages.start.0..pages.end.0).map(Page)
}

/// A logical CPU number: 0 is the boot CPU, the others follow in device-tree order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u16);

impl CpuId {
    /// The number as an index into per-CPU arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An address-space identifier as the hardware sees it. 0 is `init_mm`'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(pub u16);

impl Asid {
    /// The reserved identifier of `init_mm`, never given to a user address space.
    pub const INIT: Asid = Asid(0);
}

/// The value of `TTBR0_EL1`: root table and ASID in one word, so that one MSR changes both
/// (`TCR_EL1.A1` = 0; Arm ARM D24.2.170).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ttbr(pub u64);

impl Ttbr {
    /// Joins a root table and an ASID.
    pub const fn new(root: Frame, asid: Asid) -> Self {
        Self((asid.0 as u64) << 48 | root.address().0)
    }

    /// The root table in this value.
    pub const fn root(self) -> Frame {
        Frame(((self.0 & 0x0000_ffff_ffff_f000) >> PAGE_SHIFT) as u32)
    }

    /// The ASID in this value.
    pub const fn asid(self) -> Asid {
        Asid((self.0 >> 48) as u16)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use super::*;

    #[test]
    fn each_kind_of_address_is_printed_as_what_it_is() {
        let frame = Frame::containing(PhysAddr(0x1234_5000));
        let printed = format!("{:?} {:?} {:?}", PhysAddr(0x10), frame, Page::from_number(2));
        assert_eq!(printed, "PA 0x10 frame 0x12345000 page 0x2000");
    }

    /// Arm ARM, TTBR0_EL1: ASID in bits 63:48, BADDR in 47:1.
    #[test]
    fn ttbr_joins_and_splits() {
        let root = Frame::containing(PhysAddr(0x1234_5000));
        let ttbr = Ttbr::new(root, Asid(0xabcd));
        assert_eq!(ttbr.0, 0xabcd_0000_1234_5000);
        assert_eq!((ttbr.root(), ttbr.asid()), (root, Asid(0xabcd)));
    }

    #[test]
    fn pages_end_at_48_bits() {
        assert_eq!(Page::containing(USER_END - 1).map(Page::address), Some(USER_END - PAGE_SIZE));
        assert_eq!(Page::containing(USER_END), None);
        assert_eq!(Page::containing(USER_END - 1).map(|p| p.offset(7)), Some(Page::END));
    }
}
