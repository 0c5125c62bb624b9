//! One thread of a program: what the process layer keeps with the scheduler's thread.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use spin::once::Once;

use crate::arch::el0;
use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::fs::in_use::Using;
use crate::process::Process;
use crate::process::futex::Waiter;
use crate::process::signal::{AlternateStack, SignalSet, ThreadSignals};
use crate::sched::thread::flags;
use crate::sched::{self, Thread};
use crate::sync::{Relax, SpinLock};
use crate::trace::event::Kind;
use crate::{heap, trace, user_memory};

/// What a system call that a signal interrupted wants.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Restart {
    /// No call was interrupted.
    No,
    /// Again, unless a handler without `SA_RESTART` runs.
    Unless,
    /// Again, unless any handler runs.
    UnlessHandled,
}

/// One thread of a program.
pub struct UserThread {
    /// The process it belongs to.
    pub process: Arc<Process>,
    /// Which open file its system call uses.
    pub using: Using,
    /// Its signals.
    pub signals: SpinLock<ThreadSignals>,
    /// Its number, which is the process's for the first thread, and for one that ran `execve`.
    tid: AtomicU32,
    scheduled: Once<Weak<Thread>, Relax>,
    /// What it calls itself, ended by a zero; empty if it has not said.
    name: SpinLock<[u8; 16]>,
    /// Where to write a zero, and whom to wake, when it ends. Relaxed: its own.
    clear_child_tid: AtomicU64,
    /// See [`Restart`]. Relaxed: its own.
    restart: AtomicU8,
    /// 1 while its address space is lent by a thread that waits in `vfork`.
    borrows: AtomicU8,
    /// What it is to those who wake it at a futex, once it has waited at one.
    waiter: Once<Arc<Waiter>, Relax>,
    /// Where it begins, until it does.
    first: SpinLock<Option<First>>,
}

/// Where a thread begins.
struct First {
    frame: Box<TrapFrame>,
    /// Where it writes its number before; 0 for nowhere.
    set_tid: u64,
}

impl UserThread {
    /// A thread that the scheduler does not know yet.
    pub fn new(tid: u32, process: Arc<Process>, mask: SignalSet, stack: AlternateStack) -> Arc<UserThread> {
        Arc::new(UserThread {
            process,
            using: Using::nothing(),
            signals: SpinLock::new(ThreadSignals::new(mask, stack)),
            tid: AtomicU32::new(tid),
            scheduled: Once::new(),
            name: SpinLock::new([0; 16]),
            clear_child_tid: AtomicU64::new(0),
            restart: AtomicU8::new(Restart::No as u8),
            borrows: AtomicU8::new(0),
            waiter: Once::new(),
            first: SpinLock::new(None),
        })
    }

    /// Its number.
    pub fn tid(&self) -> u32 {
        // Relaxed: it changes once, in `execve`, when the process has no other thread.
        self.tid.load(Ordering::Relaxed)
    }

    /// Gives it the process's number, for `execve`.
    pub fn become_first(&self) {
        self.tid.store(self.process.pid, Ordering::Relaxed);
    }

    /// Says which thread of the scheduler it is.
    pub fn bind(&self, thread: &Arc<Thread>) {
        self.scheduled.call_once(|| Arc::downgrade(thread));
    }

    /// The scheduler's thread, if it still runs.
    pub fn scheduled(&self) -> Option<Arc<Thread>> {
        self.scheduled.get()?.upgrade()
    }

    /// What it is to those who wake it at a futex.
    pub fn waiter(&self) -> Result<&Arc<Waiter>, Errno> {
        match self.waiter.get() {
            Some(waiter) => Ok(waiter),
            None => heap::admit().map(|()| self.waiter.call_once(Arc::default)),
        }
    }

    /// Says where it begins, and where it writes its number before that; 0 for nowhere.
    pub fn set_first_frame(&self, frame: Box<TrapFrame>, set_tid: u64) {
        *self.first.lock() = Some(First { frame, set_tid });
    }

    /// Makes it look at its signals: a wait ends, and so does a stretch of user code.
    pub fn notice(&self) {
        if let Some(thread) = self.scheduled() {
            thread.interrupt(flags::SIGNAL_PENDING);
        }
    }

    /// What it calls itself, or else the name of its program.
    pub fn name(&self) -> [u8; 16] {
        let own = *self.name.lock();
        if own[0] != 0 {
            return own;
        }
        let mut name = [0; 16];
        let program = self.process.name();
        let length = program.len().min(15);
        name[..length].copy_from_slice(&program.as_bytes()[..length]);
        name
    }

