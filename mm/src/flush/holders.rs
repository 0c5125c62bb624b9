//! Flushes that ask only those CPUs that may have entries cached.
//!
//! `mm_cpumask` names them: a CPU sets its bit, with a DSB, before its TTBR0 holds the root, and
//! clears it only after it left the root and invalidated the ASID ([`CpuState::forget`]). The mask
//! is read after the page-table stores and a full DSB: either the flusher sees the bit, or that
//! CPU's walker sees the new entries (the store-buffering litmus, docs/lazy-tlb.md).
//!
//! # In the handler: leave first, then invalidate
//!
//! A lazy CPU that invalidated first could walk the old root again before it leaves, for any page
//! that it likes, and keep what it found under an ASID that nobody would ask it about any more.

use crate::cpumask::CpuSet;
use crate::flush::{Extent, everywhere, here};
use crate::machine::{IpiReason, Machine, Point, note, point};
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::stats::Counter;
use crate::switch::CpuState;

/// Which CPUs may have entries of an `Mm` cached.
enum Reach {
    /// None.
    Nobody,
    /// This CPU alone.
    Here,
    /// These, and no other than this one runs a task of it.
    Idle(CpuSet),
    /// At least one other, which runs a task of it.
    Running,
}

/// Asks every CPU that may have entries, this one included. With `trim` those that do not run the
/// `Mm` leave it for good.
pub(super) fn ask_all<M: Machine>(mm: &Mm<M>, extent: &Extent, trim: bool) {
    M::run(Sequence::PublishAndLook, 0);
    point::<M>(Point::EntriesPublished);
    let holders = online_holders(mm);
    point::<M>(Point::HoldersRead);
    if is_alone::<M>(&holders) {
        here(mm, extent);
    } else if !holders.is_empty() {
        ask(mm, extent, &holders, trim);
    }
}

/// Does what costs least, by who may have entries. With `trim` CPUs that do not run the `Mm` are
/// made to leave it, so that later flushes stay local; else the hardware tells them.
pub(super) fn ask_or_broadcast<M: Machine>(mm: &Mm<M>, extent: &Extent, trim: bool) {
    // A look ahead of the stores: to reach more CPUs than needed is always safe, and then the weaker
    // barrier will do.
    let guess = reach(mm);
    point::<M>(Point::HoldersGuessed);
    if matches!(guess, Reach::Running) {
        return everywhere(mm, extent);
    }
    M::run(Sequence::PublishAndLook, 0);
    point::<M>(Point::EntriesPublished);
    let reach = reach(mm);
    point::<M>(Point::HoldersRead);
    match reach {
        Reach::Nobody => {}
        Reach::Here => here(mm, extent),
        Reach::Idle(holders) if trim => ask(mm, extent, &holders, trim),
        Reach::Idle(_) | Reach::Running => everywhere(mm, extent),
    }
}

fn ask<M: Machine>(mm: &Mm<M>, extent: &Extent, holders: &CpuSet, trim: bool) {
    M::on_cpus(holders, IpiReason::Flush, &|_| obey(M::cpu_state(), mm, extent, trim));
}

/// On a CPU that was asked, interrupts masked. The acknowledgement comes after it.
fn obey<M: Machine>(cpu: &CpuState<M>, mm: &Mm<M>, extent: &Extent, trim: bool) {
    point::<M>(Point::FlushEntered);
    // The running task's own `Mm` stays loaded, perhaps only borrowed: it has a user.
    if !trim || cpu.owns(mm) {
        return here(mm, extent);
    }
    if cpu.has_loaded(mm) {
        note(cpu, Counter::UnlaziedByFlush, || mm.root().address().0);
        cpu.unlazy();
        // Not the last reference: whoever flushes holds one of the users', or the users' common one.
        drop(cpu.leave_lazy());
    }
    cpu.forget(mm);
}

/// The CPUs that may have entries and take interrupts. One that does not invalidates everything
/// before it does.
fn online_holders<M: Machine>(mm: &Mm<M>) -> CpuSet {
    mm.holders().snapshot().intersection(&M::online())
}

fn is_alone<M: Machine>(holders: &CpuSet) -> bool {
    *holders == CpuSet::only(M::cpu_state().id)
}

fn reach<M: Machine>(mm: &Mm<M>) -> Reach {
    let holders = online_holders(mm);
    if holders.is_empty() {
        return Reach::Nobody;
    }
    if is_alone::<M>(&holders) {
        return Reach::Here;
    }
    let (own, cpus) = (M::cpu_state().id, M::system().cpus());
    // A hint: the answer may be old when it is used, and only decides what the flush costs.
    let runs = holders.iter().any(|cpu| cpu != own && cpus[cpu.index()].owns(mm));
    if runs { Reach::Running } else { Reach::Idle(holders) }
}
