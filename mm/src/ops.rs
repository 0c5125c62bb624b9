//! The architectural operations of the mm layer, and the sequences they are issued in.
//!
//! Each sequence is written once, in [`for_each_sequence!`](crate::for_each_sequence). From that
//! one list come the constants below (which the host machine executes step by step) and the
//! `asm!` blocks of the kernel's `arch::tlbi` (which a test disassembles and compares). So a
//! barrier that is lost in one place is lost in both, and the model sees it.

/// One architectural operation.
///
/// The operand, where there is one, is the word that the sequence was given: a TTBR0 value for
/// [`Op::MsrTtbr0`], the register form of Arm ARM C5.5 (VA and ASID, or range and ASID) for the
/// TLBI operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Op {
    /// `DSB ISHST`: earlier stores are visible to every walker of the Inner Shareable domain.
    DsbIshst,
    /// `DSB ISH`: earlier accesses, and the TLBIs this CPU issued, are complete in the domain.
    DsbIsh,
    /// `DSB NSHST`: earlier stores are visible to this CPU's walker.
    DsbNshst,
    /// `DSB NSH`: this CPU's walks under the old TTBR0, and its local TLBIs, are complete.
    DsbNsh,
    /// `ISB`: a TTBR0 write before it governs every translation after it.
    Isb,
    /// `MSR TTBR0_EL1`: root table and ASID, in one write.
    MsrTtbr0,
    /// `TLBI VALE1IS`: leaf entries of one page under one ASID, every CPU.
    TlbiVale1is,
    /// `TLBI VAE1IS`: as `VALE1IS`, and the walk-cache entries that led there.
    TlbiVae1is,
    /// `TLBI VALE1`: leaf entries of one page under one ASID, this CPU.
    TlbiVale1,
    /// `TLBI VAE1`: as `VALE1`, and the walk-cache entries that led there.
    TlbiVae1,
    /// `TLBI RVALE1IS` (FEAT_TLBIRANGE): leaf entries of a range of pages, every CPU.
    TlbiRvale1is,
    /// `TLBI RVAE1IS`: as `RVALE1IS`, and the walk-cache entries that led there.
    TlbiRvae1is,
    /// `TLBI RVALE1`: leaf entries of a range of pages, this CPU.
    TlbiRvale1,
    /// `TLBI RVAE1`: as `RVALE1`, and the walk-cache entries that led there.
    TlbiRvae1,
    /// `TLBI ASIDE1IS`: everything under one ASID, every CPU.
    TlbiAside1is,
    /// `TLBI ASIDE1`: everything under one ASID, this CPU.
    TlbiAside1,
    /// `TLBI VMALLE1`: everything of this CPU.
    TlbiVmalle1,
}

/// Hands the list of all sequences to the macro `$define`.
///
/// A sequence is `Name(): [ops]`, or `Name(operand): [ops]` when its operations take a word.
#[macro_export]
macro_rules! for_each_sequence {
    ($define:ident) => {
        $define! {
            /// Loads a root table and its ASID. The ISB makes the write govern later translations;
            /// only the DSB ends the walks of the *old* tables that are still in flight (Arm ARM
            /// D8.2.3, rule R_LFHQG as Linux's KVM cites it), so only after it may the old root go.
            LoadRoot(ttbr): [MsrTtbr0 Isb DsbNsh];
            /// Between setting the own bit in `mm_cpumask` and loading the root: whoever clears an
            /// entry afterwards and looks at the mask sees this CPU, or this CPU's walker sees the
            /// cleared entry (mm/litmus/holder.litmus).
            PublishHolder(): [DsbIsh];
            /// Between storing a new ASID in an `Mm` and walking under it: a flusher that still reads
            /// the old ASID has cleared its entries before any walk under the new one (mm/litmus/asid.litmus).
            PublishAsid(): [DsbIsh];
            /// After page-table stores, before the ASID is read for the invalidation. A rollover
            /// in between gives a clean ASID whose walks see the stores. Also between filling a frame and
            /// naming it in an entry (mm/litmus/frame.litmus, fill.litmus).
            PublishEntries(): [DsbIshst];
            /// After page-table stores, before a look at who may have entries cached, for a flusher that
            /// may act on "only me": the look itself comes after the stores. A CPU that sets its bit
            /// later walks the new entries; pairs with `PublishHolder` (mm/litmus/holder.litmus, ipi.litmus).
            PublishAndLook(): [DsbIsh];
            /// Invalidates one page's leaf entries on every CPU. Several may share one `Complete`.
            InvalidateLeaf(page): [TlbiVale1is];
            /// Invalidates one page's entries and walk caches on every CPU: a table was unlinked.
            InvalidateWalk(page): [TlbiVae1is];
            /// Invalidates the leaf entries of a range on every CPU.
            InvalidateLeafRange(range): [TlbiRvale1is];
            /// Invalidates a range's entries and walk caches on every CPU.
            InvalidateWalkRange(range): [TlbiRvae1is];
            /// Invalidates a whole ASID on every CPU.
            InvalidateAsid(asid): [TlbiAside1is];
            /// As `InvalidateLeaf`, on this CPU. Several local ones may share one `CompleteLocal`.
            InvalidateLeafLocal(page): [TlbiVale1];
            /// As `InvalidateWalk`, on this CPU.
            InvalidateWalkLocal(page): [TlbiVae1];
            /// As `InvalidateLeafRange`, on this CPU.
            InvalidateLeafRangeLocal(range): [TlbiRvale1];
            /// As `InvalidateWalkRange`, on this CPU.
            InvalidateWalkRangeLocal(range): [TlbiRvae1];
            /// As `InvalidateAsid`, on this CPU.
            InvalidateAsidLocal(asid): [TlbiAside1];
            /// This CPU forgets one page's leaf entries, after the rights in the table were widened
            /// (mm/litmus/refresh.litmus).
            RefreshLeaf(page): [DsbNshst TlbiVale1 DsbNsh];
            /// Waits until the broadcast invalidations are complete everywhere.
            Complete(): [DsbIsh];
            /// Waits until this CPU's local invalidations are complete.
            CompleteLocal(): [DsbNsh];
            /// This CPU forgets everything: an ASID generation ended.
            FlushLocal(): [TlbiVmalle1 DsbNsh Isb];
            /// A task that may continue elsewhere leaves: whatever it began on this CPU (cache
            /// and TLB maintenance completes only by a DSB on the CPU that issued it) is complete (mm/litmus/migrate.litmus).
            TaskSwitch(): [DsbIsh];
        }
    };
}

macro_rules! define_sequences {
    ($($(#[$doc:meta])* $name:ident($($operand:ident)?): [$($op:ident)*];)*) => {
        /// A named list of operations that is issued as one unit.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Sequence {
            $($(#[$doc])* $name,)*
        }

        impl Sequence {
            /// Every sequence.
            pub const ALL: &'static [Sequence] = &[$(Sequence::$name),*];

            /// The operations, in order.
            pub const fn ops(self) -> &'static [Op] {
                match self {
                    $(Sequence::$name => const { &[$(Op::$op),*] },)*
                }
            }
        }
    };
}

for_each_sequence!(define_sequences);
