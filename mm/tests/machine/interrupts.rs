//! SGIs: delivered late, only where interrupts are on, now and then twice.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mm::{CpuId, CpuSet, IpiReason};

use super::{Event, Lying, World, this_thread};
use mm::Machine;

/// A function that CPUs were asked to run.
pub(crate) struct Call {
    function: &'static (dyn Fn(CpuId) + Sync),
    reason: IpiReason,
    /// How many CPUs have still to run it.
    pending: AtomicUsize,
}

impl Call {
    /// Whether every target has run it.
    pub(super) fn is_done(&self) -> bool {
        // Acquire: pairs with the Release in `run_one`.
        self.pending.load(Ordering::Acquire) == 0
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
    let call = Arc::new(Call { function, reason, pending: AtomicUsize::new(targets.count()) });
    for target in targets.iter().filter(|target| target.index() != own) {
        world.step(Event::Send(reason, target), |state, _| {
            match reason {
                IpiReason::Flush => state.flushes += 1,
                IpiReason::Shoot => state.shoots += 1,
                IpiReason::Check => state.checks += 1,
            }
            state.cores[target.index()].inbox.push_back(call.clone());
        });
    }
    if targets.contains(CpuId(own as u16)) {
        let masked = Lying::mask_irqs();
        run_one(world, &call, own, false);
        drop(masked);
    }
    world.lock().threads[me].waits_for = Some(call.clone());
    while !call.is_done() {
        world.step(Event::Wait, |_, _| ());
    }
    world.lock().threads[me].waits_for = None;
    world.lock().senders -= 1;
    drop(pinned);
}

/// Takes the SGIs that are pending here, if interrupts are on; perhaps only later.
pub(super) fn take(world: &'static World) {
    let Some(me) = this_thread() else { return };
    loop {
        let mut state = world.lock();
        let cpu = state.threads[me].cpu;
        if state.cores[cpu].masked || state.cores[cpu].inbox.is_empty() {
            return;
        }
        let busy = state.threads[me].waits_for.is_none() && me != state.cores[cpu].idle;
        if busy && state.rng.one_in(world.setup.lies.late_sgi) {
            return;
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
