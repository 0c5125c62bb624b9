//! `lazy_tlb=qsbr`: a dead `Mm` is freed once every CPU has passed a point where it held no dead one.
//!
//! An epoch is counted up with each death. A CPU notes the epoch that it sees where it provably
//! holds no dead `Mm`: after it loaded another root, and at a tick taken from user mode. When every
//! CPU has noted the epoch of a death, or has `init_mm` loaded, nobody has that `Mm` any more. No CPU
//! is interrupted, none writes what others write.
//!
//! # Why a noted epoch means what it says
//!
//! 1. CPU 0 runs `A` and notes the epoch it reads, say 7. `A` has a user: the task that runs.
//! 2. The task ends there, CPU 0 stays lazy on `A`, and the last reference goes elsewhere.
//! 3. That death takes the epoch from at least 7 to at least 8, because it comes after the task's end,
//!    and that after the note. CPU 0 noted 7: `A` waits.
//! 4. CPU 0 loads another root, DSB and all, and then notes 8 or more: it cannot have `A` any more.
//!
//! A CPU that idles on `A` notes nothing: *idle on a user root is not quiescent*. So that it cannot
//! keep every dead `Mm` for ever, it loads `init_mm` when it has been idle for [`UNLAZY_AFTER`]; and when
//! half of [`LIMIT`] wait, or one has waited for [`LONGEST_WAIT`], the CPUs that still have one of them loaded
//! get one IPI. That is the bound: at most [`LIMIT`] dead `Mm`s, a page and a struct each.

use crate::addr::CpuId;
use crate::handle::{DeadList, DeadMm};
use crate::lazy::{Evicted, Scheme, batch, note_of};
use crate::machine::{IpiReason, Machine, Point, note, point};
use crate::mm::Mm;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::sync::Ordering;
use crate::system::System;

/// The most dead `Mm`s that wait.
pub(crate) const LIMIT: usize = 256;
/// From how many on CPUs are interrupted: the rest is room for those that die meanwhile.
const INTERRUPT_AT: usize = LIMIT / 2;
/// How many more must have died before a death looks whether the earlier ones can go.
const LOOK_EVERY: usize = 16;
/// How long a CPU may idle on a user root, in nanoseconds.
const UNLAZY_AFTER: u64 = 2_000_000;
/// How often the reaper looks, in nanoseconds.
const LOOK_AFTER: u64 = 4_000_000;
/// How long a dead `Mm` waits before CPUs are interrupted for it, in nanoseconds.
const LONGEST_WAIT: u64 = 100_000_000;

/// Stamps a dead `Mm` and lets it wait.
pub(super) fn retire<M: Machine>(system: &System<M>, dead: DeadMm<M>) -> Evicted<M> {
    if dead.holders().snapshot().is_empty() {
        // No CPU ever had it loaded.
        return Evicted::Gone(dead);
    }
    // AcqRel: Acquire makes this death come after whatever notes preceded it, Release pairs with the
    // Acquire in `note_epoch`. Before the push: once on the list, others may free it.
    let epoch = system.epoch.fetch_add(1, Ordering::AcqRel) + 1;
    // Relaxed: published with the push, by `push_to` and `take_all`.
    dead.epoch.store(epoch, Ordering::Relaxed);
    match system.waiting.admit(dead) {
        Ok(1) => M::wake_reaper_at(M::now_ns() + LOOK_AFTER),
        Ok(number) if !number.is_multiple_of(LOOK_EVERY) => {}
        Ok(number) if number >= INTERRUPT_AT => free_all(system),
        Ok(_) => _ = free_passed(system),
        Err(dead) => free_list(system, system.waiting.take_all(), Some(dead)),
    }
    Evicted::HandedOver
}

impl<M: Machine> CpuState<M> {
    /// Notes the epoch. Here and now this CPU holds no dead `Mm`.
    #[inline]
    pub(crate) fn note_epoch(&self) {
        // Acquire: pairs with the Release in `retire`. Release: pairs with the Acquire in `has_passed`;
        // the root that was left, was left before.
        let epoch = M::system().epoch.load(Ordering::Acquire);
        self.epoch.store(epoch, Ordering::Release);
    }

