//! `lazy_tlb=handoff`: the dead `Mm` is handed to the CPUs that still have it loaded.
//!
//! Nobody is interrupted and nothing is counted while it lives. Whoever drops the last reference
//! tags the slot of each CPU that names the `Mm`; a CPU finds the tag when it leaves, and the last
//! one to leave frees. A CPU that never leaves keeps one dead `Mm`, a page and a struct, for ever:
//! at most one for each CPU. (The idea is Lutomirski's, 2020; docs/decisions/0007 has the
//! argument.)
//!
//! # Why each share is added before its tag
//!
//! 1. The dropper tags CPU 1's slot, and has not added the share yet.
//! 2. CPU 1 leaves, finds the tag, gives back a share that does not exist: it takes the dropper's
//!    own, sees zero and frees.
//! 3. The dropper goes on with freed memory.
//!
//! Added before, the share covers the tag from its first moment. A tag that could not be set gives
//! its share back, which cannot be the last one: the dropper's own comes last.

use crate::handle::DeadMm;
use crate::machine::{Machine, Point, point};
use crate::system::System;

/// Hands `dead` to the CPUs that have it loaded. Gives it back if there is none any more.
pub(super) fn hand_off<M: Machine>(system: &System<M>, dead: DeadMm<M>) -> Option<DeadMm<M>> {
    dead.open_shares();
    for cpu in system.cpus() {
        dead.add_share();
        point::<M>(Point::ShareAdded);
        if !cpu.tag(&dead) {
            dead.take_back_share();
        }
    }
    point::<M>(Point::AllTagged);
    dead.close_shares()
}
