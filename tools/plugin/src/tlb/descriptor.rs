//! Translation tables as a walker reads them: VMSAv8-64, 4 KiB granule (Arm ARM D8.3).

/// Physical memory, to read descriptors from.
pub(crate) trait Memory {
    /// The aligned eight bytes at a physical address, if there is memory.
    fn read(&self, address: u64) -> Option<u64>;
}

/// The level whose descriptors name pages.
const LAST_LEVEL: u8 = 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const PRIVILEGED_NEVER: u64 = 1 << 53;
const USER_NEVER: u64 = 1 << 54;
/// AttrIndx and SH: what kind of memory it is.
const KIND: u64 = 0b111 << 2 | 0b11 << 8;

/// The root table that a TTBR value names.
pub(crate) fn root(ttbr: u64) -> u64 {
    ttbr & ADDRESS
}

/// A descriptor and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Its physical address.
    pub(crate) place: u64,
    pub(crate) level: u8,
    pub(crate) bits: u64,
}

impl Step {
    /// The bytes of address space that a descriptor of its level is for.
    pub(crate) fn size(self) -> u64 {
        size(self.level)
    }

    /// Whether it names the table of the next level.
    pub(crate) fn is_table(self) -> bool {
        self.level < LAST_LEVEL && self.bits & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    /// Whether it names a page or a block that a TLB may hold: valid, and its access flag set.
    pub(crate) fn is_leaf(self) -> bool {
        let kind = if self.level == LAST_LEVEL { VALID | TABLE_OR_PAGE } else { VALID };
        self.bits & (VALID | TABLE_OR_PAGE) == kind && self.level > 0 && self.bits & ACCESSED != 0
    }

    /// Whether an entry made of it is good for every ASID.
    pub(crate) fn is_global(self) -> bool {
        self.bits & NOT_GLOBAL == 0
    }

    /// The table, page or block it names.
    pub(crate) fn output(self) -> u64 {
        if self.is_table() { self.bits & ADDRESS } else { self.bits & ADDRESS & !(self.size() - 1) }
    }

    /// Where it sends an address.
    pub(crate) fn translate(self, va: u64) -> u64 {
        self.output() | va & (self.size() - 1)
    }

    /// What a TLB that still holds `self` gets wrong, now that `new` stands there; None if nothing that matters: rights
    /// that were added only make a CPU fault once too often, and software's bits and the access flag are not looked at.
    pub(crate) fn harm(self, new: Self) -> Option<Harm> {
        let lost = |bit: u64, given: u64| self.bits & bit == given && new.bits & bit != given;
        match () {
            () if new.bits & VALID == 0 => Some(Harm::Unmapped),
            () if self.is_table() != new.is_table() || self.output() != new.output() => Some(Harm::Moved),
            () if self.is_table() => None,
            () if (self.bits ^ new.bits) & (KIND | NOT_GLOBAL) != 0 => Some(Harm::OtherKind),
            () if lost(READ_ONLY, 0) => Some(Harm::NoWrite),
            () if lost(USER, USER) => Some(Harm::NoUser),
            () if lost(USER_NEVER, 0) || lost(PRIVILEGED_NEVER, 0) => Some(Harm::NoExecute),
            () => None,
        }
    }

    /// `rwx` as far as EL0 may, or EL1 where EL0 may nothing.
    pub(crate) fn rights(self) -> String {
        let (who, never) = if self.bits & USER != 0 { ("user", USER_NEVER) } else { ("kernel", PRIVILEGED_NEVER) };
        let write = if self.bits & READ_ONLY == 0 { 'w' } else { '-' };
        let execute = if self.bits & never == 0 { 'x' } else { '-' };
        format!("{who} r{write}{execute}")
    }
}

/// Bytes of address space of one descriptor of a level.
pub(crate) fn size(level: u8) -> u64 {
    4096 << (9 * (LAST_LEVEL - level))
}

/// In what a cached translation is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Harm {
    /// The tables have nothing there.
    Unmapped,
    /// They have another page or table there.
    Moved,
    /// Another memory type, shareability or globality.
    OtherKind,
    /// Writing is not allowed any more.
    NoWrite,
    /// EL0 is not allowed any more.
    NoUser,
    /// Executing is not allowed any more.
    NoExecute,
}

impl Harm {
    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unmapped => "the tables have nothing there any more",
            Self::Moved => "the tables lead elsewhere",
            Self::OtherKind => "the tables say another memory type, shareability or nG",
            Self::NoWrite => "the tables do not allow writing any more",
            Self::NoUser => "the tables do not allow EL0 any more",
            Self::NoExecute => "the tables do not allow executing any more",
        }
    }
}

