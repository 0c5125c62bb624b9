//! One CPU's worst TLB: whatever it ever used, until something removes it.

use std::collections::{BTreeMap, HashMap};

use super::descriptor::{Harm, Step, size};
use crate::decode::What;

/// The tag of entries that every ASID hits: not an ASID, which has 16 bits.
pub(crate) const GLOBAL: u32 = 1 << 16;

/// One root table in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RootId(pub(crate) u32);

/// A translation, or a step of a walk, that the CPU may use without looking at the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The first address it is for.
    pub(crate) va: u64,
    /// The descriptor as it was read.
    pub(crate) step: Step,
    /// Whose tables it came from.
    pub(crate) root: RootId,
    pub(crate) state: State,
}

impl Entry {
    pub(crate) fn key(&self) -> Key {
        Key::new(self.va, self.step.level, self.step.is_table())
    }

    /// Whether somebody was promised that it is gone.
    pub(crate) fn is_overdue(&self) -> bool {
        matches!(self.state, State::Stale { overdue: true, .. })
    }
}

/// How an entry compares with the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It is what they say.
    Fresh,
    /// They have changed in a way that does no harm.
    Narrow,
    /// It gives what they do not give.
    Stale {
        harm: Harm,
        /// Somebody was promised that it is gone.
        overdue: bool,
    },
}

/// An entry's place in the order of addresses; a walk's entry for a table is another than a block's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key(u64);

impl Key {
    fn new(va: u64, level: u8, table: bool) -> Self {
        let first = va & !(size(level) - 1);
        Self(first >> 12 << 3 | u64::from(level) << 1 | u64::from(table))
    }
}

/// A TLBI's operand (Arm ARM C5.5), taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    pub(crate) what: What,
    pub(crate) asid: u32,
    /// The first address, and how many bytes.
    pub(crate) va: u64,
    pub(crate) len: u64,
    /// Only leaves of this level, if the TTL field says so.
    level: Option<u8>,
}

impl Scope {
    /// Of an operation and its operand; `asid_mask` is what the CPU uses of an ASID.
    pub(crate) fn new(what: What, operand: u64, asid_mask: u32) -> Self {
        let asid = (operand >> 48) as u32 & asid_mask;
        let (va, len, level) = match what {
            What::All | What::Asid => (0, 0, None),
            What::Page { .. } | What::PageAllAsids { .. } => {
                // VA[55:12] in 43:0, TTL in 47:44: the granule, of which 4 KiB is 01, and the level.
                let ttl = (operand >> 44) as u8 & 15;
                let level = (ttl >> 2 == 1 && ttl & 3 != 0).then_some(ttl & 3);
                (signed(operand << 12, 56), 4096, level)
            }
            What::Range { .. } | What::RangeAllAsids { .. } => {
                // BaseADDR in 36:0, TTL in 38:37, NUM in 43:39, SCALE in 45:44.
                let (num, scale) = (operand >> 39 & 31, operand >> 44 & 3);
                let ttl = (operand >> 37) as u8 & 3;
                (signed(operand << 12, 49), (num + 1) << (5 * scale + 1) << 12, (ttl != 0).then_some(ttl))
            }
        };
        Self { what, asid, va, len, level }
    }

    fn leaf_only(&self) -> bool {
        match self.what {
            What::All | What::Asid => false,
            What::Page { leaf_only }
            | What::PageAllAsids { leaf_only }
            | What::Range { leaf_only }
            | What::RangeAllAsids { leaf_only } => leaf_only,
        }
    }

    fn removes(&self, entry: &Entry) -> bool {
        let overlaps =
            entry.va < self.va.saturating_add(self.len) && self.va < entry.va.saturating_add(entry.step.size());
        let fits = match entry.step.is_table() {
            true => !self.leaf_only(),
            false => self.level.is_none_or(|level| level == entry.step.level),
        };
        overlaps && fits
    }
}

/// The low `bits` of a number as a signed number.
fn signed(number: u64, bits: u32) -> u64 {
    ((number << (64 - bits)) as i64 >> (64 - bits)) as u64
}

/// The entries of one CPU, by tag.
#[derive(Default)]
pub(crate) struct Cache(HashMap<u32, BTreeMap<Key, Entry>>);

impl Cache {
    /// The entry that an access to an address under an ASID would hit.
    pub(crate) fn leaf(&self, asid: u32, va: u64) -> Option<Entry> {
        let one = |tag| (1..=3).find_map(|level| self.get(tag, Key::new(va, level, false)));
        one(asid).or_else(|| one(GLOBAL))
    }

    /// The step of a walk that it would take without reading the table of this level.
    pub(crate) fn table(&self, tag: u32, va: u64, level: u8) -> Option<Entry> {
        self.get(tag, Key::new(va, level, true))
    }

    /// What is cached at a key.
    pub(crate) fn get(&self, tag: u32, key: Key) -> Option<Entry> {
        self.0.get(&tag)?.get(&key).copied()
    }

    /// Caches an entry.
    pub(crate) fn put(&mut self, tag: u32, entry: Entry) {
        self.0.entry(tag).or_default().insert(entry.key(), entry);
    }

    /// The entries for addresses of a range.
    pub(crate) fn within(&mut self, tag: u32, va: u64, len: u64) -> impl Iterator<Item = &mut Entry> {
        let (first, last) = (Key::new(va, 3, false).0 & !7, Key::new(va.saturating_add(len - 1), 3, true).0 | 7);
        self.0
            .get_mut(&tag)
            .into_iter()
            .flat_map(move |map| map.range_mut(Key(first)..=Key(last)).map(|(_, entry)| entry))
    }

