//! Translation tables: 512 descriptors of 8 bytes, for the 4 KiB granule.
//!
//! Bit positions are those of the VMSAv8-64 stage 1 descriptors of the EL1&0 regime (Arm ARM
//! D8.3). A [`Descriptor`] is a plain value; an [`Entry`] is the place in memory that table walkers
//! read at any time.

use core::fmt;

use crate::addr::{Frame, PAGE_SIZE};
use crate::sync::{Ordering, PlainU64};

/// Descriptors in a table.
pub const ENTRIES: usize = 512;
/// The level of a root table. Level 3 tables, the leaves, hold page descriptors.
pub const ROOT_LEVEL: u8 = 0;
/// The level whose descriptors name pages.
pub const LEAF_LEVEL: u8 = 3;

/// What a user program may do with a page.
///
/// The architecture has no page that user code may write or execute but not read (execute-only
/// would need EPAN to stay closed to EL1), so writing and executing imply reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Protection {
    /// Loads are allowed.
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Instruction fetches are allowed.
    pub execute: bool,
}

impl Protection {
    /// No access at all: `PROT_NONE`.
    pub const NONE: Self = Self { read: false, write: false, execute: false };
    /// Loads only.
    pub const READ: Self = Self { read: true, ..Self::NONE };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self { write: true, ..Self::READ };
    /// Loads and instruction fetches.
    pub const READ_EXECUTE: Self = Self { execute: true, ..Self::READ };

    /// Whether nothing is allowed.
    pub const fn is_none(self) -> bool {
        !self.read && !self.write && !self.execute
    }

    /// Whether this kind of access is allowed.
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => !self.is_none(),
            Access::Write => self.write,
            Access::Execute => self.execute,
        }
    }
}

/// One kind of access to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// The value of one translation-table descriptor.
///
/// Three kinds occur: empty (all zero), a table, and a page. A page descriptor whose valid bit is
/// clear is *parked*: the frame stays where it is while `PROT_NONE` forbids every access. Hardware
/// ignores all other bits of an invalid descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(u64);

impl Descriptor {
    /// Nothing here: a walk ends in a translation fault.
    pub const EMPTY: Self = Self(0);

    const VALID: u64 = 1;
    /// With [`Self::VALID`]: a table (levels 0 to 2) or a page (level 3), not a block.
    const TABLE_OR_PAGE: u64 = 1 << 1;
    /// AP\[1\]: EL0 has access.
    const USER: u64 = 1 << 6;
    /// AP\[2\]: nobody may write.
    const READ_ONLY: u64 = 1 << 7;
    /// SH = 0b11, Inner Shareable. AttrIndx (bits 4:2) = 0 is normal memory in our MAIR.
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    /// The access flag: somebody has used the page. While it is clear an access faults, and no TLB
    /// holds the entry (Arm ARM D8.4.6).
    const ACCESSED: u64 = 1 << 10;
    /// nG: the entry belongs to one ASID.
    const NOT_GLOBAL: u64 = 1 << 11;
    /// The kernel never executes user memory.
    const PRIVILEGED_NEVER: u64 = 1 << 53;
    /// UXN: EL0 never executes it.
    const USER_NEVER: u64 = 1 << 54;
    /// The first of the four bits (58:55) left to software: the frame may have other owners.
    const COPY_ON_WRITE: u64 = 1 << 55;
    /// The second of them: the frame is an image's.
    const LENT: u64 = 1 << 56;

    const PAGE: u64 = Self::TABLE_OR_PAGE
        | Self::USER
        | Self::INNER_SHAREABLE
        | Self::ACCESSED
        | Self::NOT_GLOBAL
        | Self::PRIVILEGED_NEVER;

    /// Points to the table of the next level.
    pub const fn table(frame: Frame) -> Self {
        Self(frame.address().0 | Self::TABLE_OR_PAGE | Self::VALID)
    }

    /// Maps a frame that belongs to this address space alone, or is shared on purpose.
    pub const fn page(frame: Frame, protection: Protection) -> Self {
        Self(frame.address().0 | Self::PAGE).with_protection(protection)
    }

    /// The same of the next frame.
    pub const fn next(self) -> Self {
        Self(self.0 + PAGE_SIZE)
    }

    /// The same page, which nobody has used yet.
    pub const fn as_untouched(self) -> Self {
        Self(self.0 & !Self::ACCESSED)
    }

    /// The same page, which is being used.
    pub const fn as_touched(self) -> Self {
        Self(self.0 | Self::ACCESSED)
    }

    /// The same page with other permissions. A copy-on-write page stays read-only.
    pub const fn with_protection(self, protection: Protection) -> Self {
        let mut bits = self.0 & !(Self::VALID | Self::READ_ONLY | Self::USER_NEVER);
        if !protection.is_none() {
            bits |= Self::VALID;
        }
        if !protection.write || self.is_copy_on_write() {
            bits |= Self::READ_ONLY;
        }
        if !protection.execute {
            bits |= Self::USER_NEVER;
        }
        Self(bits)
    }

