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

//!
//! # The hybrid
//!
//! With `lazy_tlb.shoot_after=T` a CPU that still has a dead `Mm` loaded after `T` milliseconds is
//! interrupted, and leaves it: the swap that drains the tag is the same. Then nothing is kept for
//! longer than that, at the price of an IPI to exactly the CPUs that hold something.

use crate::addr::CpuId;
use crate::cpumask::CpuSet;
use crate::handle::DeadMm;
use crate::lazy::note_of;
use crate::machine::{IpiReason, Machine, Point, note, point};
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::system::System;

/// Hands `dead` to the CPUs that have it loaded. Gives it back if there is none any more.
pub(super) fn hand_off<M: Machine>(system: &System<M>, dead: DeadMm<M>) -> Option<DeadMm<M>> {
    dead.open_shares();
    // A CPU that does not have it loaded never will again, and has left it before we looked.
    for cpu in system.cpus().iter().filter(|cpu| cpu.has_loaded(&*dead)) {
        dead.add_share();
        point::<M>(Point::ShareAdded);
        if cpu.tag(&dead) {
            note_of(&dead, Counter::SlotsTagged);
        } else {
            dead.take_back_share();
        }
    }
    point::<M>(Point::AllTagged);
    let rest = dead.close_shares();
    if rest.is_none()
        && let Some(time) = patience(system)
    {
        M::wake_reaper_at(M::now_ns() + time);
    }
    rest
}

/// How long a dead `Mm` may stay loaded, in nanoseconds; `None` for ever.
fn patience<M: Machine>(system: &System<M>) -> Option<u64> {
    system.config.shoot_after.map(|milliseconds| milliseconds * 1_000_000)
}

/// Shoots the CPUs that have had a dead `Mm` loaded for too long.
pub(super) fn shoot_old<M: Machine>(system: &System<M>) {
    let Some(time) = patience(system) else { return };
    let now = M::now_ns();
    let tagged = || system.cpus().iter().filter(|cpu| cpu.is_tagged());
    shoot(system, &tagged().filter(|cpu| cpu.tagged_at() + time <= now).map(|cpu| cpu.id).collect());
    if let Some(next) = tagged().map(CpuState::tagged_at).min() {
        M::wake_reaper_at(next + time);
    }
}

/// Shoots all CPUs that have a dead `Mm` loaded, if shooting is allowed.
pub(super) fn shoot_all<M: Machine>(system: &System<M>) {
    if patience(system).is_some() {
        shoot(system, &system.cpus().iter().filter(|cpu| cpu.is_tagged()).map(|cpu| cpu.id).collect());
    }
}

fn shoot<M: Machine>(system: &System<M>, targets: &CpuSet) {
    if targets.is_empty() {
        return;
    }
    M::on_cpus(targets, IpiReason::Shoot, &|_: CpuId| {
        let cpu = M::cpu_state();
        point::<M>(Point::ShootEntered);
        let tagged = cpu.is_tagged();
        let found = if tagged { Counter::ShootFoundLazy } else { Counter::ShootFoundGone };
        note(cpu, found, || if tagged { cpu.shadow_ttbr().root().address().0 } else { 0 });
        if tagged {
            // A tagged `Mm` has no users: the CPU is lazy.
            cpu.unlazy();
            cpu.settle();
        }
    });
    system.free_left();
}
