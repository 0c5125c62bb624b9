//! Processes and threads of programs.
//!
//! A [`Process`] is what its threads share; a [`UserThread`] is what one of them has for itself,
//! and hangs on the scheduler's thread. [`family`] knows who is whose child. Lock order: family →
//! a process's threads → its signals → a thread's signals; every other lock here is a leaf. The family
//! is outermost because a child's end and the signal that tells of it appear in one step.

pub mod alarm;
pub mod exec;
pub mod exit;
pub mod family;
pub mod fault;
pub mod fork;
pub mod futex;
pub mod init;
pub mod memory;
pub mod signal;
pub mod stack;
pub mod thread;
pub mod wait;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::fs::descriptor::Descriptors;
use crate::fs::in_use::{Users, Using};
use crate::fs::node::Node;
use crate::fs::path::Start;
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
pub use signal::deliver::before_return;
use signal::{Actions, ProcessSignals, Signal};
pub use thread::{UserThread, current};

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It returned this number.
    Exited(u8),
    /// This signal ended it.
    Killed(u8),
}

impl Ending {
    /// The word that `wait4` gives.
    pub fn to_status(self) -> u32 {
        match self {
            Ending::Exited(code) => u32::from(code) << 8,
            Ending::Killed(signal) => u32::from(signal),
        }
    }

    /// The same as `siginfo_t` gives it: why, and the number.
    pub fn to_code_and_status(self) -> (i32, u32) {
        match self {
            Ending::Exited(code) => (linux::CLD_EXITED as i32, u32::from(code)),
            Ending::Killed(signal) => (linux::CLD_KILLED as i32, u32::from(signal)),
        }
    }

    /// What a shell would make of it: the number itself, or 128 plus the signal.
    pub fn to_exit_code(self) -> i32 {
        match self {
            Ending::Exited(code) => i32::from(code),
            Ending::Killed(signal) => 128 + i32::from(signal),
        }
    }
}

/// What the threads of a program share.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number; 0 for none. Relaxed: written under the lock of `family`; a reader gets the one or the other.
    parent: AtomicU32,
    /// The signal that its parent gets when it ends; 0 for none. Relaxed: written and read under the lock of `family`.
    exit_signal: AtomicU32,
    /// Its living threads.
    pub threads: SpinLock<Vec<Arc<UserThread>>>,
    /// A thread left, or a child changed: for `execve`, `wait4` and a parent in `vfork`.
    pub changed: WaitQueue,
    /// Its signals.
    pub signals: SpinLock<ProcessSignals>,
    /// When SIGALRM is due, and again after how long.
    pub alarm: SpinLock<alarm::Timer>,
    /// Its descriptors.
    pub files: Descriptors,
    surroundings: SpinLock<Surroundings>,
    /// How it ends, once that is decided: 0, or the status word plus [`DECIDED`].
    ending: AtomicU32,
    /// What its first thread returned. Relaxed: read after that thread has left `threads`.
    first_code: AtomicU32,
    /// The thread that throws all others out for an `execve`, by its address; 0 for none.
    sole_survivor: AtomicU64,
}

const DECIDED: u32 = 1 << 31;

/// Where a process is in the tree of files, and what it is.
#[derive(Clone)]
pub struct Surroundings {
    /// Where its relative paths start, and its program.
    pub start: Start,
    /// The permissions that files it creates do not get.
    pub umask: u32,
    /// The path of its program, as it was started.
    pub program: Arc<[u8]>,
}

impl Users for Process {
    fn each(&self, mut visit: impl FnMut(&Using)) {
        for thread in self.threads.lock().iter() {
            visit(&thread.using);
        }
    }
}

impl Process {
    /// A process without threads.
    pub fn new(
        pid: u32,
        exit_signal: u32,
        actions: Actions,
        files: Descriptors,
        surroundings: Surroundings,
    ) -> Arc<Process> {
        Arc::new(Process {
            pid,
            parent: AtomicU32::new(0),
            exit_signal: AtomicU32::new(exit_signal),
            threads: SpinLock::new(Vec::new()),
            changed: WaitQueue::new(),
            signals: SpinLock::new(ProcessSignals::new(actions)),
            alarm: SpinLock::new(alarm::Timer::OFF),
            files,
            surroundings: SpinLock::new(surroundings),
            ending: AtomicU32::new(0),
            first_code: AtomicU32::new(0),
            sole_survivor: AtomicU64::new(0),
        })
    }

