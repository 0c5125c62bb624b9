//! New threads and processes: `clone`.

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use mm::MmUser;

use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::heap;
use crate::machine::Kernel;
use crate::process::signal::AlternateStack;
use crate::process::{Process, UserThread, family, memory, thread, wait};
use crate::sched::{self, Builder};
use crate::user_memory;

/// What `clone` is asked for.
pub struct Request {
    /// `CLONE_…` flags; the low byte is the signal for the parent.
    pub flags: u64,
    /// The child's stack pointer; 0 for the caller's.
    pub stack: u64,
    /// Where the caller finds the child's number.
    pub parent_tid: u64,
    /// Where the child finds its number, and a zero appears when it ends.
    pub child_tid: u64,
    /// The child's `TPIDR_EL0`.
    pub tls: u64,
}

/// Flags that ask for what is not there: namespaces, and a descriptor for the child.
const REFUSED: u32 = linux::CLONE_NEWNS
    | linux::CLONE_NEWCGROUP
    | linux::CLONE_NEWUTS
    | linux::CLONE_NEWIPC
    | linux::CLONE_NEWUSER
    | linux::CLONE_NEWPID
    | linux::CLONE_NEWNET
    | linux::CLONE_PIDFD
    | linux::CLONE_PARENT;

impl Request {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    fn check(&self) -> Result<(), Errno> {
        let senseless = self.has(linux::CLONE_THREAD) && !self.has(linux::CLONE_SIGHAND)
            || self.has(linux::CLONE_SIGHAND) && !self.has(linux::CLONE_VM);
        // Only the threads of one process share descriptors, handlers and a directory.
        let shares = linux::CLONE_FILES | linux::CLONE_SIGHAND | linux::CLONE_FS;
        let senseless = senseless || self.has(shares) && !self.has(linux::CLONE_THREAD);
        if senseless || self.has(REFUSED) || self.flags >> 32 != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// Makes a thread or a process that goes on where `frame` is, with 0 in x0. Returns its number.
pub fn clone(frame: &TrapFrame, request: &Request) -> Result<u32, Errno> {
    request.check()?;
    heap::admit().map_err(|_| Errno::EAGAIN)?;
    let parent = thread::current();
    let tid = family::new_number()?;
    let mm = match request.has(linux::CLONE_VM) {
        true => sched::share_mm().ok_or(Errno::ENOMEM)?,
        false => memory::fork(frame.sp)?,
    };
    let process = match request.has(linux::CLONE_THREAD) {
        true => {
            parent.process.files.share(true);
            parent.process.clone()
        }
        false => new_process(&parent.process, tid, request)?,
    };
    let child = new_thread(parent, &process, tid, request);
    let mut first_frame = Box::new(frame.clone());
    first_frame.x[0] = 0;
    if request.stack != 0 {
        first_frame.sp = request.stack;
    }
    child.set_first_frame(first_frame, if request.has(linux::CLONE_CHILD_SETTID) { request.child_tid } else { 0 });
    if request.has(linux::CLONE_PARENT_SETTID) {
        // As in Linux, a bad address is no reason to fail.
        let _ = user_memory::write(request.parent_tid, &tid);
    }
    let borrows = request.has(linux::CLONE_VFORK);
    if borrows {
        child.borrow_address_space();
    }
    start(child.clone(), mm, request, parent)?;
    if borrows {
        wait::for_address_space(&child);
    }
    Ok(tid)
}

fn new_process(parent: &Process, pid: u32, request: &Request) -> Result<Arc<Process>, Errno> {
    let files = parent.files.duplicate()?;
    let actions = parent.signals.lock().actions.clone();
    Ok(Process::new(pid, (request.flags & 0xff) as u32, actions, files, parent.surroundings()))
}

// What is made for a thread beyond recall comes from the reserve, if need be.
const _: () = {
    assert!(size_of::<Process>() + 16 <= heap::SMALL);
    assert!(size_of::<UserThread>() + 16 <= heap::SMALL);
    assert!(size_of::<sched::Thread>() + 64 <= heap::SMALL);
};

fn new_thread(parent: &UserThread, process: &Arc<Process>, tid: u32, request: &Request) -> Arc<UserThread> {
    let own = parent.signals.lock();
    // A thread on another stack would meet the parent's handlers on the parent's alternate one.
    let shares_memory = request.has(linux::CLONE_VM) && !request.has(linux::CLONE_VFORK);
    let stack = if shares_memory { AlternateStack::NONE } else { own.stack };
    let child = UserThread::new(tid, process.clone(), own.mask, stack);
    drop(own);
    if request.has(linux::CLONE_CHILD_CLEARTID) {
        child.set_clear_child_tid(request.child_tid);
    }
    child
}

/// Tells the tables and the scheduler about the new thread.
fn start(child: Arc<UserThread>, mm: MmUser<Kernel>, request: &Request, parent: &UserThread) -> Result<(), Errno> {
    let tls = if request.has(linux::CLONE_SETTLS) { request.tls } else { thread::tls() };
    let thread = Builder::new("user")
        .tid(child.tid())
        .affinity(sched::current().affinity())
        .mm(mm)
        .tls(tls)
        .fp(sched::fp_registers())
        .extension(child.clone())
        .build(thread::begin)
        .map_err(|_| Errno::EAGAIN)?;
    child.bind(&thread);
    let is_process = !Arc::ptr_eq(&child.process, &parent.process);
    if is_process {
        family::add_process(&child.process, parent.process.pid)?;
    }
    family::add_thread(&child);
    // Whoever ends the process from here on reaches the child too; before, it finds out itself.
    let joined = heap::push(&mut child.process.threads.lock(), child.clone());
    if let Err(error) = joined {
        family::remove_thread(child.tid());
        if is_process {
            family::remove_process(child.process.pid);
        }
        return Err(error);
    }
    thread.start();
    Ok(())
}
