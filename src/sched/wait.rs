//! Waiting for an event without losing the wake-up.
//!
//! A wake-up is lost if the waker looks before the thread blocks and the thread looks before the event happens.
//! Hence one rule for both sides, with a full fence in the middle:
//!
//! | the thread that waits (`block_once`)   | the waker (`wake`)             |
//! |----------------------------------------|--------------------------------|
//! | 1. state = blocked                     | 1. make the event true         |
//! | 2. full fence                          | 2. full fence                  |
//! | 3. look for the event                  | 3. look at the state           |
//! | 4. not there: give up the CPU          | 4. blocked: make it runnable   |
//!
//! Whichever fence comes second, the step after it sees what the other side did before its own. Both may see each
//! other: then one of them wins the compare-exchange from blocked to runnable. If it is the thread, it goes on. If it
//! is the waker, the thread is on its way into a run queue and must give up the CPU to be taken out of it again, even
//! though it has its event.
//!
//! Between 1 and 4 the thread is not preempted: it would be put into a run queue for that, and then a waker would
//! put it there once more.

use core::sync::atomic::{Ordering, fence};

use mm::CpuId;

use super::thread::{State, Thread, flags};
use super::timers::with_deadline;
use super::{current, give_up_cpu, placement};
use crate::arch::timer;
use crate::sync::{self, IrqGuard, PreemptGuard};
use crate::{ipi, percpu};

/// What ends a wait besides its event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// The time, on the clock of `now_ns`, at which the wait fails.
    pub deadline_ns: Option<u64>,
    /// What a signal does.
    pub signals: Signals,
}

/// What a signal does to a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signals {
    /// It ends it.
    Interrupt,
    /// Nothing.
    Wait,
}

impl Patience {
    /// Waits for the event, whatever else comes.
    pub const ENDLESS: Self = Self { deadline_ns: None, signals: Signals::Wait };
    /// Waits until a signal comes.
    pub const INTERRUPTIBLE: Self = Self { deadline_ns: None, signals: Signals::Interrupt };

    /// The same with a deadline.
    pub const fn until(self, deadline_ns: Option<u64>) -> Self {
        Self { deadline_ns, ..self }
    }

    fn is_over(&self, thread: &Thread) -> Option<WaitError> {
        // Relaxed: the fence before it pairs with the one in `interrupt`.
        let pending = thread.flags.load(Ordering::Relaxed) & (flags::SIGNAL_PENDING | flags::KILL) != 0;
        if self.signals == Signals::Interrupt && pending {
            Some(WaitError::Interrupted)
        } else if self.deadline_ns.is_some_and(|deadline| timer::now_ns() >= deadline) {
            Some(WaitError::TimedOut)
        } else {
            None
        }
    }
}

/// Why a wait ended without its event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// The deadline came.
    TimedOut,
    /// A signal came.
    Interrupted,
}

/// How one round of waiting ended.
pub(super) enum Round<T> {
    /// The event happened.
    Ready(T),
    /// Patience ran out.
    Failed(WaitError),
    /// Somebody woke the thread: time to look again.
    Woken,
}

/// Blocks `thread`, which is the running one, until it is woken, unless `look` finds the event already.
///
/// `look` runs with preemption off and must not wait itself. A page fault in it is fine: that waits for no thread.
pub(super) fn block_once<T>(thread: &Thread, patience: &Patience, look: impl FnOnce() -> Option<T>) -> Round<T> {
    debug_assert!(sync::may_wait(), "a thread blocks with interrupts masked or a lock held");
    let pinned = PreemptGuard::new();
    let state = match patience.signals {
        Signals::Interrupt => State::Interruptible,
        Signals::Wait => State::Blocked,
    };
    // Release: pairs with the Acquire in `wake`; the waker sees the `cpu` and `on_cpu` that this CPU wrote.
    thread.state.store(state as u32, Ordering::Release);
    // Pairs with the fences in `wake` and `interrupt`.
    fence(Ordering::SeqCst);
    let round = match look() {
        Some(event) => Round::Ready(event),
        None => patience.is_over(thread).map_or(Round::Woken, Round::Failed),
    };
    let blocks = matches!(round, Round::Woken);
    if !blocks && claim(thread, state) {
        return round;
    }
    let masked = IrqGuard::new();
    // Interrupts are masked, so preemption that is due waits for the switch that comes now.
    drop(pinned);
    match patience.deadline_ns {
        Some(deadline) if blocks => with_deadline(thread, timer::ticks_from_ns(deadline), give_up_cpu),
        _ => give_up_cpu(),
    }
    drop(masked);
    round
}