    /// The same page, read-only until a write makes a copy.
    pub const fn as_copy_on_write(self) -> Self {
        Self(self.0 | Self::COPY_ON_WRITE | Self::READ_ONLY)
    }

    /// The same page, whose frame an image lends: nobody counts who maps it, and a write makes a copy.
    pub const fn as_lent(self) -> Self {
        Self(self.as_copy_on_write().0 | Self::LENT)
    }

    /// The same page, now without other owners, under the permissions of its region.
    pub const fn as_exclusive(self, protection: Protection) -> Self {
        Self(self.0 & !Self::COPY_ON_WRITE).with_protection(protection)
    }

    /// Whether a table walk goes on through it or ends in a page.
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether the page was never used: its first access faults.
    pub const fn is_untouched(self) -> bool {
        self.0 & Self::ACCESSED == 0
    }

    /// Whether a TLB may hold this page descriptor: it is valid, and its access flag is set.
    pub const fn may_be_cached(self) -> bool {
        self.is_valid() && !self.is_untouched()
    }

    /// Whether nothing at all is here, not even a parked page.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the page's frame may have other owners, so that a write must copy it.
    pub const fn is_copy_on_write(self) -> bool {
        self.0 & Self::COPY_ON_WRITE != 0
    }

    /// Whether the page's frame is an image's.
    pub const fn is_lent(self) -> bool {
        self.0 & Self::LENT != 0
    }

    /// Whether hardware lets user code access the page in this way.
    pub const fn allows(self, access: Access) -> bool {
        self.may_be_cached()
            && match access {
                Access::Read => true,
                Access::Write => self.0 & Self::READ_ONLY == 0,
                Access::Execute => self.0 & Self::USER_NEVER == 0,
            }
    }

    /// The page or the next table. Empty descriptors have none.
    pub fn frame(self) -> Option<Frame> {
        if self.is_empty() { None } else { Some(Frame::in_entry(self.0)) }
    }

    /// The 64 bits as the table walker reads them.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#018x})", self.0)
    }
}

/// A descriptor in memory. Table walkers of every CPU may read it at any moment.
///
/// All accesses are Relaxed: software reads and writes entries under the lock of the `Mm`, and no
/// Rust ordering reaches the walkers. They are ordered by `Sequence::PublishEntries` and the
/// invalidations that follow it.
#[repr(transparent)]
pub struct Entry(PlainU64);

impl Entry {
    /// What it holds now.
    pub fn get(&self) -> Descriptor {
        // Relaxed: pairs with the lock of the `Mm`, see above.
        Descriptor(self.0.load(Ordering::Relaxed))
    }

    /// Writes a descriptor whose predecessor is of no interest.
    pub fn set(&self, descriptor: Descriptor) {
        // Relaxed: pairs with `Sequence::PublishEntries`, see above.
        self.0.store(descriptor.0, Ordering::Relaxed);
    }

    /// Empties the entry and gives what was in it: clearing decides by the value it removed.
    pub fn take(&self) -> Descriptor {
        // Relaxed: pairs with `Sequence::PublishEntries`, see above.
        Descriptor(self.0.swap(0, Ordering::Relaxed))
    }
}

/// A translation table, or any frame seen as 512 words.
#[repr(C, align(4096))]
pub struct Table([Entry; ENTRIES]);

impl Table {
    /// A table of empty descriptors.
    pub fn new() -> Self {
        Self(core::array::from_fn(|_| Entry(PlainU64::new(0))))
    }

    /// The entry with this index.
    pub fn entry(&self, index: usize) -> &Entry {
        &self.0[index]
    }

    /// All entries, lowest address first.
    pub fn entries(&self) -> &[Entry; ENTRIES] {
        &self.0
    }

    /// Reads one of the frame's 64-bit words, when the frame holds data.
    pub fn word(&self, index: usize) -> u64 {
        self.entry(index).get().0
    }