    /// What is cached under a tag that somebody was promised is gone.
    pub(crate) fn overdue(&self, tag: u32) -> Option<Entry> {
        self.0.get(&tag)?.values().find(|entry| entry.is_overdue()).copied()
    }

    /// Removes what an invalidation removes.
    pub(crate) fn invalidate(&mut self, scope: &Scope) {
        match scope.what {
            What::All => self.0.clear(),
            What::Asid => {
                self.0.remove(&scope.asid);
            }
            What::Page { .. } | What::Range { .. } => {
                // Global entries for the page go, too (Arm ARM D8.17).
                self.remove(scope.asid, scope);
                self.remove(GLOBAL, scope);
            }
            What::PageAllAsids { .. } | What::RangeAllAsids { .. } => {
                let tags: Vec<u32> = self.0.keys().copied().collect();
                tags.into_iter().for_each(|tag| self.remove(tag, scope));
            }
        }
    }

    fn remove(&mut self, tag: u32, scope: &Scope) {
        let Some(map) = self.0.get_mut(&tag) else { return };
        if scope.len == 4096 {
            for level in 0..=3 {
                for table in [false, true] {
                    let key = Key::new(scope.va, level, table);
                    if map.get(&key).is_some_and(|entry| scope.removes(entry)) {
                        map.remove(&key);
                    }
                }
            }
        } else {
            map.retain(|_, entry| !scope.removes(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 1 << 11 | 1 << 10 | 0b11;

    fn entry(va: u64, level: u8, bits: u64) -> Entry {
        Entry { va, step: Step { place: 0x1000, level, bits }, root: RootId(1), state: State::Fresh }
    }

    /// A page and a table above it under ASID 5, the page under ASID 6, a global page, and a block under ASID 5.
    fn filled() -> Cache {
        let mut cache = Cache::default();
        cache.put(5, entry(0x40_0000, 3, 0x7000 | PAGE));
        cache.put(5, entry(0x40_0000, 2, 0x8003));
        cache.put(6, entry(0x40_0000, 3, 0x9000 | PAGE));
        cache.put(GLOBAL, entry(0x50_0000, 3, 0xa000 | PAGE));
        cache.put(5, entry(0x80_0000, 2, 0x20_0000 | PAGE & !2));
        cache
    }

    fn after(what: What, operand: u64) -> [bool; 5] {
        let mut cache = filled();
        cache.invalidate(&Scope::new(what, operand, 0xffff));
        [
            cache.leaf(5, 0x40_0123).is_some(),
            cache.table(5, 0x40_0123, 2).is_some(),
            cache.leaf(6, 0x40_0123).is_some(),
            cache.leaf(7, 0x50_0123).is_some(),
            cache.leaf(5, 0x8f_f123).is_some(),
        ]
    }

    #[test]
    fn each_invalidation_removes_its_scope_and_no_more() {
        let (leaf, walk) = (true, false);
        let page = |leaf_only| What::Page { leaf_only };
        assert_eq!(after(page(leaf), 5 << 48 | 0x401), [true; 5], "another page");
        assert_eq!(after(page(leaf), 5 << 48 | 0x400), [false, true, true, true, true]);
        assert_eq!(after(page(walk), 5 << 48 | 0x400), [false, false, true, true, true]);
        assert_eq!(after(page(leaf), 7 << 48 | 0x400), [true; 5], "wrong ASID");
        assert_eq!(after(page(leaf), 7 << 48 | 0x500), [true, true, true, false, true], "global");
        assert_eq!(after(page(leaf), 5 << 48 | 0x812), [true, true, true, true, false], "within a block");
        assert_eq!(after(What::PageAllAsids { leaf_only: true }, 0x400), [false, true, false, true, true]);
        assert_eq!(after(What::Asid, 5 << 48), [false, false, true, true, false]);
        assert_eq!(after(What::All, 0), [false; 5]);
    }

    #[test]
    fn a_level_hint_limits_the_leaves() {
        let hint = |level: u64| 5 << 48 | (4 | level) << 44 | 0x400;
        assert!(!after(What::Page { leaf_only: true }, hint(3))[0]);
        assert!(after(What::Page { leaf_only: true }, hint(2))[0], "the hint names the wrong level");
    }

    #[test]
    fn a_range_reaches_as_far_as_it_says() {
        // (NUM + 1) * 2^(5 * SCALE + 1) pages.
        let range = |num: u64, scale: u64, page: u64| 5 << 48 | scale << 44 | num << 39 | page;
        let leaf = What::Range { leaf_only: true };
        assert!(!after(leaf, range(0, 0, 0x3ff))[0], "two pages, the second is ours");
        assert!(after(leaf, range(0, 0, 0x3fe))[0], "two pages before ours");
        assert_eq!(after(leaf, range(31, 1, 0x400)), [false, true, true, false, false], "2048 pages");
    }

    #[test]
    fn addresses_of_the_kernel_are_signed() {
        let scope = Scope::new(What::PageAllAsids { leaf_only: false }, 0x0fff_ffff_8000, 0xff);
        assert_eq!(scope.va, 0xffff_ffff_f800_0000);
        let eight = Scope::new(What::Asid, 0x1234 << 48, 0xff);
        assert_eq!(eight.asid, 0x34);
    }

    #[test]
    fn what_lies_within_is_found() {
        let mut cache = filled();
        let found: Vec<u64> = cache.within(5, 0x40_0000, 0x20_0000).map(|entry| entry.step.bits).collect();
        assert_eq!(found.len(), 2, "{found:x?}");
        assert_eq!(cache.within(5, 0x60_0000, 0x20_0000).count(), 0);
    }
}
