//! System calls on signals.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use super::Call;
use super::time::deadline_after;
use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::heap;
use crate::process::signal::frame::{self, stack_flags};
use crate::process::signal::info::SIZE as INFO_SIZE;
use crate::process::signal::{Action, AlternateStack, Cause, Handler, Info, Signal, SignalSet, send};
use crate::process::{Process, UserThread, family, thread};
use crate::sched::{self, Patience};
use crate::user_memory;

/// `SIG_DFL` and `SIG_IGN`.
const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;

fn check_set_size(size: u64) -> Result<(), Errno> {
    if size == size_of::<SignalSet>() as u64 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn read_set(address: u64, size: u64) -> Result<SignalSet, Errno> {
    check_set_size(size)?;
    Ok(SignalSet(user_memory::read(address)?).without(SignalSet::UNBLOCKABLE))
}

pub(super) fn rt_sigaction(call: Call<'_>) -> Result<usize, Errno> {
    check_set_size(call.arg(3))?;
    let signal = Signal::new(u64::from(call.arg32(0)))?;
    let new = match call.arg(1) {
        0 => None,
        _ if SignalSet::UNBLOCKABLE.contains(signal) => return Err(Errno::EINVAL),
        address => {
            heap::admit()?;
            Some(read_action(address)?)
        }
    };
    let process = &thread::current().process;
    let before = *process.signals.lock().actions.get(signal);
    user_memory::write_unless_null(call.arg(2), &action_words(&before))?;
    if let Some(action) = new {
        send::set_action(process, signal, action);
    }
    Ok(0)
}

/// Reads a `struct sigaction` of the kernel's: handler, flags, restorer, mask.
fn read_action(address: u64) -> Result<Action, Errno> {
    let [handler, flags, restorer, mask]: [u64; 4] = user_memory::read(address)?;
    let handler = match handler {
        DEFAULT => Handler::Default,
        IGNORE => Handler::Ignore,
        function => Handler::Function(function),
    };
    Ok(Action { handler, flags, restorer, mask: SignalSet(mask).without(SignalSet::UNBLOCKABLE) })
}

fn action_words(action: &Action) -> [u64; 4] {
    let handler = match action.handler {
        Handler::Default => DEFAULT,
        Handler::Ignore => IGNORE,
        Handler::Function(function) => function,
    };
    [handler, action.flags, action.restorer, action.mask.0]
}

pub(super) fn rt_sigprocmask(call: Call<'_>) -> Result<usize, Errno> {
    check_set_size(call.arg(3))?;
    let before = thread::current().signals.lock().mask;
    if call.arg(1) != 0 {
        let set = read_set(call.arg(1), call.arg(3))?;
        send::set_mask(match call.arg32(0) {
            linux::SIG_BLOCK => before.union(set),
            linux::SIG_UNBLOCK => before.without(set),
            linux::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        });
    }
    user_memory::write_unless_null(call.arg(2), &before.0)?;
    Ok(0)
}

pub(super) fn rt_sigpending(call: Call<'_>) -> Result<usize, Errno> {
    if call.arg(1) > size_of::<SignalSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let waiting = send::blocked_and_pending(thread::current());
    user_memory::write_bytes(call.arg(0), &waiting.0.to_le_bytes()[..call.arg(1) as usize])?;
    Ok(0)
}

/// Replaces the mask for the duration of a call. What was before comes back by [`resume_mask`], or
/// on the way back to the program, after the handler of a signal that ended the call.
pub(super) fn suspend_mask(address: u64, size: u64) -> Result<(), Errno> {
    let set = read_set(address, size)?;
    let mut own = thread::current().signals.lock();
    own.saved_mask = Some(own.mask);
    drop(own);
    send::set_mask(set);
    Ok(())
}

/// Ends what [`suspend_mask`] began, if it did.
pub(super) fn resume_mask() {
    let saved = thread::current().signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        send::set_mask(mask);
    }
}

pub(super) fn rt_sigsuspend(call: Call<'_>) -> Result<usize, Errno> {
    suspend_mask(call.arg(0), call.arg(1))?;
    // What is not a signal does not count.
    while sched::park(Patience::INTERRUPTIBLE).is_ok() {}
    Err(Errno::RESTART_UNLESS_HANDLED)
}

pub(super) fn rt_sigtimedwait(call: Call<'_>) -> Result<usize, Errno> {
    let set = read_set(call.arg(0), call.arg(3))?;
    let patience = Patience::INTERRUPTIBLE.until(deadline_after(call.arg(2))?);
    let info = await_signal(set, patience)?;
    user_memory::write_unless_null(call.arg(1), &info.to_bytes())?;
    Ok(info.signal.number() as usize)
}

fn await_signal(set: SignalSet, patience: Patience) -> Result<Info, Errno> {
    let thread = thread::current();
    loop {
        if let Some(info) = send::take_or_await(thread, set) {
            return Ok(info);
        }
        let ended = sched::park(patience);
        // What came for us raised the flag, though it is blocked.
        thread.signals.lock().awaited = SignalSet::EMPTY;
        thread::look_away();
        if let Some(info) = send::take(thread, set) {
            thread::look_again();
            return Ok(info);
        }
        if let Err(error) = ended {
            thread::look_again();
            match error {
                sched::WaitError::TimedOut => return Err(Errno::EAGAIN),
                sched::WaitError::Interrupted if send::has_deliverable(thread) || thread.must_end() => {
                    return Err(Errno::EINTR);
                }
                sched::WaitError::Interrupted => thread::look_away(),
            }
        }
    }
}

