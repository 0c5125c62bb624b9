//! `lazy_tlb=shootdown`: lazy CPUs hold nothing, and are made to leave a dead `Mm` by IPI.
//!
//! Why the mask read here is complete: a CPU becomes lazy on an `Mm` only by running a task of
//! it, which is a user; it set its mask bit before it loaded the root; and its user gave its
//! reference back with Release, which the Acquire of the last drop has seen. No CPU can become
//! lazy on it any more, so the set only shrinks from here. (Linux `kernel/fork.c`,
//! `cleanup_lazy_tlbs`; the safety argument is spelled out in docs/lazy-tlb.md.)

use crate::addr::CpuId;
use crate::machine::{Complaint, IpiReason, Machine, Point, point};
use crate::mm::Mm;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::sync::{AtomicBool, Ordering};

/// Asks every holder, this CPU included, to leave `mm`, and waits. Says whether that was right to
/// do: a CPU that runs a task of a dead `Mm` is a bug elsewhere, and then nothing may be freed.
pub(super) fn shoot<M: Machine>(mm: &Mm<M>) -> bool {
    let targets = mm.holders().snapshot().intersection(&M::online());
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
        cpu.counters.count(Counter::ShootFoundGone);
        mm.holders().clear_own(cpu.id);
        return true;
    }
    cpu.counters.count(Counter::ShootFoundLazy);
    let lazy = cpu.is_lazy();
    if !lazy {
        M::complain(Complaint::ShotOwner);
    }
    cpu.unlazy();
    // After the root was left, and by the CPU itself (rule 2). Invalidations are broadcast, so
    // entries that stay behind are still reached by all of them.
    mm.holders().clear_own(cpu.id);
    lazy
}
