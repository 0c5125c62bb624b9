//! The end of threads and processes.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use crate::drivers::power;
use crate::process::family::endings::{self, Rest};
use crate::process::futex::Scope;
use crate::process::signal::{Action, Cause, Handler, Info, Signal, send};
use crate::process::{Ending, Process, UserThread, alarm, family, futex, thread};
use crate::sched;
use crate::sched::thread::flags;
use crate::user_memory;

/// Decides how a process ends, and makes all its threads end as soon as they can: a wait ends, and
/// so does a stretch of user code.
pub fn end_process(process: &Process, ending: Ending) {
    process.decide(ending);
    for thread in process.threads.lock().iter() {
        kill(thread);
    }
}

/// Makes a thread end as soon as it can.
pub fn kill(thread: &UserThread) {
    if let Some(thread) = thread.scheduled() {
        thread.interrupt(flags::KILL | flags::SIGNAL_PENDING);
    }
}

/// Ends the running thread, and with the last thread its process.
///
/// The caller keeps nothing on its stack that would have to be dropped.
pub fn end_thread() -> ! {
    leave_address_space(thread::current());
    finish(thread::current());
    sched::exit()
}

/// Says so to whoever waits for the thread, and gives its address space back.
fn leave_address_space(thread: &UserThread) {
    let address = thread.clear_child_tid();
    if address != 0 {
        // A bad address is the program's own problem.
        let _ = user_memory::write(address, &0u32);
        let _ = futex::wake(address, Scope::Shared, 1, u32::MAX);
    }
    // This CPU is lazy from here on: the address space may be torn down under it.
    let left = sched::replace_mm(None);
    drop(left);
    thread.return_address_space();
}

fn finish(thread: &UserThread) {
    let process = &thread.process;
    // First: once it has left `threads`, a thread that runs `execve` may be the only one, and take this number.
    family::remove_thread(thread.tid());
    let mut threads = process.threads.lock();
    let own = threads.iter().position(|other| core::ptr::eq(&raw const **other, thread));
    let removed = own.map(|index| threads.swap_remove(index));
    let is_last = threads.is_empty();
    drop(threads);
    drop(removed);
    if is_last {
        end_family_member(process);
    } else {
        // A signal for the process may have chosen this thread just now.
        send::pass_on_all(thread);
        process.changed.wake_all();
    }
}

/// The last thread is gone: what the process had goes, and its parent hears of it.
fn end_family_member(process: &Arc<Process>) {
    let ending = process.ending().unwrap_or(Ending::Exited(process.first_code()));
    if process.pid == family::INIT {
        power::exit(ending.to_exit_code());
    }
    alarm::cancel(process);
    process.files.close_all(&**process);
    for concerned in endings::end(process.pid, ending, tell) {
        concerned.changed.wake_all();
    }
}

/// See [`endings::Tell`].
fn tell(parent: &Arc<Process>, child: &Process, ending: Ending) -> Rest {
    let Ok(signal) = Signal::new(u64::from(child.exit_signal())) else { return Rest::Waits };
    let mut rest = Rest::Waits;
    if signal == Signal::SIGCHLD {
        let action: Action = *parent.signals.lock().actions.get(signal);
        if action.handler == Handler::Ignore {
            return Rest::IsForgotten;
        }
        if action.has(linux::SA_NOCLDWAIT) {
            rest = Rest::IsForgotten;
        }
    }
    let (code, status) = ending.to_code_and_status();
    let cause = Cause::Child { pid: child.pid, status };
    send::to_process(parent, Info { signal, code, cause });
    rest
}