/// What a walk came upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Walk {
    /// The tables on the way, and the page or block.
    Found(Vec<Step>, Step),
    /// Nothing that an access could use.
    Fault,
}

/// Walks the tables below `root` for an address. `address_bits` is 64 less TxSZ.
pub(crate) fn walk(memory: &dyn Memory, root: u64, address_bits: u32, va: u64) -> Walk {
    let first = match address_bits {
        40.. => 0,
        31..40 => 1,
        _ => 2,
    };
    let mut table = root;
    let mut way = Vec::with_capacity(4);
    for level in first..=LAST_LEVEL {
        let place = table + (va / size(level) % 512) * 8;
        let Some(bits) = memory.read(place) else {
            return Walk::Fault;
        };
        let step = Step { place, level, bits };
        if step.is_leaf() {
            return Walk::Found(way, step);
        }
        if !step.is_table() {
            return Walk::Fault;
        }
        table = step.output();
        way.push(step);
    }
    Walk::Fault
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of EL0's, read-write, not executable, nG, accessed, at 0x5000.
    const PAGE: u64 = 0x5000 | 1 << 53 | 1 << 54 | 1 << 11 | 1 << 10 | 0b11 << 8 | 1 << 6 | 0b11;

    fn page(bits: u64) -> Step {
        Step { place: 0x8000, level: 3, bits }
    }

    #[test]
    fn a_tlb_is_wrong_only_where_it_gives_more_than_the_tables() {
        let harm = |new: u64| page(PAGE).harm(page(new));
        assert_eq!(harm(PAGE), None);
        assert_eq!(harm(0), Some(Harm::Unmapped));
        assert_eq!(harm(PAGE & !1), Some(Harm::Unmapped), "PROT_NONE keeps the rest");
        assert_eq!(harm(PAGE ^ 0x3000), Some(Harm::Moved));
        assert_eq!(harm(PAGE | 1 << 7), Some(Harm::NoWrite));
        assert_eq!(harm(PAGE & !(1 << 6)), Some(Harm::NoUser));
        assert_eq!(harm(PAGE & !(1 << 54)), None, "more may be executed");
        assert_eq!(harm(PAGE | 1 << 55), None, "software's bit");
        assert_eq!(harm(PAGE & !(1 << 10)), None, "the access flag");
        assert_eq!(harm(PAGE | 1 << 2), Some(Harm::OtherKind));
        assert_eq!(page(PAGE & !(1 << 54)).harm(page(PAGE)), Some(Harm::NoExecute));
        assert_eq!(page(PAGE | 1 << 7).harm(page(PAGE)), None, "writing was added");
    }

    #[test]
    fn pages_blocks_and_tables_differ() {
        let step = |level, bits| Step { place: 0, level, bits };
        assert!(step(3, PAGE).is_leaf() && !step(3, PAGE).is_table());
        assert!(!step(3, PAGE & !(1 << 10)).is_leaf(), "no TLB holds what was never accessed");
        assert!(step(2, PAGE & !2).is_leaf() && !step(2, PAGE).is_leaf());
        assert!(step(2, 0x5003).is_table() && !step(2, 0x5001).is_table());
        assert!(!step(0, PAGE & !2).is_leaf(), "level 0 has no blocks");
        assert_eq!(step(2, 0x40_0401).translate(0x1234_5678), 0x54_5678 & 0x1f_ffff | 0x40_0000);
        assert_eq!(step(3, PAGE).rights(), "user rw-");
    }

    #[test]
    fn a_walk_follows_four_levels() {
        struct Four;
        impl Memory for Four {
            fn read(&self, address: u64) -> Option<u64> {
                match address {
                    0x1008 => Some(0x2003),
                    0x2010 => Some(0x3003),
                    0x3018 => Some(0x4003),
                    0x4020 => Some(PAGE),
                    0x4028 => Some(0x9_0000_0003),
                    0x1010 => Some(0x9_0000_0003),
                    0x9_0000_0000.. => None,
                    _ => Some(0),
                }
            }
        }
        let va = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x567;
        let Walk::Found(way, leaf) = walk(&Four, 0x1000, 48, va) else { panic!("nothing found") };
        assert_eq!(way.iter().map(|step| step.place).collect::<Vec<_>>(), [0x1008, 0x2010, 0x3018]);
        assert_eq!((leaf.place, leaf.translate(va)), (0x4020, 0x5567));
        assert_eq!(walk(&Four, 0x1000, 48, 0x1000), Walk::Fault);
        assert_eq!(walk(&Four, 0x1000, 48, 2 << 39), Walk::Fault, "a table outside the memory");
        let Walk::Found(way, _) = walk(&Four, 0x2000, 39, va) else { panic!("nothing found") };
        assert_eq!(way.len(), 2);
    }
}