/// Makes a thread in this blocked state runnable, and the caller the owner of its place. False if another was faster.
fn claim(thread: &Thread, state: State) -> bool {
    // Acquire: pairs with the Release in `block_once`.
    let claimed =
        thread.state.compare_exchange(state as u32, State::Runnable as u32, Ordering::Acquire, Ordering::Relaxed);
    claimed.is_ok()
}

/// Wakes a thread from any wait. Its event has happened before; the caller keeps the thread alive.
pub(super) fn wake(thread: &Thread) {
    // Pairs with the fence in `block_once`.
    fence(Ordering::SeqCst);
    let state = match thread.state.load(Ordering::Relaxed) {
        state if state == State::Blocked as u32 => State::Blocked,
        state if state == State::Interruptible as u32 => State::Interruptible,
        _ => return,
    };
    // If it fails, the thread has gone on, and sees the event before it blocks again.
    if claim(thread, state) {
        placement::place(thread);
    }
}

/// Ends the running thread's sleep at this time, on the clock of `now_ns`, or at a signal if those interrupt it.
///
/// # Errors
///
/// [`WaitError::Interrupted`] only.
pub fn sleep_until(deadline_ns: u64, signals: Signals) -> Result<(), WaitError> {
    let patience = Patience { deadline_ns: Some(deadline_ns), signals };
    let thread = current();
    loop {
        match block_once(thread, &patience, || None::<()>) {
            Round::Failed(WaitError::TimedOut) => return Ok(()),
            Round::Failed(error) => return Err(error),
            Round::Ready(()) | Round::Woken => {}
        }
    }
}

/// Waits for one [`Thread::unpark`] of the running thread. One that came before counts, but only once.
///
/// # Errors
///
/// If patience ran out first.
pub fn park(patience: Patience) -> Result<(), WaitError> {
    let thread = current();
    loop {
        // AcqRel: pairs with the same in `unpark`; what the other thread did before is visible.
        match block_once(thread, &patience, || thread.unparked.swap(false, Ordering::AcqRel).then_some(())) {
            Round::Ready(()) => return Ok(()),
            Round::Failed(error) => return Err(error),
            Round::Woken => {}
        }
    }
}

impl Thread {
    /// Ends the thread's [`park`], or the next one if it is not parked.
    pub fn unpark(&self) {
        // AcqRel: pairs with the same in `park`.
        self.unparked.swap(true, Ordering::AcqRel);
        wake(self);
    }

    /// Sets bits of [`Thread::flags`], which are looked at before each return to user code, and makes the thread get
    /// there: ends its wait if signals do, and interrupts its user code on another CPU.
    pub fn interrupt(&self, flags: u32) {
        // Release: pairs with the Acquire of who handles the flag.
        self.flags.fetch_or(flags, Ordering::Release);
        // Pairs with the fence in `block_once`.
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        if state == State::Interruptible as u32 && claim(self, State::Interruptible) {
            placement::place(self);
        } else if state == State::Runnable as u32 && self.last_cpu() != percpu::cpu_id() {
            // It may be in user code. The interrupt takes it out of there; if it comes too early, the thread has yet to
            // get there and sees the flag on its way. A move to another CPU has a fence (`place`): then we saw the new
            // CPU, or the thread sees the flag.
            ipi::send_reschedule(CpuId(self.last_cpu() as u16));
        }
    }
}
