//! The store-buffering litmus that flushes of holders stand on (I17), with the shipped barriers.
//!
//! | flusher | switcher |
//! |---|---|
//! | store the cleared entry | set the own mask bit |
//! | [`Sequence::PublishAndLook`] | [`Sequence::PublishHolder`] |
//! | read the mask | MSR TTBR0; walk: read the entry |
//!
//! Forbidden: the flusher misses the bit *and* the walk finds the old entry. The machine of the
//! other tests runs one step at a time and cannot read early; here each side's two accesses take
//! effect in every order that its barriers allow, interleaved in every way.

use mm::{Op, Sequence};

/// What takes effect, once for all CPUs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Effect {
    Entry,
    Look,
    Bit,
    Walk,
}

/// The orders in which a store and the read behind it may take effect. DSB ISH completes the store
/// before the read begins. DSB ISHST does so before later stores only; but it also holds back the
/// MSR, and so a walk that needs it (Arm ARM B2.3.12).
fn orders(store: Effect, read: Effect, between: &[Op]) -> Vec<[Effect; 2]> {
    let full = between.contains(&Op::DsbIsh);
    let held_back = between.contains(&Op::DsbIshst) && read == Effect::Walk;
    if full || held_back { vec![[store, read]] } else { vec![[store, read], [read, store]] }
}

/// All interleavings of two pairs.
fn interleavings(a: [Effect; 2], b: [Effect; 2]) -> [[Effect; 4]; 6] {
    [
        [a[0], a[1], b[0], b[1]],
        [a[0], b[0], a[1], b[1]],
        [a[0], b[0], b[1], a[1]],
        [b[0], a[0], a[1], b[1]],
        [b[0], a[0], b[1], a[1]],
        [b[0], b[1], a[0], a[1]],
    ]
}

/// Whether the flusher can miss the bit while the walk finds the old entry.
fn can_go_wrong(flusher: &[Op], switcher: &[Op]) -> bool {
    let before = |run: &[Effect], one, other| {
        run.iter().position(|effect| *effect == one) < run.iter().position(|effect| *effect == other)
    };
    orders(Effect::Entry, Effect::Look, flusher).into_iter().any(|mine| {
        orders(Effect::Bit, Effect::Walk, switcher).into_iter().any(|theirs| {
            let mut runs = interleavings(mine, theirs).into_iter();
            runs.any(|run| before(&run, Effect::Look, Effect::Bit) && before(&run, Effect::Walk, Effect::Entry))
        })
    })
}

#[test]
fn either_the_bit_or_the_entry_is_seen() {
    let (flusher, switcher) = (Sequence::PublishAndLook.ops(), Sequence::PublishHolder.ops());
    assert!(!can_go_wrong(flusher, switcher));
    // What the barriers are for.
    assert!(can_go_wrong(&[], switcher) && can_go_wrong(flusher, &[]));
    assert!(can_go_wrong(Sequence::PublishEntries.ops(), switcher), "the flusher may not look that early");
}
