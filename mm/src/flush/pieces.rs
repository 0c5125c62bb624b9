//! An extent in TLBI operations: page by page, in ranges, or by ASID.

use crate::addr::{Asid, PageRange};
use crate::flush::Extent;
use crate::machine::{Hardware, Machine, note};
use crate::ops::Sequence;
use crate::stats::Counter;

/// Without range operations, above so many pages one invalidation by ASID is cheaper than one for
/// each page.
const MOST_PAGES: u64 = 64;
/// Range operations reach less far than this (Arm ARM C5.5, NUM = 31 at SCALE = 3).
const MOST_IN_RANGES: u64 = 1 << 21;

/// One TLBI operation by address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Whether it is a range operation.
    pub is_range: bool,
    /// Its operand, but for the ASID.
    pub operand: u64,
}

/// The operations that invalidate these pages, or `None` if there are so many that their whole
/// address space should go. With `leaf_only` they are known to be leaves, at level 3.
pub fn pieces(pages: &PageRange, leaf_only: bool, hardware: Hardware) -> Option<impl Iterator<Item = Piece> + use<>> {
    let count = pages.end.number() - pages.start.number();
    let fits = if hardware.tlbi_range { count < MOST_IN_RANGES } else { count <= MOST_PAGES };
    let hint = leaf_only && hardware.tlbi_ttl;
    fits.then(|| Pieces { next: pages.start.number(), left: count, ranges: hardware.tlbi_range, hint })
}

/// What is still to be invalidated.
struct Pieces {
    next: u64,
    left: u64,
    ranges: bool,
    /// Say that the entries are of level 3.
    hint: bool,
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let (start, left) = (self.next, self.left);
        if left == 0 {
            return None;
        }
        let (done, piece) = if self.ranges && left > 1 {
            // The largest SCALE whose unit still fits: then NUM, below the next scale's unit, fits too.
            let scale = (left.ilog2() - 1) / 5;
            let unit = 2 << (5 * scale);
            (left / unit * unit, range(start, left / unit, scale, self.hint))
        } else {
            (1, single(start, self.hint))
        };
        self.next += done;
        self.left -= done;
        Some(piece)
    }
}

/// One page: `VA[55:12]` in 43:0, TTL in 47:44 (granule 4 KiB in its upper half, level in its lower).
fn single(page: u64, hint: bool) -> Piece {
    let ttl = if hint { 0b0111 } else { 0 };
    Piece { is_range: false, operand: ttl << 44 | page }
}

/// `units` of 2^(5 × scale + 1) pages: address in 36:0, TTL in 38:37, NUM in 43:39, SCALE in 45:44,
/// TG (4 KiB) in 47:46.
fn range(page: u64, units: u64, scale: u32, hint: bool) -> Piece {
    let ttl = if hint { 0b11 } else { 0 };
    Piece { is_range: true, operand: 1 << 46 | u64::from(scale) << 44 | (units - 1) << 39 | ttl << 37 | page }
}

/// The register form of a TLBI by VA or ASID: the ASID stands in 63:48 (Arm ARM C5.5).
pub(super) fn operand(asid: Asid, rest: u64) -> u64 {
    u64::from(asid.0) << 48 | rest
}

/// A sequence that invalidates, and what counts it.
type Kind = (Sequence, Counter);

/// Which CPUs an operation reaches. Constants, so that each use is one instruction.
pub(super) trait Scope {
    /// A page's leaf.
    const LEAF: Kind;
    /// A page and the walk caches that lead to it.
    const WALK: Kind;
    /// A range's leaves.
    const LEAF_RANGE: Kind;
    /// A range and the walk caches that lead to it.
    const WALK_RANGE: Kind;
    /// Everything under an ASID.
    const ASID: Kind;
}

/// Every CPU.
pub(super) struct Everywhere;

impl Scope for Everywhere {
    const LEAF: Kind = (Sequence::InvalidateLeaf, Counter::TlbiLeafBroadcast);
    const WALK: Kind = (Sequence::InvalidateWalk, Counter::TlbiWalkBroadcast);
    const LEAF_RANGE: Kind = (Sequence::InvalidateLeafRange, Counter::TlbiRangeBroadcast);
    const WALK_RANGE: Kind = (Sequence::InvalidateWalkRange, Counter::TlbiRangeBroadcast);
    const ASID: Kind = (Sequence::InvalidateAsid, Counter::TlbiAsidBroadcast);
}

/// The CPU that issues it.
pub(super) struct Here;

impl Scope for Here {
    const LEAF: Kind = (Sequence::InvalidateLeafLocal, Counter::TlbiLeafLocal);
    const WALK: Kind = (Sequence::InvalidateWalkLocal, Counter::TlbiWalkLocal);
    const LEAF_RANGE: Kind = (Sequence::InvalidateLeafRangeLocal, Counter::TlbiRangeLocal);
    const WALK_RANGE: Kind = (Sequence::InvalidateWalkRangeLocal, Counter::TlbiRangeLocal);
    const ASID: Kind = (Sequence::InvalidateAsidLocal, Counter::TlbiAsidLocal);
}

/// Issues what the extent takes, and does not wait for it. Inlined, so that the barriers stand in
/// the same function.
#[inline(always)]
pub(super) fn issue<M: Machine, S: Scope>(asid: Asid, extent: &Extent) {
    let cpu = M::cpu_state();
    let one = |kind: Kind, rest| {
        M::run(kind.0, operand(asid, rest));
        note(cpu, kind.1, || operand(asid, rest));
    };
    let Extent::Pages { pages, tables } = extent else {
        return one(S::ASID, 0);
    };
    match pieces(pages, !tables, M::system().hardware) {
        None => one(S::ASID, 0),
        Some(pieces) => pieces.for_each(|piece| match (piece.is_range, tables) {
            (false, false) => one(S::LEAF, piece.operand),
            (false, true) => one(S::WALK, piece.operand),
            (true, false) => one(S::LEAF_RANGE, piece.operand),
            (true, true) => one(S::WALK_RANGE, piece.operand),
        }),
    }
}
