//! Invalidation: makes cleared entries gone from every TLB before their frames are freed.
//!
//! Order (rule 6): page-table stores, DSB, *then* read who may have entries cached and under which
//! ASID, TLBI, DSB. Were the ASID read first, a rollover between that and the stores could move the
//! `Mm` to a new number whose entries, filled from the old tables, this flush would miss. Were the
//! mask read first, a CPU could set its bit and walk the old entries unseen.
//!
//! | `tlbi=` | who invalidates |
//! |---|---|
//! | `broadcast` | the hardware, on every CPU ([`everywhere`]) |
//! | `ipi` | each CPU of `mm_cpumask`, asked by SGI; none is asked if only this one is in it |
//! | `auto` | this CPU alone if no other is in the mask; the holders by SGI if none of them runs the `Mm`, which also makes them leave it; else the hardware |
//!
//! Preemption is off throughout: a TLBI is completed only by a DSB on the CPU that issued it.

mod holders;
mod pieces;

use crate::addr::{Asid, Page, PageRange};
use crate::machine::{Machine, Mark, Point, note, point};
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::stats::Counter;

use self::pieces::{Everywhere, Here, issue};
pub use self::pieces::{Piece, pieces};

/// How an invalidation reaches other CPUs (`tlbi=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushMode {
    /// By the hardware: TLBI operations that reach every CPU.
    Broadcast,
    /// By SGI: each CPU that may have entries invalidates its own.
    Ipi,
    /// Whichever of the two costs less, by who may have entries.
    Auto,
}

impl FlushMode {
    /// The word that names it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Ipi => "ipi",
            Self::Auto => "auto",
        }
    }

    /// Whether a CPU that is not in `mm_cpumask` may be left out.
    pub(crate) const fn asks_holders(self) -> bool {
        !matches!(self, Self::Broadcast)
    }
}

/// What has to be invalidated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Nothing: no entry that could be cached changed.
    Nothing,
    /// A run of pages.
    Pages {
        /// The pages whose entries changed.
        pages: PageRange,
        /// A table was unlinked: walk caches go too, not only leaves.
        tables: bool,
    },
    /// Everything under the `Mm`'s ASID.
    All,
}

/// Invalidates on every CPU that may have entries cached, and waits until it is done.
pub fn invalidate<M: Machine>(mm: &Mm<M>, extent: &Extent) {
    if *extent == Extent::Nothing {
        return;
    }
    let _pinned = M::pin();
    match M::system().config.flush {
        FlushMode::Broadcast => everywhere(mm, extent),
        FlushMode::Ipi => holders::ask_all(mm, extent, false),
        FlushMode::Auto => holders::ask_or_broadcast(mm, extent, true),
    }
    M::mark(Mark::NothingStale, mm.root());
}

/// As [`invalidate`], for an `Mm` whose users are gone: what lazy CPUs have to do later anyway, to
/// leave it, they may do now.
pub(crate) fn invalidate_dying<M: Machine>(mm: &Mm<M>, extent: &Extent) {
    if *extent == Extent::Nothing {
        return;
    }
    let _pinned = M::pin();
    let config = &M::system().config;
    match config.flush {
        FlushMode::Broadcast => everywhere(mm, extent),
        FlushMode::Ipi => holders::ask_all(mm, extent, config.piggyback),
        // No later flush gains from their leaving: asking them pays only where the scheme would ask.
        FlushMode::Auto => holders::ask_or_broadcast(mm, extent, config.shoots_each()),
    }
    M::mark(Mark::NothingStale, mm.root());
}

/// `tlbi.exit=retire`: every CPU leaves the root of an `Mm` whose users are gone, and its ASID is
/// nobody's until the generation ends. No CPU can then use what it has cached, or walk from it, so
/// nothing is invalidated. Says whether all have left; if not, it must be.
pub(crate) fn retire<M: Machine>(mm: &Mm<M>) -> bool {
    // No barrier for "none": whoever ran it was a user, and gave that back.
    if mm.context().asid().is_none() {
        return true;
    }
    if !M::system().config.scheme.dismiss(mm) {
        return false;
    }
    mm.context().retire();
    M::mark(Mark::NothingStale, mm.root());
    let _pinned = M::pin();
    note(M::cpu_state(), Counter::AsidsRetired, || mm.root().address().0);
    true
}

/// Invalidates by hardware, on every CPU.
fn everywhere<M: Machine>(mm: &Mm<M>, extent: &Extent) {
    M::run(Sequence::PublishEntries, 0);
    point::<M>(Point::EntriesPublished);
    let Some(asid) = asid_after_publish(mm) else {
        return;
    };
    let system = M::system();
    issue::<M, Everywhere>(asid, extent);
    M::run(Sequence::Complete, 0);
    if system.hardware.repeat_tlbi {
        issue::<M, Everywhere>(asid, extent);
        M::run(Sequence::Complete, 0);
    }
}

/// Invalidates on this CPU only. The stores are published, and the caller is pinned.
fn here<M: Machine>(mm: &Mm<M>, extent: &Extent) {
    if let Some(asid) = mm.context().asid() {
        issue::<M, Here>(asid, extent);
        M::run(Sequence::CompleteLocal, 0);
    }
}

/// Makes this CPU forget all that it has cached of an `Mm`. The caller is pinned.
pub(crate) fn forget_here<M: Machine>(mm: &Mm<M>) {
    here(mm, &Extent::All);
}

/// Makes this CPU forget one page, whose rights were widened: it may have cached the narrower ones,
/// and would fault on them again. Another CPU that did so faults once and comes here too.
pub(crate) fn refresh<M: Machine>(mm: &Mm<M>, page: Page) {
    let _pinned = M::pin();
    if let Some(asid) = mm.context().asid() {
        let operand = pieces::operand(asid, page.number());
        M::run(Sequence::RefreshLeaf, operand);
        note(M::cpu_state(), Counter::TlbiLeafLocal, || operand);
    }
}

/// The ASID to invalidate, or `None` if no CPU ever ran this `Mm`.
///
/// To act on "nobody" takes more than the stores being visible: the read itself must come after
/// them. A full DSB and a second look make sure; a CPU that takes its first ASID later has a
/// barrier of its own ([`Sequence::PublishAsid`]) and walks the new entries.
fn asid_after_publish<M: Machine>(mm: &Mm<M>) -> Option<Asid> {
    mm.context().asid().or_else(|| {
        M::run(Sequence::Complete, 0);
        mm.context().asid()
    })
}
