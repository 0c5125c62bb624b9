//! Invalidation: makes cleared entries gone from every TLB before their frames are freed.
//!
//! Order (rule 6): page-table stores, DSB, *then* read the ASID, TLBI, DSB. Were the ASID read
//! first, a rollover between that and the stores could move the `Mm` to a new number whose entries,
//! filled from the old tables, this flush would miss.

use crate::addr::{Asid, Page, PageRange};
use crate::machine::{Machine, Point, point};
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::stats::Counter;

/// Above so many pages one whole-ASID invalidation is cheaper than one for each page.
const MOST_PAGES: u64 = 64;

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
}

/// What has to be invalidated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Nothing: no valid entry changed.
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

/// Invalidates on every CPU and waits until it is done. Preemption is off throughout: a TLBI is
/// completed only by a DSB on the CPU that issued it.
pub fn invalidate<M: Machine>(mm: &Mm<M>, extent: &Extent) {
    if *extent == Extent::Nothing {
        return;
    }
    let _pinned = M::pin();
    M::run(Sequence::PublishEntries, 0);
    point::<M>(Point::EntriesPublished);
    let Some(asid) = asid_after_publish(mm) else {
        return;
    };
    let counters = &M::cpu_state().counters;
    match extent {
        Extent::Pages { pages, tables } if pages.end.number() - pages.start.number() <= MOST_PAGES => {
            let (sequence, counter) = if *tables {
                (Sequence::InvalidateWalk, Counter::TlbiWalkBroadcast)
            } else {
                (Sequence::InvalidateLeaf, Counter::TlbiLeafBroadcast)
            };
            for page in pages.start.number()..pages.end.number() {
                M::run(sequence, operand(asid, page));
                counters.count(counter);
            }
        }
        _ => {
            M::run(Sequence::InvalidateAsid, operand(asid, 0));
            counters.count(Counter::TlbiAsidBroadcast);
        }
    }
    M::run(Sequence::Complete, 0);
}

/// Makes this CPU forget one page, whose rights were widened: it may have cached the narrower ones,
/// and would fault on them again. Another CPU that did so faults once and comes here too.
pub(crate) fn refresh<M: Machine>(mm: &Mm<M>, page: Page) {
    let _pinned = M::pin();
    if let Some(asid) = mm.context().asid() {
        M::run(Sequence::RefreshLeaf, operand(asid, page.number()));
        M::cpu_state().counters.count(Counter::TlbiLeafLocal);
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

/// The register form of a TLBI by VA or ASID: ASID in 63:48, `VA[55:12]` in 43:0 (Arm ARM C5.5).
fn operand(asid: Asid, page: u64) -> u64 {
    u64::from(asid.0) << 48 | page
}