    fn has_passed(&self, mm: &Mm<M>) -> bool {
        // Acquire: pairs with the Release in `note_epoch`.
        self.epoch.load(Ordering::Acquire) >= mm.epoch.load(Ordering::Relaxed)
    }
}

impl<M: Machine> System<M> {
    /// The timer interrupted user code on this CPU: it holds the `Mm` of a task that runs. Interrupts
    /// are masked.
    #[inline]
    pub fn tick_from_user(&self) {
        if self.config.scheme == Scheme::Qsbr {
            M::cpu_state().note_epoch();
        }
    }

    /// This CPU, idle and interrupts masked, is about to sleep. `since` is the time at which it became
    /// idle, in nanoseconds; the first call finds `None` there and notes it. Gives the time at which it
    /// wants to be asked again, if the CPU still sleeps then.
    #[inline]
    pub fn before_sleep(&self, since: &mut Option<u64>) -> Option<u64> {
        if self.config.scheme == Scheme::Qsbr { self.unlazy_in_time(since) } else { None }
    }

    #[cold]
    fn unlazy_in_time(&self, since: &mut Option<u64>) -> Option<u64> {
        let cpu = M::cpu_state();
        if cpu.has_loaded(self.init_mm()) {
            return None;
        }
        let now = M::now_ns();
        let until = *since.get_or_insert(now) + UNLAZY_AFTER;
        if now < until {
            return Some(until);
        }
        note(cpu, Counter::IdleUnlazied, || cpu.shadow_ttbr().root().address().0);
        cpu.unlazy();
        None
    }
}

/// Frees what every CPU has passed, and interrupts for what has waited long enough.
pub(super) fn free_old<M: Machine>(system: &System<M>) {
    let now = M::now_ns();
    if free_passed(system).is_some_and(|oldest| oldest + LONGEST_WAIT <= now) {
        free_all(system);
    }
    // One that came while others counted still was not the first, and has asked nobody to come for it.
    if system.waiting.number() != 0 {
        M::wake_reaper_at(now + LOOK_AFTER);
    }
}

/// Frees what every CPU has passed; the others wait on. Gives the time at which the oldest of them died.
fn free_passed<M: Machine>(system: &System<M>) -> Option<u64> {
    let mut oldest: Option<u64> = None;
    for dead in system.waiting.take_all() {
        if system.cpus().iter().all(|cpu| cpu.has_passed(&dead) || cpu.has_loaded(system.init_mm())) {
            note_of(&dead, Counter::FreedByEpoch);
            free_one(system, dead);
        } else {
            let died_at = dead.died_at.load(Ordering::Relaxed);
            oldest = Some(oldest.map_or(died_at, |oldest| oldest.min(died_at)));
            system.waiting.put_back(dead);
        }
    }
    oldest
}

/// Frees all that wait: who still has one of them loaded is interrupted.
pub(super) fn free_all<M: Machine>(system: &System<M>) {
    let _ = free_passed(system);
    if system.waiting.number() != 0 {
        free_list(system, system.waiting.take_all(), None);
    }
}

fn free_list<M: Machine>(system: &System<M>, list: DeadList<M>, extra: Option<DeadMm<M>>) {
    point::<M>(Point::WaitingTaken);
    let held = |cpu: &&CpuState<M>| list.each().chain(extra.as_deref()).any(|mm| cpu.has_loaded(mm));
    let targets = system.cpus().iter().filter(held).map(|cpu| cpu.id).collect();
    M::on_cpus(&targets, IpiReason::Shoot, &|_: CpuId| batch::leave_dead(M::cpu_state()));
    for dead in list {
        free_one(system, dead);
    }
    if let Some(dead) = extra {
        system.release(dead);
    }
}

fn free_one<M: Machine>(system: &System<M>, dead: DeadMm<M>) {
    system.release(dead);
    system.waiting.leave();
}
