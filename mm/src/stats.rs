//! Counters: one for each decision, per CPU, summed on demand.
//!
//! A CPU adds to its own line only, with a plain load and store: nothing here is a shared write.

use crate::sync::{Ordering, PlainU64};

macro_rules! define_counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What is counted. The label is the name in `/proc/lazy_tlb`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// Every counter, in the order they are printed.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];

            /// The counter's name in `/proc/lazy_tlb`.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Counter::$name => $label,)*
                }
            }
        }
    };
}

define_counters! {
    /// Switches from one user task to another, same `Mm` or not.
    SwitchUserUser = "switch_user_user",
    /// Switches from a user task to a kernel thread or idle.
    SwitchUserKernel = "switch_user_kernel",
    /// Switches between two kernel threads.
    SwitchKernelKernel = "switch_kernel_kernel",
    /// Switches from lazy back to a task of the loaded `Mm`.
    SwitchKernelSame = "switch_kernel_same",
    /// Switches from lazy to a task of another `Mm`.
    SwitchKernelOther = "switch_kernel_other",
    /// Writes of `TTBR0_EL1`.
    Ttbr0Writes = "ttbr0_writes",
    /// Shared read-modify-writes of an `mm_count` because a CPU became lazy.
    LazyGrabs = "lazy_grabs",
    /// Shared read-modify-writes of an `mm_count` because a CPU stopped being lazy.
    LazyDrops = "lazy_drops",
    /// CPUs that entered an `mm_cpumask`: with [`Counter::Ttbr0Writes`], which change a slot each, all shared
    /// stores of a switch.
    MaskBitsSet = "mask_bits_set",
    /// Shoot requests that found the CPU lazy on the dead `Mm`.
    ShootFoundLazy = "shoot_found_lazy",
    /// Shoot requests that found it gone already.
    ShootFoundGone = "shoot_found_gone",
    /// Rounds of IPIs that freed a batch of dead `Mm`s (`lazy_tlb.batch=`).
    BatchRounds = "batch_rounds",
    /// Bits that CPUs cleared in the mask of an `Mm` without users when they left it (`lazy_tlb.trim=dying`).
    BitsTrimmed = "bits_trimmed",
    /// Slots that were tagged with a share in a dead `Mm` (`lazy_tlb=handoff`).
    SlotsTagged = "slots_tagged",
    /// Dead `Mm`s that were freed because every CPU had passed a quiescent state (`lazy_tlb=qsbr`).
    FreedByEpoch = "freed_by_epoch",
    /// Loads of `init_mm` by CPUs that were lazy, whatever made them leave: one that is asked, one that goes offline,
    /// and under `eager` every one.
    Unlazied = "unlazied",
    /// CPUs that loaded `init_mm` because they had been idle for long (`lazy_tlb=qsbr`).
    IdleUnlazied = "idle_unlazied",
    /// Broadcast invalidations of one page's leaf.
    TlbiLeafBroadcast = "tlbi_leaf_is",
    /// Broadcast invalidations of one page and its walk caches.
    TlbiWalkBroadcast = "tlbi_walk_is",
    /// Broadcast invalidations of a whole ASID.
    TlbiAsidBroadcast = "tlbi_asid_is",
    /// Invalidations of one page's leaf on this CPU.
    TlbiLeafLocal = "tlbi_leaf_local",
    /// Invalidations of one page and its walk caches on this CPU.
    TlbiWalkLocal = "tlbi_walk_local",
    /// Invalidations of a whole ASID on this CPU.
    TlbiAsidLocal = "tlbi_asid_local",
    /// Broadcast invalidations of a range of pages.
    TlbiRangeBroadcast = "tlbi_range_is",
    /// Invalidations of a range of pages on this CPU.
    TlbiRangeLocal = "tlbi_range_local",
    /// Invalidations of everything on this CPU.
    TlbiAllLocal = "tlbi_all_local",
    /// Address spaces that were given an ASID.
    AsidsGiven = "asids_given",
    /// ASIDs of dead `Mm`s that were retired instead of invalidated.
    AsidsRetired = "asids_retired",
    /// CPUs that a flush made leave an `Mm` they were lazy on.
    UnlaziedByFlush = "unlazied_by_flush",
    /// CPUs that left an `mm_cpumask`.
    MaskBitsCleared = "mask_bits_cleared",
    /// ASID generations that ended.
    AsidRollovers = "asid_rollovers",
    /// `Mm`s created.
    MmsMade = "mms_made",
    /// `Mm`s that lost their last reference.
    MmsDied = "mms_died",
    /// `Mm`s freed.
    MmsFreed = "mms_freed",
    /// Final drops that could not wait and went to the reaper.
    MmsDeferred = "mms_deferred",
    /// `Mm`s that a failed check keeps for ever.
    MmsLeaked = "mms_leaked",
    /// Nanoseconds from the last reference to the free, summed.
    FreeLatency = "free_latency_ns",
}

/// One CPU's counters, in cache lines that only this CPU writes.
#[repr(align(128))]
pub struct Counters([PlainU64; Counter::ALL.len()]);

impl Counters {
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| PlainU64::new(0)))
    }

    /// Adds to a counter. The caller is this CPU, pinned or with interrupts masked; an interrupt
    /// between load and store may lose a count of its own, which a statistic can bear.
    #[inline(always)]
    pub fn add(&self, counter: Counter, amount: u64) {
        let cell = &self.0[counter as usize];
        // Relaxed: a number for people; it orders nothing.
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Counts one.
    #[inline(always)]
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// The value now.
    pub fn get(&self, counter: Counter) -> u64 {
        // Relaxed: see `add`.
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// A number of things that exist now, and the most there ever were.
///
/// Written when an `Mm` dies or is freed, never on a switch.
pub struct Gauge {
    now: PlainU64,
    max: PlainU64,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self { now: PlainU64::new(0), max: PlainU64::new(0) }
    }

    pub(crate) fn rise(&self) {
        // Relaxed: numbers for people; they order nothing.
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.max.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn fall(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many now.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// The most so far.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_knows_now_and_the_most() {
        let gauge = Gauge::new();
        gauge.rise();
        gauge.rise();
        gauge.fall();
        assert_eq!((gauge.now(), gauge.max()), (1, 2));
        gauge.rise();
        gauge.fall();
        gauge.fall();
        assert_eq!((gauge.now(), gauge.max()), (0, 2));
    }
}