pub(super) fn rt_sigreturn(frame: &mut TrapFrame) -> Result<usize, Errno> {
    let x0 = match frame::pop(frame) {
        Ok(x0) => x0,
        Err(_) => {
            frame::bad(false);
            frame.x[0]
        }
    };
    Ok(x0 as usize)
}

/// The least size of an alternate stack, `MINSIGSTKSZ`.
const MIN_STACK: u64 = linux::MINSIGSTKSZ as u64;

pub(super) fn sigaltstack(call: Call<'_>) -> Result<usize, Errno> {
    let sp = call.frame.sp();
    let before = thread::current().signals.lock().stack;
    if call.arg(0) != 0 {
        let [start, flags, size]: [u64; 3] = user_memory::read(call.arg(0))?;
        let flags = flags as u32;
        if before.size != 0 && before.flags & linux::SS_AUTODISARM == 0 && before.holds(sp) {
            return Err(Errno::EPERM);
        }
        let stack = match flags & !linux::SS_AUTODISARM {
            linux::SS_DISABLE => AlternateStack::NONE,
            0 | linux::SS_ONSTACK if size < MIN_STACK => return Err(Errno::ENOMEM),
            0 | linux::SS_ONSTACK => AlternateStack { start, size, flags: flags & linux::SS_AUTODISARM },
            _ => return Err(Errno::EINVAL),
        };
        thread::current().signals.lock().stack = stack;
    }
    let words = [before.start, u64::from(stack_flags(before, sp)), before.size];
    user_memory::write_unless_null(call.arg(1), &words)?;
    Ok(0)
}

/// The signal that an argument numbers; 0 is none, to ask whether one could be sent.
fn signal(number: u32) -> Result<Option<Signal>, Errno> {
    if number == 0 { Ok(None) } else { Signal::new(u64::from(number)).map(Some) }
}

fn from_here(signal: Signal, code: i32) -> Info {
    Info { signal, code, cause: Cause::Process { pid: thread::current().process.pid } }
}

pub(super) fn kill(call: Call<'_>) -> Result<usize, Errno> {
    let own = thread::current().process.pid;
    let signal = signal(call.arg32(1))?;
    let send = |target: &Arc<Process>| {
        if let Some(signal) = signal {
            send::to_process(target, from_here(signal, linux::SI_USER as i32));
        }
    };
    let group = match call.arg32(0) as i32 {
        -1 => None,
        0 => Some(family::group(own)?),
        i32::MIN => return Err(Errno::ESRCH),
        group @ ..0 => Some(group.unsigned_abs()),
        pid => {
            send(&family::process(pid.unsigned_abs())?);
            return Ok(0);
        }
    };
    let is_meant = |target: &Arc<Process>| group.is_some() || ![own, family::INIT].contains(&target.pid);
    let count = family::processes(group).filter(is_meant).inspect(send).count();
    if count == 0 { Err(Errno::ESRCH) } else { Ok(0) }
}

/// The thread with this number, of the process with that one if it matters.
fn target(process: Option<u32>, tid: u32) -> Result<Arc<UserThread>, Errno> {
    if (tid as i32) <= 0 || process.is_some_and(|pid| (pid as i32) <= 0) {
        return Err(Errno::EINVAL);
    }
    family::thread(tid).and_then(|thread| match process {
        Some(pid) if thread.process.pid != pid => Err(Errno::ESRCH),
        _ => Ok(thread),
    })
}

fn send_to_thread(process: Option<u32>, tid: u32, number: u32) -> Result<usize, Errno> {
    let target = target(process, tid)?;
    if let Some(signal) = signal(number)? {
        send::to_thread(&target, from_here(signal, linux::SI_TKILL));
    }
    Ok(0)
}

pub(super) fn tkill(call: Call<'_>) -> Result<usize, Errno> {
    send_to_thread(None, call.arg32(0), call.arg32(1))
}

pub(super) fn tgkill(call: Call<'_>) -> Result<usize, Errno> {
    send_to_thread(Some(call.arg32(0)), call.arg32(1), call.arg32(2))
}

/// Reads a `siginfo_t` that a program made. Only the kernel says what it says itself.
fn read_info(address: u64, signal: Signal, to_itself: bool) -> Result<Info, Errno> {
    let bytes: [u8; INFO_SIZE] = user_memory::read(address)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let code = word(8) as i32;
    if !to_itself && (code >= 0 || code == linux::SI_TKILL) {
        return Err(Errno::EPERM);
    }
    let value = u64::from(word(24)) | u64::from(word(28)) << 32;
    Ok(Info { signal, code, cause: Cause::Queued { pid: word(16), uid: word(20), value } })
}

pub(super) fn rt_sigqueueinfo(call: Call<'_>) -> Result<usize, Errno> {
    let (pid, number) = (call.arg32(0), call.arg32(1));
    let to_itself = pid == thread::current().process.pid;
    let target = family::process(pid)?;
    if let Some(signal) = signal(number)? {
        send::to_process(&target, read_info(call.arg(2), signal, to_itself)?);
    }
    Ok(0)
}

pub(super) fn rt_tgsigqueueinfo(call: Call<'_>) -> Result<usize, Errno> {
    let (pid, tid, number) = (call.arg32(0), call.arg32(1), call.arg32(2));
    let to_itself = pid == thread::current().process.pid;
    let target = target(Some(pid), tid)?;
    if let Some(signal) = signal(number)? {
        send::to_thread(&target, read_info(call.arg(3), signal, to_itself)?);
    }
    Ok(0)
}
