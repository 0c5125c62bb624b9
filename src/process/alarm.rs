//! SIGALRM at a time: `setitimer(ITIMER_REAL)`.
//!
//! One kernel thread sends the signals of all processes, so that no signal is sent from an
//! interrupt, where its locks could not be taken.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use crate::arch::timer::now_ns;
use crate::process::signal::{Cause, Info, Signal, send};
use crate::process::{Process, family};
use crate::sched::{Builder, Patience, WaitQueue};
use crate::sync::SpinLock;

/// A process's alarm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// When it goes off, in nanoseconds; 0 for never.
    pub due: u64,
    /// After how many nanoseconds it goes off again; 0 for once.
    pub interval: u64,
}

impl Timer {
    /// It never goes off.
    pub const OFF: Timer = Timer { due: 0, interval: 0 };
}

/// Who is due when.
static DUE: SpinLock<BTreeSet<(u64, u32)>> = SpinLock::new(BTreeSet::new());
static CHANGED: WaitQueue = WaitQueue::new();

/// Starts the kernel thread.
///
/// # Panics
/// If there is no memory for it.
pub fn init() {
    Builder::new("alarm").spawn(run).expect("no memory for the alarm thread");
}

/// Sets a process's alarm; returns what it was.
pub fn set(process: &Process, timer: Timer) -> Timer {
    let mut own = process.alarm.lock();
    let mut due = DUE.lock();
    if own.due != 0 {
        due.remove(&(own.due, process.pid));
    }
    if timer.due != 0 {
        due.insert((timer.due, process.pid));
    }
    drop(due);
    let before = core::mem::replace(&mut *own, timer);
    drop(own);
    CHANGED.wake_all();
    before
}

/// Switches a process's alarm off.
pub fn cancel(process: &Process) {
    let is_set = process.alarm.lock().due != 0;
    if is_set {
        set(process, Timer::OFF);
    }
}

fn first() -> Option<(u64, u32)> {
    DUE.lock().first().copied()
}

fn run() {
    loop {
        let next = first();
        let patience = Patience::ENDLESS.until(next.map(|(due, _)| due));
        // Either way there is something to look at: time, or another first one.
        let _ = CHANGED.wait(patience, || (first() != next).then_some(()));
        while let Some((due, pid)) = first().filter(|&(due, _)| due <= now_ns()) {
            go_off(due, pid);
        }
    }
}

fn go_off(due: u64, pid: u32) {
    DUE.lock().remove(&(due, pid));
    let Ok(process) = family::process(pid) else { return };
    if rearm(&process, due) {
        send::to_process(
            &process,
            Info { signal: Signal::SIGALRM, code: linux::SI_KERNEL as i32, cause: Cause::Kernel },
        );
    }
}

/// Sets the next time; `false` if the alarm was changed meanwhile.
fn rearm(process: &Arc<Process>, due: u64) -> bool {
    let mut own = process.alarm.lock();
    if own.due != due {
        return false;
    }
    own.due = match own.interval {
        0 => 0,
        // What was missed is missed: at most one signal waits anyway.
        interval => due + interval * ((now_ns().saturating_sub(due)) / interval + 1),
    };
    if own.due != 0 {
        DUE.lock().insert((own.due, process.pid));
    }
    true
}
