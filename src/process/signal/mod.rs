//! Signals: what they are, what a process wants done with them, and what waits to be delivered.
//!
//! [`send`] puts them in, [`deliver`] takes them out on the way back to the program, [`frame`]
//! shows them to a handler. Job control is not there: signals that would stop a process do
//! nothing, and so does SIGCONT unless it has a handler.

pub mod deliver;
pub mod frame;
pub mod info;
pub mod pending;
pub mod send;

use alloc::sync::Arc;
use core::fmt;

use linux_raw_sys::general as linux;

use crate::errno::Errno;
use crate::heap;
pub use info::{Cause, Info};
pub use pending::Pending;

/// A signal: 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident)*) => {
        impl Signal {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Signal = Signal(linux::$name as u8);
            )*
        }

        impl fmt::Display for Signal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Signal::$name => f.write_str(stringify!($name)),)*
                    Signal(number) => write!(f, "signal {number}"),
                }
            }
        }
    };
}

signals! {
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM
    SIGTERM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGWINCH SIGSYS
}

impl Signal {
    /// The signal with this number.
    pub fn new(number: u64) -> Result<Signal, Errno> {
        if (1..=64).contains(&number) { Ok(Signal(number as u8)) } else { Err(Errno::EINVAL) }
    }

    /// Its number.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    /// Its place in an array of all signals.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// Whether several of it can wait, each with its own information.
    pub fn is_real_time(self) -> bool {
        self.number() >= linux::SIGRTMIN
    }

    /// What it does to a process that did not say otherwise.
    pub fn default_action(self) -> DefaultAction {
        match self {
            Signal::SIGCHLD | Signal::SIGCONT | Signal::SIGURG | Signal::SIGWINCH => DefaultAction::Ignore,
            // They stop a process elsewhere; here there is no job control.
            Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => DefaultAction::Ignore,
            _ => DefaultAction::Terminate,
        }
    }
}

/// What a signal does by default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// It ends the process.
    Terminate,
}

/// A set of signals: signal n is bit n - 1, as in `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// What no program can block, ignore or handle.
    pub const UNBLOCKABLE: SignalSet = SignalSet::of(&[Signal::SIGKILL, Signal::SIGSTOP]);
    /// What the running instruction causes: delivered before all else.
    pub const SYNCHRONOUS: SignalSet = SignalSet::of(&[
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGFPE,
        Signal::SIGSYS,
    ]);

    /// The set of these.
    pub const fn of(signals: &[Signal]) -> SignalSet {
        let mut bits = 0;
        let mut i = 0;
        while i < signals.len() {
            bits |= 1 << (signals[i].0 - 1);
            i += 1;
        }
        SignalSet(bits)
    }

    /// Whether the signal is in it.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & 1 << signal.index() != 0
    }

    /// With the signal.
    pub fn with(self, signal: Signal) -> SignalSet {
        SignalSet(self.0 | 1 << signal.index())
    }

    /// In either.
    pub fn union(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// In the first and not in the second.
    pub fn without(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The one to deliver first: what the running instruction caused, then the lowest number.
    pub fn first(self) -> Option<Signal> {
        let urgent = self.0 & Self::SYNCHRONOUS.0;
        let bits = if urgent != 0 { urgent } else { self.0 };
        (bits != 0).then(|| Signal(bits.trailing_zeros() as u8 + 1))
    }
}

/// What a process wants done with a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// What the signal does by default.
    Default,
    /// Nothing.
    Ignore,
    /// A function of the program, by its address.
    Function(u64),
}

/// A process's wish for one signal, as `rt_sigaction` takes it.
#[derive(Clone, Copy)]
pub struct Action {
    /// What to do.
    pub handler: Handler,
    /// `SA_…` flags.
    pub flags: u64,
    /// Where a handler returns to, with `SA_RESTORER`.
    pub restorer: u64,
    /// What is blocked while the handler runs, besides the signal itself.
    pub mask: SignalSet,
}

