//! Delivers signals: the way back to the program goes through here when a flag of the thread is up.

use linux_raw_sys::general as linux;

use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::println;
use crate::process::memory::region_name;
use crate::process::signal::{Action, Handler, Info, Signal, SignalSet, frame, send};
use crate::process::thread::{self, Restart};
use crate::process::{Ending, UserThread, exit};

/// Does what must be done before the thread goes on in its program: ends it, or lets it take its
/// signals. `frame` is where it goes on.
pub fn before_return(frame: &mut TrapFrame) {
    let thread = thread::current();
    loop {
        // Before the look: a sender adds the signal first and raises the flag then.
        thread::look_away();
        if thread.must_end() {
            exit::end_thread();
        }
        let Some((info, action)) = take(thread) else { break };
        match action.handler {
            _ if action.ignores(info.signal) => {}
            Handler::Function(_) => call_handler(thread, frame, &info, &action),
            Handler::Default | Handler::Ignore => die(thread, frame, &info),
        }
    }
    if thread.take_restart() != Restart::No {
        again(frame);
    }
    let saved = thread.signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        send::set_mask(mask);
    }
}

/// Takes the first signal that is to be delivered now, and what to do with it.
fn take(thread: &UserThread) -> Option<(Info, Action)> {
    let mut shared = thread.process.signals.lock();
    let mut own = thread.signals.lock();
    let open = SignalSet(!own.mask.0);
    let info = match SignalSet(own.pending.set().0 & open.0).first() {
        Some(signal) if SignalSet::SYNCHRONOUS.contains(signal) => own.pending.take(open),
        _ => own.pending.take(open).or_else(|| shared.pending.take(open)),
    }?;
    let action = *shared.actions.get(info.signal);
    if matches!(action.handler, Handler::Function(_)) && action.has(linux::SA_RESETHAND) {
        shared.actions.set(info.signal, Action { handler: Handler::Default, ..action });
    }
    Some((info, action))
}

/// Makes the system call that was interrupted once more: its arguments are untouched in `frame`,
/// and the instruction before the program counter is the SVC.
fn again(frame: &mut TrapFrame) {
    frame.pc = frame.pc.wrapping_sub(4);
}

fn call_handler(thread: &UserThread, frame: &mut TrapFrame, info: &Info, action: &Action) {
    match thread.take_restart() {
        Restart::No => {}
        Restart::Unless if action.has(linux::SA_RESTART) => again(frame),
        Restart::Unless | Restart::UnlessHandled => frame.x[0] = Errno::EINTR.to_register(),
    }
    let mut own = thread.signals.lock();
    // What the handler's return restores is the mask from before a call like `rt_sigsuspend`.
    let mask = own.saved_mask.take().unwrap_or(own.mask);
    let stack = own.stack;
    drop(own);
    if frame::push(frame, info, action, mask, stack).is_err() {
        // The stack cannot hold the frame: as in Linux, the program dies of SIGSEGV, by a handler
        // for it only if that is another one with a stack of its own.
        return frame::bad(info.signal == Signal::SIGSEGV);
    }
    let mut blocked = thread.signals.lock().mask.union(action.mask);
    if !action.has(linux::SA_NODEFER) {
        blocked = blocked.with(info.signal);
    }
    send::set_mask(blocked);
}

/// The signal ends the process. If an instruction caused it, one line says where.
fn die(thread: &UserThread, frame: &TrapFrame, info: &Info) -> ! {
    if let super::Cause::Fault { address, .. } = info.cause {
        let no_memory = info.signal == Signal::SIGBUS && info.code == linux::BUS_ADRERR as i32;
        let why = if no_memory { ": no memory is left" } else { "" };
        let name = thread.process.name();
        let place = region_name(frame.pc);
        let target = region_name(address);
        println!(
            "{name}[{tid}]: {signal} at pc {pc:#x} ({place}), address {address:#x} ({target}){why}",
            tid = thread.tid(),
            signal = info.signal,
            pc = frame.pc,
        );
    }
    exit::end_process(&thread.process, Ending::Killed(info.signal.number() as u8));
    exit::end_thread()
}
