//! SGIs: delivered late, only where interrupts are on, now and then twice; on request some get lost, and who waits asks again.

#![expect(unsafe_code, reason = "a function that others run while its caller waits loses its lifetime on the way")]

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::{CpuId, CpuSet, IpiReason};

use super::{Event, Lying, State, World, this_thread};
use crate::Machine;

/// A function that CPUs were asked to run.
pub(super) struct Call {
    function: &'static (dyn Fn(CpuId) + Sync),
    reason: IpiReason,
    /// How many CPUs have still to run it.
    pending: AtomicUsize,
    /// CPUs that its SGI did not reach.
    lost: Mutex<Vec<usize>>,
}

impl Call {
    /// Whether every target has run it.
    pub(super) fn is_done(&self) -> bool {
        // Acquire: pairs with the Release in `run_one`.
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Whether somebody has to be asked again.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost().is_empty()
    }

    fn lost(&self) -> MutexGuard<'_, Vec<usize>> {
        self.lost.lock().expect("no thread unwinds")
    }
}

/// SGIs that a CPU has not taken yet.
pub(super) type Inbox = VecDeque<Arc<Call>>;

pub(super) fn on_cpus(world: &'static World, targets: &CpuSet, reason: IpiReason, f: &(dyn Fn(CpuId) + Sync)) {
    assert!(Lying::may_wait(), "a wait for other CPUs with interrupts masked (P4)");
    let pinned = Lying::pin();
    let me = this_thread().expect("the director waits for nobody");
    let own = world.lock().threads[me].cpu;
    // One that has gone offline since the caller looked holds nothing.
    let targets = targets.intersection(&Lying::online());
    world.lock().senders += 1;
    // SAFETY: only the lifetime changes. The reference is used by targets that have not yet
    // answered, and this function does not return before all have; nor does it unwind, because a
    // thread of the machine that panics is stopped for ever with its stack (`baton::catch_panics`).
    let function = unsafe { mem::transmute::<&(dyn Fn(CpuId) + Sync), &'static (dyn Fn(CpuId) + Sync)>(f) };
    let call = Arc::new(Call { function, reason, pending: AtomicUsize::new(targets.count()), lost: Mutex::default() });
    for target in targets.iter().filter(|target| target.index() != own) {
        world.step(Event::Send(reason, target), |state, _| {
            match reason {
                IpiReason::Flush => state.flushes += 1,
                IpiReason::Shoot => state.shoots += 1,
                IpiReason::Check => state.checks += 1,
            }
            if state.rng.one_in(world.setup.lies.lost) {
                call.lost().push(target.index());
            } else {
                state.cores[target.index()].inbox.push_back(call.clone());
            }
        });
    }
    if targets.contains(CpuId(own as u16)) {
        let masked = Lying::mask_irqs();
        run_one(world, &call, own, false);
        drop(masked);
    }
    world.lock().threads[me].waits_for = Some(call.clone());
    while !call.is_done() {
        world.step(Event::Wait, |state, _| {
            call.lost().drain(..).for_each(|target| state.cores[target].inbox.push_back(call.clone()));
        });
    }
    world.lock().threads[me].waits_for = None;
    world.lock().senders -= 1;
    drop(pinned);
}

/// Takes an SGI that is pending here, if interrupts are on; perhaps only later. Says whether it did.
pub(super) fn take_one(world: &'static World) -> bool {
    let Some(me) = this_thread() else { return false };
    let mut state = world.lock();
    let cpu = state.threads[me].cpu;
    if state.cores[cpu].masked || state.cores[cpu].inbox.is_empty() {
        return false;
    }
    if state.may_be_late(cpu) && state.is_late(world.setup.lies.late_sgi) {
        return false;
    }
    let twice = state.rng.one_in(world.setup.lies.twice);
    let call = state.cores[cpu].inbox.pop_front().expect("looked above");
    state.cores[cpu].masked = true;
    state.cpus[cpu].synchronise();
    drop(state);
    world.step(Event::Take(call.reason), |_, _| ());
    run_one(world, &call, cpu, twice);
    let mut state = world.lock();
    state.cpus[cpu].synchronise();
    state.cores[cpu].masked = false;
    true
}

impl State {
    /// Whether the CPU has anything else to do than take an SGI.
    pub(super) fn may_be_late(&self, cpu: usize) -> bool {
        let current = self.cores[cpu].current;
        self.threads[current].waits_for.is_none() && current != self.cores[cpu].idle
    }

    fn is_late(&mut self, chance: u32) -> bool {
        match &mut self.told {
            Some(told) => !std::mem::take(&mut told.takes_sgi),
            None => self.rng.one_in(chance),
        }
    }
}

fn run_one(world: &World, call: &Call, cpu: usize, twice: bool) {
    (call.function)(CpuId(cpu as u16));
    if twice {
        (call.function)(CpuId(cpu as u16));
    }
    // What the function stored is visible to who waits: pairs with the Acquire in `is_done`.
    call.pending.fetch_sub(1, Ordering::Release);
    world.lock().spins = 0;
}

/// Interrupts are on again: those that waited may come now.
pub(super) fn unmask(world: &'static World) {
    let me = this_thread().expect("the director masks nothing");
    {
        let mut state = world.lock();
        let cpu = state.threads[me].cpu;
        state.cores[cpu].masked = false;
    }
    world.step(Event::Unmask, |_, _| ());
}