impl Action {
    /// What every process starts with.
    pub const DEFAULT: Action = Action { handler: Handler::Default, flags: 0, restorer: 0, mask: SignalSet::EMPTY };

    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Whether a signal with this action goes unnoticed.
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.handler {
            Handler::Default => signal.default_action() == DefaultAction::Ignore,
            Handler::Ignore => true,
            Handler::Function(_) => false,
        }
    }
}

/// Actions for all signals. A copy costs nothing until one of the two changes: most children keep their parent's. In
/// parts, so that a change takes no more than a small block of the heap.
#[derive(Clone)]
pub struct Actions([Arc<[Action; PART]>; 64 / PART]);

/// How many actions are copied together.
const PART: usize = 16;
const _: () = assert!(size_of::<[Action; PART]>() + 16 <= heap::SMALL);

impl Actions {
    /// What the first process starts with.
    pub fn initial() -> Actions {
        Actions(core::array::from_fn(|_| Arc::new([Action::DEFAULT; PART])))
    }

    /// The action for a signal.
    pub fn get(&self, signal: Signal) -> &Action {
        &self.0[signal.index() / PART][signal.index() % PART]
    }

    /// Changes the action for a signal.
    pub fn set(&mut self, signal: Signal, action: Action) {
        Arc::make_mut(&mut self.0[signal.index() / PART])[signal.index() % PART] = action;
    }

    /// What `execve` leaves: handlers are gone with the program that had them.
    pub fn reset_for_exec(&mut self) {
        for part in &mut self.0 {
            if part.iter().all(|action| action.handler == Handler::Default && action.flags == 0) {
                continue;
            }
            for action in Arc::make_mut(part) {
                let handler = match action.handler {
                    Handler::Ignore => Handler::Ignore,
                    Handler::Default | Handler::Function(_) => Handler::Default,
                };
                *action = Action { handler, ..Action::DEFAULT };
            }
        }
    }
}

/// The stack that handlers with `SA_ONSTACK` run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AlternateStack {
    /// Its lowest address.
    pub start: u64,
    /// How many bytes it has; 0 says that there is none.
    pub size: u64,
    /// `SS_AUTODISARM`, if it was given.
    pub flags: u32,
}

impl AlternateStack {
    /// None.
    pub const NONE: AlternateStack = AlternateStack { start: 0, size: 0, flags: 0 };

    /// Whether the stack pointer is on it.
    pub fn holds(&self, sp: u64) -> bool {
        // A stack grows down from its end: the end itself is on it, the start is not.
        sp > self.start && sp - self.start <= self.size
    }
}

/// What a thread keeps about signals.
pub struct ThreadSignals {
    /// What is blocked.
    pub mask: SignalSet,
    /// What `rt_sigtimedwait` waits for: it comes although it is blocked, and although it is ignored.
    pub awaited: SignalSet,
    /// The mask to go back to when a call that changed it for its duration is over.
    pub saved_mask: Option<SignalSet>,
    /// What waits for this thread.
    pub pending: Pending,
    /// Its alternate stack.
    pub stack: AlternateStack,
}

impl ThreadSignals {
    /// What a new thread starts with.
    pub fn new(mask: SignalSet, stack: AlternateStack) -> Self {
        Self { mask, awaited: SignalSet::EMPTY, saved_mask: None, pending: Pending::new(), stack }
    }

    /// Whether the signal would make the thread do something now.
    pub fn takes(&self, signal: Signal) -> bool {
        !self.mask.contains(signal) || self.awaited.contains(signal)
    }
}

/// What a process keeps about signals.
pub struct ProcessSignals {
    /// Its wishes.
    pub actions: Actions,
    /// What waits for any of its threads.
    pub pending: Pending,
}

impl ProcessSignals {
    /// A process with these wishes for which nothing waits.
    pub fn new(actions: Actions) -> Self {
        Self { actions, pending: Pending::new() }
    }
}
