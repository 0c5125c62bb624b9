//! `lazy_tlb.batch=N`: dead `Mm`s gather, and one round of IPIs frees them all.
//!
//! The round goes to the union of their CPUs. A CPU in it does not search a list: it looks at the
//! `Mm` in its own slot, and leaves it if that is dead. That look is safe because a dead `Mm` is
//! freed only after every CPU that has it loaded was asked and has answered, and this CPU, with
//! interrupts masked, has not answered yet; whose round it is does not matter.
//!
//! The longer they wait, the fewer CPUs still have them loaded.

use crate::addr::CpuId;
use crate::cpumask::CpuSet;
use crate::handle::{DeadList, DeadMm};
use crate::lazy::{Evicted, shootdown};
use crate::machine::{Complaint, IpiReason, Machine, Point, note, point};
use crate::mm::Mm;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::system::System;

/// How long a dead `Mm` waits for others at most, in nanoseconds.
const LONGEST_WAIT: u64 = 10_000_000;

/// Adds one to the batch. The one that fills it frees them all.
pub(super) fn gather<M: Machine>(system: &System<M>, dead: DeadMm<M>) -> Evicted<M> {
    match system.waiting.admit(dead) {
        Ok(1) if system.waiting.limit() > 1 => M::wake_reaper_at(M::now_ns() + LONGEST_WAIT),
        Ok(number) if number < system.waiting.limit() => {}
        Ok(_) => free_all(system),
        Err(dead) => free_list(system, system.waiting.take_all(), Some(dead)),
    }
    Evicted::HandedOver
}

/// Frees the batch if it has waited long enough.
pub(super) fn free_old<M: Machine>(system: &System<M>) {
    let Some(since) = system.waiting.since() else { return };
    if M::now_ns() < since + LONGEST_WAIT {
        M::wake_reaper_at(since + LONGEST_WAIT);
    } else {
        free_all(system);
    }
}

/// Frees the batch.
pub(super) fn free_all<M: Machine>(system: &System<M>) {
    if system.waiting.number() != 0 {
        free_list(system, system.waiting.take_all(), None);
    }
}

/// Makes every CPU leave the `Mm`s of the list, and frees them; `extra` did not wait with them.
fn free_list<M: Machine>(system: &System<M>, list: DeadList<M>, extra: Option<DeadMm<M>>) {
    point::<M>(Point::WaitingTaken);
    let outsider = extra.as_ref().map(|dead| shootdown::targets(system, dead));
    let targets = list.each().map(|mm| shootdown::targets(system, mm)).chain(outsider);
    let targets = targets.reduce(|all, some| all.union(&some)).unwrap_or(CpuSet::EMPTY);
    if !targets.is_empty() {
        let pinned = M::pin();
        note(M::cpu_state(), Counter::BatchRounds, || targets.count() as u64);
        drop(pinned);
        M::on_cpus(&targets, IpiReason::Shoot, &|_: CpuId| leave_dead(M::cpu_state()));
    }
    for dead in list {
        system.release(dead);
        system.waiting.leave();
    }
    if let Some(dead) = extra {
        system.release(dead);
    }
    // One that came while these counted still was not the first, and has asked nobody to come for it.
    if system.waiting.number() != 0 {
        M::wake_reaper_at(M::now_ns() + LONGEST_WAIT);
    }
}

/// On a target, interrupts masked: leaves the `Mm` in its slot if that is dead.
pub(super) fn leave_dead<M: Machine>(cpu: &CpuState<M>) {
    point::<M>(Point::ShootEntered);
    if !cpu.with_loaded(Mm::is_dead) {
        return note(cpu, Counter::ShootFoundGone, || 0);
    }
    note(cpu, Counter::ShootFoundLazy, || cpu.shadow_ttbr().root().address().0);
    if !cpu.is_lazy() {
        // It stays loaded, so the check before the free finds it and keeps it.
        return M::complain(Complaint::ShotOwner);
    }
    // Its bit in the mask stays: the `Mm` may be in the round of another CPU, which by slot would not ask
    // this one any more, and would free it under our hands.
    cpu.unlazy();
}
