//! Which run queue a thread goes to.

use core::sync::atomic::{Ordering, fence};

use mm::{CpuId, CpuSet};

use super::thread::Thread;
use crate::sync::IrqGuard;
use crate::{ipi, percpu};

/// How many CPUs a waker looks at for an idle one. More would cost more than the wait they save; what is left
/// unbalanced, the next tick of the busy CPU spreads.
const PROBES: usize = 8;

/// Puts a runnable thread into a run queue. The caller owns its place.
///
/// A thread whose registers are still being saved may run nowhere else yet. Nobody waits for that: it goes to the
/// queue of the CPU that saves them, which picks it up after the save at the earliest, because it does both.
#[inline(never)]
pub(super) fn place(thread: &Thread) {
    let _masked = IrqGuard::new();
    // Acquire: pairs with the Release in `finish_switch`; what the thread saved is visible to the CPU it goes to.
    let is_saved = !thread.on_cpu.load(Ordering::Acquire);
    enqueue(thread, if is_saved { settle_cpu(thread) } else { thread.last_cpu() });
}

/// Chooses a CPU for the thread and makes it the thread's.
#[inline]
fn settle_cpu(thread: &Thread) -> usize {
    loop {
        let cpu = choose_cpu(thread);
        if cpu == thread.last_cpu() {
            return cpu;
        }
        thread.cpu.store(cpu, Ordering::Relaxed);
        // Pairs with the fence in `set_affinity`: it sees the new CPU, or we see the new set.
        fence(Ordering::SeqCst);
        if thread.affinity.allows(cpu) {
            return cpu;
        }
    }
}

/// Puts a thread into the queue of this CPU or into the inbox of another one. Interrupts are masked.
#[inline]
fn enqueue(thread: &Thread, cpu: usize) {
    let this = percpu::this();
    if cpu != this.id {
        if percpu::of(cpu).sched.post(thread) {
            ipi::send_reschedule(CpuId(cpu as u16));
        }
        return;
    }
    this.sched.push(thread);
    let idling = this.sched.is_idling();
    if idling || this.sched.slice_is_over() {
        percpu::anchor().need_resched.store(true, Ordering::Relaxed);
    }
    if !idling {
        this.sched.request_tick();
    }
}

/// The best CPU for a thread that is about to wait in a run queue: its last one if that is idle, for its caches and
/// because a lazy TLB makes the way back free; else an idle one; else the last one all the same.
#[inline]
fn choose_cpu(thread: &Thread) -> usize {
    let last = thread.last_cpu();
    let local = &percpu::of(last).sched;
    local.fetch_inbox();
    let last_allowed = local.admits(last, thread);
    if last_allowed && (thread.affinity.is_one() || local.is_idle()) {
        return last;
    }
    match idle_cpu_near(last, thread) {
        Some(cpu) => cpu,
        None if last_allowed => last,
        None => first_allowed(thread),
    }
}

/// An idle CPU for the thread, among the next few after `cpu`.
#[inline]
pub(super) fn idle_cpu_near(cpu: usize, thread: &Thread) -> Option<usize> {
    let count = percpu::count();
    let mut candidate = cpu;
    for _ in 0..PROBES.min(count - 1) {
        candidate = if candidate + 1 == count { 0 } else { candidate + 1 };
        let local = &percpu::of(candidate).sched;
        if local.admits(candidate, thread) && local.is_idle() {
            return Some(candidate);
        }
    }
    None
}

/// A CPU that the thread may run on. If all of them have been taken down, it may run anywhere from now on, as in
/// Linux: a thread that waits for a CPU to come back would keep what it holds from all others.
#[cold]
fn first_allowed(thread: &Thread) -> usize {
    let open = open_cpus();
    let allowed = thread.affinity.get().intersection(&open);
    if allowed.is_empty() {
        thread.affinity.set(&CpuSet::first(percpu::count()));
    }
    // CPU 0 is always open.
    allowed.iter().next().map_or(0, CpuId::index)
}

/// The CPUs that threads may be sent to.
pub(super) fn open_cpus() -> CpuSet {
    CpuSet::first(percpu::count()).iter().filter(|cpu| percpu::of(cpu.index()).sched.is_open()).collect()
}
