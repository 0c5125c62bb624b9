//! What the tests of threads share. Every wait has a bound: a lost wake-up is a failed test and not a hang.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use lazuli::arch::timer::now_ns;
use lazuli::sched::{self, Builder, Signals, Thread};
use lazuli::{ipi, percpu};
use mm::{CpuId, CpuSet};

pub(crate) type Outcome = Result<(), String>;

pub(crate) const MS: u64 = 1_000_000;
/// How long a test waits for what must happen: an emulated CPU may lose its host CPU for long.
pub(crate) const PATIENCE_NS: u64 = 20_000 * MS;

pub(crate) fn only(cpu: usize) -> CpuSet {
    CpuSet::only(CpuId(cpu as u16))
}

pub(crate) fn other_cpus() -> impl Iterator<Item = usize> {
    (1..percpu::count()).filter(|&cpu| ipi::online().contains(CpuId(cpu as u16)))
}

pub(crate) fn spawn_on(cpu: usize, entry: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    Builder::new("test").affinity(only(cpu)).spawn(entry).expect("no memory for a thread")
}

pub(crate) fn join(threads: &[Arc<Thread>]) -> Outcome {
    let end = now_ns() + PATIENCE_NS;
    for thread in threads {
        while !thread.has_exited() {
            if now_ns() > end {
                return Err(format!("{thread:?} has not ended"));
            }
            sleep(MS / 4);
        }
    }
    Ok(())
}

pub(crate) fn sleep(ns: u64) {
    sched::sleep_until(now_ns() + ns, Signals::Wait).expect("no signal may end this sleep");
}

/// Waits, without blocking, until `done`.
pub(crate) fn spin_until(done: impl Fn() -> bool) -> Outcome {
    let end = now_ns() + PATIENCE_NS;
    while !done() {
        if now_ns() > end {
            return Err("it did not happen in time".into());
        }
        lazuli::sync::relax();
    }
    Ok(())
}