    /// Writes one of the frame's 64-bit words, when the frame holds data.
    pub fn set_word(&self, index: usize, word: u64) {
        self.entry(index).set(Descriptor(word));
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;

    const FRAME: PhysAddr = PhysAddr(0x0000_0ab1_2345_6000);

    #[test]
    fn what_a_page_is_already_it_stays() {
        let fresh = Descriptor::page(Frame::containing(FRAME), Protection::READ_WRITE).as_untouched();
        let (touched, shared) = (fresh.as_touched(), fresh.as_copy_on_write());
        assert_eq!((touched.as_touched().bits(), shared.as_copy_on_write().bits()), (touched.bits(), shared.bits()));
        assert_eq!(alloc::format!("{:?}", Descriptor::EMPTY), "Descriptor(0x0000000000000000)");
    }

    fn page(protection: Protection) -> u64 {
        Descriptor::page(Frame::containing(FRAME), protection).bits()
    }

    /// The field `high:low` of a descriptor.
    fn field(bits: u64, high: u32, low: u32) -> u64 {
        bits << (63 - high) >> (63 - high + low)
    }

    /// Arm ARM D8.3.1, "VMSAv8-64 descriptor formats", and D8.3.2 for the attributes of pages.
    #[test]
    fn page_fields_stand_where_the_architecture_wants_them() {
        for protection in [Protection::READ, Protection::READ_WRITE, Protection::READ_EXECUTE] {
            let bits = page(protection);
            assert_eq!(field(bits, 1, 0), 0b11, "page descriptor");
            assert_eq!(field(bits, 4, 2), 0, "AttrIndx: normal memory");
            assert_eq!(field(bits, 5, 5), 0, "NS");
            assert_eq!(field(bits, 7, 6), if protection.write { 0b01 } else { 0b11 }, "AP[2:1]");
            assert_eq!(field(bits, 9, 8), 0b11, "SH: Inner Shareable");
            assert_eq!(field(bits, 10, 10), 1, "AF");
            assert_eq!(field(bits, 11, 11), 1, "nG");
            assert_eq!(field(bits, 47, 12) << 12, FRAME.0, "output address");
            assert_eq!(field(bits, 52, 51), 0, "Contiguous, DBM");
            assert_eq!(field(bits, 53, 53), 1, "PXN");
            assert_eq!(field(bits, 54, 54), u64::from(!protection.execute), "UXN");
            assert_eq!(field(bits, 63, 55), 0, "software bits");
        }
    }

    /// Arm ARM D8.3.1: bits 1:0 = 0b11, address in 47:12; the hierarchical controls stay zero.
    #[test]
    fn table_descriptor() {
        let table = Descriptor::table(Frame::containing(FRAME));
        assert_eq!(table.bits(), FRAME.0 | 0b11);
        assert_eq!(table.frame(), Some(Frame::containing(FRAME)));
    }

    #[test]
    fn no_access_means_not_valid_but_keeps_the_frame() {
        let parked =
            Descriptor::page(Frame::containing(FRAME), Protection::READ_WRITE).with_protection(Protection::NONE);
        assert_eq!(field(parked.bits(), 0, 0), 0);
        assert_eq!(parked.frame(), Some(Frame::containing(FRAME)));
        assert!(!parked.is_empty() && !parked.allows(Access::Read));
        assert_eq!(parked.with_protection(Protection::READ).bits(), page(Protection::READ));
    }

    #[test]
    fn an_untouched_page_allows_nothing_and_is_not_cached() {
        let new = Descriptor::page(Frame::containing(FRAME), Protection::READ_WRITE).as_untouched();
        assert_eq!((field(new.bits(), 10, 10), field(new.bits(), 0, 0)), (0, 1), "AF, valid");
        assert!(new.is_valid() && !new.may_be_cached() && !new.allows(Access::Read));
        assert!(new.with_protection(Protection::READ).is_untouched(), "other rights are no use");
        assert_eq!(new.as_touched().bits(), page(Protection::READ_WRITE));
    }

    #[test]
    fn copy_on_write_is_read_only_under_any_permission() {
        let cow = Descriptor::page(Frame::containing(FRAME), Protection::READ_WRITE).as_copy_on_write();
        assert_eq!((field(cow.bits(), 7, 7), field(cow.bits(), 58, 55)), (1, 1), "AP[2], software bits");
        let still = cow.with_protection(Protection::NONE).with_protection(Protection::READ_WRITE);
        assert_eq!(still, cow);
        assert_eq!(still.as_exclusive(Protection::READ_WRITE).bits(), page(Protection::READ_WRITE));
    }

    #[test]
    fn descriptors_allow_what_their_protection_allows() {
        for bits in 0..8 {
            let protection = Protection { read: bits & 4 != 0, write: bits & 2 != 0, execute: bits & 1 != 0 };
            let descriptor = Descriptor::page(Frame::containing(FRAME), protection);
            for access in [Access::Read, Access::Write, Access::Execute] {
                assert_eq!(descriptor.allows(access), protection.allows(access), "{protection:?} {access:?}");
            }
        }
    }

    #[test]
    fn a_table_is_one_aligned_frame() {
        assert_eq!((size_of::<Table>(), align_of::<Table>()), (4096, 4096));
        let table = Table::new();
        table.entry(7).set(Descriptor::table(Frame::containing(FRAME)));
        assert_eq!(table.word(7), FRAME.0 | 0b11);
        assert_eq!(table.entry(7).take().bits(), FRAME.0 | 0b11);
        assert!(table.entries().iter().all(|entry| entry.get().is_empty()));
    }
}