    /// Gives it a name, of which fifteen bytes count.
    pub fn set_name(&self, name: &[u8]) {
        let mut own = [0; 16];
        let length = name.len().min(15);
        own[..length].copy_from_slice(&name[..length]);
        *self.name.lock() = own;
    }

    /// Records what it is called. In its own context.
    pub fn announce(&self) {
        trace::note(Kind::Name, || {
            let [first, second] = [0, 8].map(|at| self.name()[at..].first_chunk().copied().unwrap_or_default());
            (u64::from_le_bytes(first), u64::from_le_bytes(second))
        });
    }

    /// Where to write a zero when it ends.
    pub fn clear_child_tid(&self) -> u64 {
        self.clear_child_tid.load(Ordering::Relaxed)
    }

    /// Says where to write a zero when it ends; 0 for nowhere.
    pub fn set_clear_child_tid(&self, address: u64) {
        self.clear_child_tid.store(address, Ordering::Relaxed);
    }

    /// Notes that the running system call was interrupted.
    pub fn set_restart(&self, restart: Restart) {
        self.restart.store(restart as u8, Ordering::Relaxed);
    }

    /// What an interrupted system call wants; the question is answered once.
    pub fn take_restart(&self) -> Restart {
        let wish = self.restart.load(Ordering::Relaxed);
        if wish == Restart::No as u8 {
            return Restart::No;
        }
        self.set_restart(Restart::No);
        if wish == Restart::Unless as u8 { Restart::Unless } else { Restart::UnlessHandled }
    }

    /// Says that it runs in an address space that another thread waits for.
    pub fn borrow_address_space(&self) {
        // Relaxed: it does not run yet.
        self.borrows.store(1, Ordering::Relaxed);
    }

    /// Whether it still does.
    pub fn is_borrowing(&self) -> bool {
        // Acquire: pairs with the Release in `return_address_space`.
        self.borrows.load(Ordering::Acquire) != 0
    }

    /// It has an address space of its own, or needs none any more: whoever waits for it may go on.
    pub fn return_address_space(&self) {
        // Release: pairs with the Acquire in `is_borrowing`; what it wrote is there.
        if self.borrows.swap(0, Ordering::Release) != 0 {
            self.process.changed.wake_all();
        }
    }

    /// Whether it must end instead of going on.
    pub fn must_end(&self) -> bool {
        self.process.ending().is_some() || self.process.throws_out(self)
    }
}

/// Begins the program in the running thread, which is new.
pub fn begin() {
    let thread = current();
    let first = thread.first.lock().take();
    let Some(First { frame, set_tid }) = first else { return };
    if set_tid != 0 {
        // As in Linux, a bad address is no reason to fail.
        let _ = user_memory::write(set_tid, &thread.tid());
    }
    thread.announce();
    let mut first_frame = (*frame).clone();
    drop(frame);
    // Its process may have been told to end before this thread was among its threads.
    look_again();
    el0::enter(&mut first_frame)
}

/// The running thread's `TPIDR_EL0`.
pub fn tls() -> u64 {
    let tls;
    // SAFETY: reads a register that is the program's own.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) tls, options(nomem, nostack, preserves_flags)) };
    tls
}

/// Lets the running thread wait although it has signals: they are put off until [`look_again`].
pub fn look_away() {
    // Relaxed: a signal that comes now raises the flag again, one that came before waits in a queue.
    sched::current().flags.fetch_and(!flags::SIGNAL_PENDING, Ordering::Relaxed);
}

/// Makes the running thread see on its way out what [`look_away`] put off.
pub fn look_again() {
    sched::current().interrupt(flags::SIGNAL_PENDING);
}

/// The running thread's part.
///
/// # Panics
/// In a thread that runs no program.
#[inline]
pub fn current() -> &'static UserThread {
    try_current().expect("a kernel thread has no process")
}

/// The running thread's part, if it runs a program.
#[inline]
pub fn try_current() -> Option<&'static UserThread> {
    let thread = sched::current();
    let extension = thread.extension();
    debug_assert!(extension.is_null() || thread.is_extended_by::<UserThread>());
    // SAFETY: null, or the address of what lives as long as the running thread. Only this layer gives threads an
    // extension, in `start`, and it is always this: to ask for the type again would cost every system call.
    unsafe { extension.cast::<UserThread>().as_ref() }
}
