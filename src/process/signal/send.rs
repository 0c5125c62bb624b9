//! Sends signals.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use crate::process::signal::{Action, Cause, Handler, Info, ProcessSignals, Signal, SignalSet, ThreadSignals};
use crate::process::{Ending, Process, UserThread, exit, family, thread};

/// Sends a signal to a process: the first of its threads that does not block it takes it.
pub fn to_process(process: &Arc<Process>, info: Info) {
    if is_immune(process, info.signal) {
        return;
    }
    if info.signal == Signal::SIGKILL {
        exit::end_process(process, Ending::Killed(info.signal.number() as u8));
        return;
    }
    let threads = process.threads.lock();
    let mut shared = process.signals.lock();
    let taker = threads.iter().find(|thread| thread.signals.lock().takes(info.signal));
    let awaited = taker.is_some_and(|thread| thread.signals.lock().awaited.contains(info.signal));
    // One that is blocked may still be wanted when it no longer is.
    if taker.is_some() && !awaited && shared.actions.get(info.signal).ignores(info.signal) {
        return;
    }
    let _ = shared.pending.add(info);
    drop(shared);
    if let Some(thread) = taker {
        thread.notice();
    }
}

/// Sends a signal to one thread.
pub fn to_thread(thread: &UserThread, info: Info) {
    if is_immune(&thread.process, info.signal) {
        return;
    }
    if info.signal == Signal::SIGKILL {
        exit::end_process(&thread.process, Ending::Killed(info.signal.number() as u8));
        return;
    }
    let shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    let takes = own.takes(info.signal);
    let ignored = shared.actions.get(info.signal).ignores(info.signal);
    if takes && ignored && !own.awaited.contains(info.signal) {
        return;
    }
    let _ = own.pending.add(info);
    drop(own);
    drop(shared);
    if takes {
        thread.notice();
    }
}

/// The first process is the system: as in Linux, only signals that it has a handler for reach it.
fn is_immune(process: &Process, signal: Signal) -> bool {
    process.pid == family::INIT && !matches!(process.signals.lock().actions.get(signal).handler, Handler::Function(_))
}

/// Sends the running thread a signal that its own instruction caused. It cannot be put off: where
/// the thread blocks or ignores it, its default action comes.
pub fn force(info: Info) {
    let thread = thread::current();
    let mut shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    let action = shared.actions.get(info.signal);
    if own.mask.contains(info.signal) || action.handler == Handler::Ignore {
        shared.actions.set(info.signal, Action::DEFAULT);
        own.mask = own.mask.without(SignalSet::of(&[info.signal]));
    }
    let _ = own.pending.add(info);
    drop(own);
    drop(shared);
    thread.notice();
}

/// Sends SIGPIPE to the running thread: it wrote where nobody reads.
pub fn broken_pipe() {
    let pid = thread::current().process.pid;
    let info = Info { signal: Signal::SIGPIPE, code: linux::SI_USER as i32, cause: Cause::Process { pid } };
    to_thread(thread::current(), info);
}

/// Whether a signal waits that would be delivered to the thread now.
pub fn has_deliverable(thread: &UserThread) -> bool {
    let shared = thread.process.signals.lock();
    let own = thread.signals.lock();
    !deliverable(&shared, &own).is_empty()
}

/// The signals that would be delivered now.
pub fn deliverable(shared: &ProcessSignals, own: &ThreadSignals) -> SignalSet {
    shared.pending.set().union(own.pending.set()).without(own.mask)
}

/// Changes the running thread's mask. A signal that the new mask lets through is delivered on the
/// way back to the program; one that it now blocks goes to another thread.
pub fn set_mask(mask: SignalSet) {
    let thread = thread::current();
    let shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    own.mask = mask.without(SignalSet::UNBLOCKABLE);
    let must_look = !deliverable(&shared, &own).is_empty();
    let left_over = SignalSet(shared.pending.set().0 & own.mask.0);
    drop(own);
    drop(shared);
    if must_look {
        thread.notice();
    }
    if !left_over.is_empty() {
        pass_on(thread, left_over);
    }
}

/// Lets another thread take the signals that wait for the process of `thread`, which takes none any more.
pub fn pass_on_all(thread: &UserThread) {
    let waiting = thread.process.signals.lock().pending.set();
    if !waiting.is_empty() {
        pass_on(thread, waiting);
    }
}

/// Lets another thread take signals of the process that `thread` blocks.
fn pass_on(thread: &UserThread, signals: SignalSet) {
    let threads = thread.process.threads.lock();
    let other = threads.iter().find(|other| {
        !core::ptr::eq(&raw const ***other, thread) && !signals.without(other.signals.lock().mask).is_empty()
    });
    if let Some(other) = other {
        other.notice();
    }
}

/// Says what is to be done with a signal. One that is ignored from now on no longer waits.
pub fn set_action(process: &Process, signal: Signal, action: Action) {
    let threads = process.threads.lock();
    let mut shared = process.signals.lock();
    shared.actions.set(signal, action);
    if action.ignores(signal) {
        shared.pending.forget(signal);
        for thread in threads.iter() {
            thread.signals.lock().pending.forget(signal);
        }
    }
}

/// The signals that wait because the thread blocks them.
pub fn blocked_and_pending(thread: &UserThread) -> SignalSet {
    let shared = thread.process.signals.lock();
    let own = thread.signals.lock();
    SignalSet(shared.pending.set().union(own.pending.set()).0 & own.mask.0)
}

/// Takes a signal of `set` that waits for the thread, blocked or not.
pub fn take(thread: &UserThread, set: SignalSet) -> Option<Info> {
    let mut shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    own.pending.take(set).or_else(|| shared.pending.take(set))
}

/// The same; if there is none, one that comes makes itself noticed from now on.
pub fn take_or_await(thread: &UserThread, set: SignalSet) -> Option<Info> {
    let mut shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    let info = own.pending.take(set).or_else(|| shared.pending.take(set));
    own.awaited = if info.is_some() { SignalSet::EMPTY } else { set };
    info
}