    /// Its parent's number; 0 if it has none.
    #[inline]
    pub fn parent(&self) -> u32 {
        self.parent.load(Ordering::Relaxed)
    }

    fn set_parent(&self, parent: u32) {
        self.parent.store(parent, Ordering::Relaxed);
    }

    /// The signal that its parent gets when it ends; 0 for none.
    pub fn exit_signal(&self) -> u32 {
        self.exit_signal.load(Ordering::Relaxed)
    }

    fn set_exit_signal(&self, signal: Signal) {
        self.exit_signal.store(signal.number(), Ordering::Relaxed);
    }

    /// Where it is and what it is.
    pub fn surroundings(&self) -> Surroundings {
        self.surroundings.lock().clone()
    }

    /// Where its relative paths start.
    pub fn start(&self) -> Start {
        self.surroundings.lock().start.clone()
    }

    /// Moves it to another directory.
    pub fn change_directory(&self, directory: Arc<Node>) {
        let before = core::mem::replace(&mut self.surroundings.lock().start.directory, directory);
        drop(before);
    }

    /// Sets the permissions that new files do not get; returns the former.
    pub fn set_umask(&self, umask: u32) -> u32 {
        core::mem::replace(&mut self.surroundings.lock().umask, umask & 0o777)
    }

    /// The permissions that new files do not get.
    pub fn umask(&self) -> u32 {
        self.surroundings.lock().umask
    }

    /// Says that it runs another program now.
    pub fn set_program(&self, executable: Arc<Node>, path: Arc<[u8]>) {
        let mut surroundings = self.surroundings.lock();
        let before = surroundings.start.executable.replace(executable);
        surroundings.program = path;
        drop(surroundings);
        drop(before);
    }

    /// The path of its program.
    pub fn program(&self) -> Arc<[u8]> {
        self.surroundings.lock().program.clone()
    }

    /// The last name of that path, for messages.
    pub fn name(&self) -> String {
        let program = self.program();
        String::from_utf8_lossy(program.rsplit(|&byte| byte == b'/').next().unwrap_or(&program)).into_owned()
    }

    /// How it ends, if that is decided.
    pub fn ending(&self) -> Option<Ending> {
        // Acquire: pairs with the AcqRel in `decide`.
        let word = self.ending.load(Ordering::Acquire);
        match (word & 0x7f, word >> 8 & 0xff) {
            _ if word & DECIDED == 0 => None,
            (0, code) => Some(Ending::Exited(code as u8)),
            (signal, _) => Some(Ending::Killed(signal as u8)),
        }
    }

    /// Decides how it ends, unless that is decided already.
    pub fn decide(&self, ending: Ending) {
        let word = ending.to_status() | DECIDED;
        // AcqRel: pairs with the Acquire in `ending`. Whoever comes second changes nothing.
        let _ = self.ending.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// What its first thread returned.
    pub fn first_code(&self) -> u8 {
        self.first_code.load(Ordering::Relaxed) as u8
    }

    /// Notes what its first thread returns.
    pub fn set_first_code(&self, code: u8) {
        self.first_code.store(u32::from(code), Ordering::Relaxed);
    }

    /// Whether `thread` must end although the process goes on: another one of it runs `execve`.
    pub fn throws_out(&self, thread: &UserThread) -> bool {
        // Acquire: pairs with the Release in `claim_survival`.
        let survivor = self.sole_survivor.load(Ordering::Acquire);
        survivor != 0 && survivor != core::ptr::from_ref(thread).expose_provenance() as u64
    }

    /// Makes `thread` the one that survives; `false` if another one was first.
    pub fn claim_survival(&self, thread: &UserThread) -> bool {
        let address = core::ptr::from_ref(thread).expose_provenance() as u64;
        // Release: pairs with the Acquire in `throws_out`.
        self.sole_survivor.compare_exchange(0, address, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Gives the others their lives back, or ends the `execve` that took them.
    pub fn end_survival(&self) {
        self.sole_survivor.store(0, Ordering::Release);
    }
}
