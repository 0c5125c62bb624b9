//! The final drop: from the last reference to the free.
//!
//! A failed check never frees. A leaked `Mm` costs a page and a struct; a freed root that a CPU
//! still walks costs whatever that page holds next.

use crate::addr::CpuId;
use crate::handle::DeadMm;
use crate::lazy::{Evicted, note_of};
use crate::machine::{Complaint, IpiReason, Machine, Mark, Point, note, point};
use crate::mm::Mm;
use crate::stats::Counter;
use crate::sync::{AtomicBool, Ordering};
use crate::system::System;

/// The last `mm_count` is gone. Frees now if this context may wait for other CPUs, else leaves
/// it to the reaper.
#[inline(never)]
pub(crate) fn final_drop<M: Machine>(dead: DeadMm<M>) {
    point::<M>(Point::CountZero);
    let system = M::system();
    dead.died_at.store(M::now_ns(), Ordering::Relaxed);
    system.dead.rise();
    note_of(&dead, Counter::MmsDied);
    if M::may_wait() {
        system.free_dead(dead);
    } else {
        note_of(&dead, Counter::MmsDeferred);
        system.reaper.push(dead);
    }
}

impl<M: Machine> System<M> {
    /// Asks the scheme to make everybody leave.
    pub(super) fn free_dead(&self, dead: DeadMm<M>) {
        if dead.is_init() {
            M::complain(Complaint::InitMmDropped);
            return self.keep(dead);
        }
        if owned_here(&dead) {
            M::complain(Complaint::OwnMmDropped);
            return self.keep(dead);
        }
        match self.config.scheme.evict(self, dead) {
            Evicted::Gone(dead) => self.release(dead),
            Evicted::Owned(dead) => self.keep(dead),
            Evicted::HandedOver => {}
        }
    }

    /// Everybody should have left. Looks again, and frees.
    pub(super) fn release(&self, dead: DeadMm<M>) {
        if self.config.check && !nobody_admits(&dead) || !nobody_holds(&dead) {
            return self.keep(dead);
        }
        self.dead.fall();
        count_free(&dead);
        // The ASID is not given back: its number stays taken until the generation ends, so no
        // entry cached under it can ever be another's.
        M::mark(Mark::RootFreed, dead.root());
        self.frames.free_root(dead.root());
        dead.free();
    }

    /// A check failed: never to be freed.
    fn keep(&self, dead: DeadMm<M>) {
        note_of(&dead, Counter::MmsLeaked);
        dead.leak();
    }
}

/// Counts a free, and how long it took since the last reference went.
fn count_free<M: Machine>(dead: &Mm<M>) {
    let _pinned = M::pin();
    let cpu = M::cpu_state();
    note(cpu, Counter::MmsFreed, || dead.root().address().0);
    cpu.counters.add(Counter::FreeLatency, M::now_ns() - dead.died_at.load(Ordering::Relaxed));
}

fn owned_here<M: Machine>(mm: &Mm<M>) -> bool {
    let _pinned = M::pin();
    M::cpu_state().owns(mm)
}

/// `lazy_tlb.debug=1`: every CPU looks at its own slot and at its real TTBR0.
fn nobody_admits<M: Machine>(mm: &Mm<M>) -> bool {
    let held = AtomicBool::new(false);
    M::on_cpus(&M::online(), IpiReason::Check, &|_: CpuId| {
        if M::cpu_state().has_loaded(mm) || M::read_ttbr0().root() == mm.root() {
            held.store(true, Ordering::Relaxed);
        }
    });
    // Relaxed: `on_cpus` makes what its functions wrote visible here.
    let held = held.load(Ordering::Relaxed);
    if held {
        M::complain(Complaint::RootStillLoaded);
    }
    !held
}

/// Rule 9: no CPU's slot names it, nor its shadow of TTBR0. This CPU's slot is among them.
fn nobody_holds<M: Machine>(mm: &Mm<M>) -> bool {
    let named = M::system().cpus().iter().any(|cpu| cpu.has_loaded(mm));
    if named {
        M::complain(Complaint::SlotNamesDead);
    }
    let loaded = M::system().cpus().iter().any(|cpu| cpu.shadow_ttbr().root() == mm.root());
    if loaded {
        M::complain(Complaint::RootStillLoaded);
    }
    !named && !loaded
}
