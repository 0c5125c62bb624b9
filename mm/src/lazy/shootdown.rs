//! `lazy_tlb=shootdown`: lazy CPUs hold nothing, and are made to leave a dead `Mm` by IPI.
//!
//! Why the mask read here is complete: a CPU becomes lazy on an `Mm` only by running a task of
//! it, which is a user; it set its mask bit before it loaded the root; and its user gave its
//! reference back with Release, which the Acquire of the last drop has seen. No CPU can become
//! lazy on it any more, so the set only shrinks from here. (Linux `kernel/fork.c`,
//! `cleanup_lazy_tlbs`; the safety argument is spelled out in docs/lazy-tlb.md.)

use crate::addr::CpuId;
use crate::config::Target;
use crate::cpumask::CpuSet;
use crate::machine::{Complaint, IpiReason, Machine, Point, note, point};
use crate::mm::Mm;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::sync::{AtomicBool, Ordering};
use crate::system::System;

/// Whom a shoot of `mm` interrupts, this CPU included.
///
/// By slot (`lazy_tlb.target=slot`) there is no lock and nothing to miss: a slot is published after MSR,
/// ISB and DSB, so one that names another `Mm` belongs to a CPU that has left this one, and nobody
/// loads a dead `Mm`. A CPU that leaves after the look is asked in vain.
pub(super) fn targets<M: Machine>(system: &System<M>, mm: &Mm<M>) -> CpuSet {
    match system.config.target {
        Target::Mask => mm.holders().snapshot().intersection(&M::online()),
        Target::Slot => system.cpus().iter().filter(|cpu| cpu.has_loaded(mm)).map(|cpu| cpu.id).collect(),
    }
}

/// Asks every holder, this CPU included, to leave `mm`, and waits. Says whether that was right to
/// do: a CPU that runs a task of a dead `Mm` is a bug elsewhere, and then nothing may be freed.
pub(super) fn shoot<M: Machine>(system: &System<M>, mm: &Mm<M>) -> bool {
    let targets = targets(system, mm);
    point::<M>(Point::MaskRead);
    let owned = AtomicBool::new(false);
    M::on_cpus(&targets, IpiReason::Shoot, &|_: CpuId| {
        if !leave(M::cpu_state(), mm) {
            // Relaxed: `on_cpus` makes what its functions wrote visible to its caller.
            owned.store(true, Ordering::Relaxed);
        }
    });
    point::<M>(Point::AllShot);
    !owned.load(Ordering::Relaxed)
}

/// On the target, interrupts masked. The slot decides, not the task: it is what the walker uses.
fn leave<M: Machine>(cpu: &CpuState<M>, mm: &Mm<M>) -> bool {
    point::<M>(Point::ShootEntered);
    if !cpu.has_loaded(mm) {
        note(cpu, Counter::ShootFoundGone, || mm.root().address().0);
        cpu.forget(mm);
        return true;
    }
    note(cpu, Counter::ShootFoundLazy, || mm.root().address().0);
    let lazy = cpu.is_lazy();
    if !lazy {
        M::complain(Complaint::ShotOwner);
    }
    cpu.unlazy();
    // After the root was left, and by the CPU itself (rule 2).
    cpu.forget(mm);
    lazy
}
