//! Sets of CPUs: a plain one to compute with, and the shared `mm_cpumask`.

use core::array;
use core::fmt;

use crate::addr::CpuId;
use crate::sync::{AtomicU64, Ordering};

/// The most CPUs a machine may have: what GICv3's `virt` machine accepts.
pub const MAX_CPUS: usize = 512;
const WORDS: usize = MAX_CPUS / 64;

/// A set of CPUs, as a value.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet([0; WORDS]);

    /// CPUs 0 to `count` - 1.
    pub fn first(count: usize) -> Self {
        (0..count).map(|index| CpuId(index as u16)).collect()
    }

    /// Just this CPU.
    pub fn only(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0[cpu.index() / 64] |= 1 << (cpu.index() % 64);
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        self.0[cpu.index() / 64] &= !(1 << (cpu.index() % 64));
    }

    /// Whether the CPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0[cpu.index() / 64] & 1 << (cpu.index() % 64) != 0
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// How many CPUs are in the set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The CPUs in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(index, &word)| BitIter(word).map(move |bit| CpuId((index * 64) as u16 + bit)))
    }

    /// The words of the set, CPU 0 in bit 0 of the first: the layout of `sched_setaffinity`.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// The set with these words; missing words are zero, words past [`MAX_CPUS`] are ignored.
    pub fn from_words(words: &[u64]) -> Self {
        Self(array::from_fn(|i| words.get(i).copied().unwrap_or(0)))
    }
}

struct BitIter(u64);

impl Iterator for BitIter {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let bit = self.0.trailing_zeros();
        if bit == 64 {
            return None;
        }
        self.0 &= self.0 - 1;
        Some(bit as u16)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(CpuId::index)).finish()
    }
}

/// `mm_cpumask`: the CPUs that may hold an `Mm` loaded or its entries cached.
///
/// Holders, not runners: a bit outlives the task that set it. Each CPU sets and clears only its
/// own bit.
pub struct CpuMask([AtomicU64; WORDS]);

impl CpuMask {
    /// An empty mask.
    pub fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Whether the CPU's bit is set. Exact only for the CPU itself, which alone changes it.
    pub fn holds(&self, cpu: CpuId) -> bool {
        // Relaxed: a CPU reads its own bit, or an observer wants a hint.
        self.0[cpu.index() / 64].load(Ordering::Relaxed) & 1 << (cpu.index() % 64) != 0
    }

    /// Sets the calling CPU's own bit. The caller tests it first: the line stays shared.
    pub fn set_own(&self, cpu: CpuId) {
        // Relaxed: `Sequence::PublishHolder` orders it before the walks, and pairs with the
        // barrier between a flusher's stores and its `snapshot`.
        self.0[cpu.index() / 64].fetch_or(1 << (cpu.index() % 64), Ordering::Relaxed);
    }

    /// Clears the calling CPU's own bit, after it left the root.
    pub fn clear_own(&self, cpu: CpuId) {
        // Release: pairs with the Acquire in `snapshot`; who misses the bit sees the departure (mm/litmus/leave.litmus).
        self.0[cpu.index() / 64].fetch_and(!(1 << (cpu.index() % 64)), Ordering::Release);
    }

    /// The CPUs whose bits are set.
    pub fn snapshot(&self) -> CpuSet {
        // Acquire: pairs with the Release in `clear_own`.
        CpuSet(array::from_fn(|i| self.0[i].load(Ordering::Acquire)))
    }
}

impl Default for CpuMask {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn sets_cross_word_borders() {
        let cpus: Vec<_> = [0, 63, 64, 511].map(CpuId).to_vec();
        let set: CpuSet = cpus.iter().copied().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
        assert_eq!((set.count(), set.contains(CpuId(64)), set.contains(CpuId(65))), (4, true, false));
        assert_eq!(set.intersection(&CpuSet::first(64)).count(), 2);
    }

    #[test]
    fn cpus_come_and_go() {
        let mut set = CpuSet::first(130);
        set.remove(CpuId(129));
        set.remove(CpuId(129));
        set.remove(CpuId(0));
        assert_eq!((set.count(), set.contains(CpuId(0)), set.contains(CpuId(128))), (128, false, true));
        assert_eq!(set.words()[..3], [!1, !0, 1]);
        assert_eq!(CpuSet::from_words(set.words()), set);
        assert_eq!(set.union(&CpuSet::only(CpuId(0))), CpuSet::first(129));
        assert_eq!(set.union(&set), set);
    }

    #[test]
    fn a_set_is_printed_as_numbers() {
        assert_eq!(std::format!("{:?}", CpuSet::from_words(&[0b1010])), "{1, 3}");
    }

    #[test]
    fn a_cpu_changes_only_its_own_bit() {
        let mask = CpuMask::new();
        mask.set_own(CpuId(3));
        mask.set_own(CpuId(70));
        mask.clear_own(CpuId(3));
        assert_eq!(mask.snapshot(), CpuSet::only(CpuId(70)));
        assert!(mask.holds(CpuId(70)) && !mask.holds(CpuId(3)));
    }
}
