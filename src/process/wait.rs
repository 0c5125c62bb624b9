//! Waiting for children.

use crate::errno::Errno;
use crate::process::family::endings::{self, Found, Question};
use crate::process::{Process, UserThread, thread};
use crate::sched::Patience;

/// Whether the caller waits until a child ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// It does.
    Yes,
    /// It does not (`WNOHANG`).
    No,
}

/// Waits for a child to end. `Ok(None)` comes with [`Hang::No`] only.
pub fn for_child(question: &Question, hang: Hang) -> Result<Option<Found>, Errno> {
    let process = &thread::current().process;
    let look = || endings::find_ended(process.pid, question).transpose();
    match hang {
        Hang::No => look().transpose(),
        Hang::Yes => process.changed.wait(Patience::INTERRUPTIBLE, look)?.map(Some),
    }
}

/// Waits until `child` has an address space of its own, or none. Only the caller's death ends the
/// wait early: until then, the child uses the caller's stack.
pub fn for_address_space(child: &UserThread) {
    loop {
        let done = child.process.changed.wait(Patience::INTERRUPTIBLE, || (!child.is_borrowing()).then_some(()));
        if done.is_ok() || thread::current().must_end() {
            break;
        }
        thread::look_away();
    }
    thread::look_again();
}

/// Waits until the running thread is the only one of its process. `false` says that it must end
/// itself.
pub fn until_alone(process: &Process) -> bool {
    let alone = || (process.threads.lock().len() == 1).then_some(());
    loop {
        if process.changed.wait(Patience::INTERRUPTIBLE, alone).is_ok() {
            break;
        }
        if thread::current().must_end() {
            return false;
        }
        thread::look_away();
    }
    thread::look_again();
    true
}
