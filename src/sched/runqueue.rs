//! Run queues: one per CPU, which only that CPU reads, so none has a lock.
//!
//! Other CPUs push into its *inbox*, a list that only grows until the owner takes all of it at once; whoever finds it
//! empty sends the reschedule IPI. So a thread in an inbox always has an IPI on its way, or an owner that is about to
//! look anyway, and a wake-up costs at most one IPI however many threads follow it.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use super::placement::{idle_cpu_near, place};
use super::thread::Thread;
use super::timers::Timers;
use crate::arch::cpu::fetch_to_write;
use crate::arch::{fpsimd, timer};
use crate::percpu::{self, PerCpu};
use crate::sync;

/// How long a thread runs while others wait: a compromise, as everywhere, between delay and disturbance.
const SLICE_NS: u64 = 4_000_000;
/// The same in ticks. Relaxed: written once, by CPU 0 before another one starts.
static SLICE_TICKS: AtomicU64 = AtomicU64::new(0);

/// Learns how long a slice is in ticks. After `timer::init`.
pub(super) fn init() {
    SLICE_TICKS.store(timer::ticks_from_ns(SLICE_NS), Ordering::Relaxed);
}

/// The scheduler's part of a CPU.
#[derive(Debug)]
pub struct Local {
    /// What others look at before they send a thread here, and where they send it: together, in lines that are theirs as
    /// much as this CPU's. The rest is this CPU's alone.
    pub(super) shared: Shared,
    queue: Queue,
    /// What is left to do after the switch: an [`Aftercare`], and [`LEFT_AN_MM`]. Relaxed: this CPU only.
    pub(super) aftercare: AtomicU8,
    /// When the running thread's slice ends, in ticks. Relaxed: this CPU only.
    slice_end: AtomicU64,
    /// When the timer rings next, in ticks. Relaxed: this CPU only.
    alarm: AtomicU64,
    pub(super) timers: Timers,
    pub(crate) fp: fpsimd::Local,
}

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shared {
    /// Threads that other CPUs sent, newest first.
    inbox: AtomicPtr<Thread>,
    /// The running thread. Relaxed: written by this CPU; others only compare it with `idle`, as a hint.
    pub(super) current: AtomicPtr<Thread>,
    /// What runs when nothing else does. Relaxed: written once, before the CPU goes online.
    pub(super) idle: AtomicPtr<Thread>,
    /// Threads may be sent here. Relaxed: who closes the CPU waits for those that have read it before (`hotplug`).
    open: AtomicBool,
}

/// What the switch leaves to be done for the previous thread once its stack is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Aftercare {
    Nothing,
    /// It may not run here any more: send it elsewhere.
    Move,
    /// It has exited: the reaper frees it.
    Bury,
}

/// In `Local::aftercare`: the mm layer has to finish the switch.
pub(super) const LEFT_AN_MM: u8 = 0x80;

/// Threads in the order in which they will run, linked through `Thread::next`.
#[derive(Debug)]
struct Queue {
    first: Cell<*const Thread>,
    last: Cell<*const Thread>,
}

// SAFETY: only the owning CPU touches it, with interrupts masked; `Local`'s functions check that they are masked, and
// are called on `percpu::this()` only.
unsafe impl Sync for Queue {}
// SAFETY: as for Sync.
unsafe impl Send for Queue {}

impl Queue {
    const fn new() -> Self {
        Self { first: Cell::new(ptr::null()), last: Cell::new(ptr::null()) }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    #[inline]
    fn push(&self, thread: &Thread) {
        thread.next.store(ptr::null_mut(), Ordering::Relaxed);
        if self.is_empty() {
            self.first.set(thread);
        } else {
            // SAFETY: the queue is not empty, and threads in a queue are alive (see `thread`).
            unsafe { &*self.last.get() }.next.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
        }
        self.last.set(thread);
    }

    #[inline]
    fn pop(&self) -> Option<&'static Thread> {
        // SAFETY: null, or a thread in a queue, and those are alive (see `thread`).
        let thread = unsafe { self.first.get().as_ref() }?;
        self.first.set(thread.next.load(Ordering::Relaxed));
        Some(thread)
    }
}

impl Local {
    /// A CPU that has not joined the scheduler.
    pub const fn new() -> Self {
        Self {
            shared: Shared {
                inbox: AtomicPtr::new(ptr::null_mut()),
                current: AtomicPtr::new(ptr::null_mut()),
                idle: AtomicPtr::new(ptr::null_mut()),
                open: AtomicBool::new(false),
            },
            queue: Queue::new(),
            aftercare: AtomicU8::new(Aftercare::Nothing as u8),
            slice_end: AtomicU64::new(0),
            alarm: AtomicU64::new(timer::NEVER),
            timers: Timers::new(),
            fp: fpsimd::Local::new(),
        }
    }

    #[inline]
    pub(super) fn is_idling(&self) -> bool {
        self.is_idle_thread(self.shared.current.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn is_idle_thread(&self, thread: *const Thread) -> bool {
        ptr::eq(thread, self.shared.idle.load(Ordering::Relaxed))
    }

    /// Whether a thread waits to run here. On this CPU, interrupts masked.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        // Relaxed: if it misses a push, the pusher's IPI is on its way.
        !self.queue.is_empty() || !self.shared.inbox.load(Ordering::Relaxed).is_null()
    }

    /// Whether threads may be sent here.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Lets threads be sent here, or not. Those that are here already leave at the CPU's next look.
    pub(super) fn set_open(&self, open: bool) {
        // Release: pairs with the fence in `hotplug::leave`.
        self.shared.open.store(open, Ordering::Release);
    }

    /// Whether this CPU, which is open, has nothing to do and nothing coming. A hint when another CPU asks: it may
    /// change at any moment.
    pub(super) fn is_idle(&self) -> bool {
        // Relaxed: a hint.
        self.is_idling() && self.shared.inbox.load(Ordering::Relaxed).is_null()
    }

    /// Whether a thread may run on this CPU, whose number is `cpu`.
    #[inline]
    pub(super) fn admits(&self, cpu: usize, thread: &Thread) -> bool {
        thread.affinity.allows(cpu) && self.is_open()
    }

    /// No alarm is set: the CPU starts, or starts again.
    pub(super) fn forget_alarm(&self) {
        self.alarm.store(timer::NEVER, Ordering::Relaxed);
    }

    /// Puts a thread at the end of this CPU's own queue, interrupts masked.
    #[inline]
    pub(super) fn push(&self, thread: &Thread) {
        debug_assert!(sync::irqs_masked());
        self.queue.push(thread);
    }

    /// Fetches what a sender and the CPU that it sends to both write.
    #[inline]
    pub(super) fn fetch_inbox(&self) {
        fetch_to_write(&self.shared);
    }

    /// Sends a thread to this CPU from another one. True if nobody else has before: then it needs an IPI.
    pub(super) fn post(&self, thread: &Thread) -> bool {
        let mut first = self.shared.inbox.load(Ordering::Relaxed);
        loop {
            thread.next.store(first, Ordering::Relaxed);
            let new = ptr::from_ref(thread).cast_mut();
            // Release: pairs with the Acquire in `open_inbox`; the thread is visible with the head.
            match self.shared.inbox.compare_exchange_weak(first, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return first.is_null(),
                Err(now) => first = now,
            }
        }
    }

    /// Moves the inbox to the end of the queue, oldest first.
    #[inline]
    pub(super) fn open_inbox(&self) {
        if !self.shared.inbox.load(Ordering::Relaxed).is_null() {
            self.take_inbox();
        }
    }

    fn take_inbox(&self) {
        // Acquire: pairs with the Release in `post`. Taken whole, so that no head can come back (ABA).
        let mut newest = self.shared.inbox.swap(ptr::null_mut(), Ordering::Acquire).cast_const();
        let mut oldest: *const Thread = ptr::null();
        // SAFETY: null, or a thread in an inbox, and those are alive (see `thread`).
        while let Some(thread) = unsafe { newest.as_ref() } {
            fetch_to_write(&thread.state);
            newest = thread.next.load(Ordering::Relaxed);
            thread.next.store(oldest.cast_mut(), Ordering::Relaxed);
            oldest = thread;
        }
        // SAFETY: as above.
        while let Some(thread) = unsafe { oldest.as_ref() } {
            oldest = thread.next.load(Ordering::Relaxed);
            self.queue.push(thread);
        }
    }

    /// Takes the thread that runs next out of the queue; the idle thread if there is none. A `previous` that is in the
    /// queue but may not stay here is not picked: the switch away from it will send it elsewhere.
    #[inline]
    pub(super) fn pick(&self, cpu: usize, previous: &Thread) -> &'static Thread {
        self.open_inbox();
        while let Some(thread) = self.queue.pop() {
            if self.admits(cpu, thread) {
                return thread;
            }
            if ptr::eq(thread, previous) {
                self.aftercare.store(Aftercare::Move as u8, Ordering::Relaxed);
            } else {
                place(thread);
            }
        }
        // SAFETY: `idle` is set before the CPU first schedules, to a thread that lives for ever.
        unsafe { &*self.shared.idle.load(Ordering::Relaxed) }
    }

    /// Starts the slice of a thread that runs from now on.
    #[inline]
    pub(super) fn start_slice(&self) {
        let end = timer::rough_ticks() + SLICE_TICKS.load(Ordering::Relaxed);
        self.slice_end.store(end, Ordering::Relaxed);
        if !self.queue.is_empty() {
            self.request_alarm(end);
        }
    }

    /// Whether the running thread has had its slice.
    #[inline]
    pub(super) fn slice_is_over(&self) -> bool {
        timer::rough_ticks() >= self.slice_end.load(Ordering::Relaxed)
    }

    /// Makes the timer ring at the end of the slice: there is somebody to run then. If the slice is over, the running
    /// thread gives way at the next chance, and at the latest when the timer rings a slice from now. Not at once: such
    /// an alarm would ring again and again while preemption is off.
    #[inline]
    pub(super) fn request_tick(&self) {
        let now = timer::rough_ticks();
        let end = self.slice_end.load(Ordering::Relaxed);
        self.request_alarm(if end > now { end } else { now + SLICE_TICKS.load(Ordering::Relaxed) });
    }

    /// Makes the timer ring at `ticks` or earlier. A ring that turns out to be too early, because what it was for is
    /// over, is cheaper than an alarm that follows every switch.
    #[inline]
    pub(super) fn request_alarm(&self, ticks: u64) {
        if ticks < self.alarm.load(Ordering::Relaxed) {
            self.alarm.store(ticks, Ordering::Relaxed);
            timer::set_alarm(ticks);
        }
    }

    /// The timer rang, or another CPU wants a look: decides whether another thread should run.
    pub(super) fn on_interrupt(&self, this: &PerCpu) {
        self.open_inbox();
        let waiting = !self.queue.is_empty();
        if self.is_idling() {
            if waiting {
                percpu::anchor().need_resched.store(true, Ordering::Relaxed);
            }
            return;
        }
        let forbidden = !self.admits(this.id, super::current());
        let slice_over = self.slice_is_over();
        if forbidden || waiting && slice_over {
            percpu::anchor().need_resched.store(true, Ordering::Relaxed);
        } else if waiting {
            self.request_tick();
        }
        if slice_over {
            self.spread(this.id);
        }
    }

    /// The timer rang.
    pub(super) fn on_timer(&self, this: &PerCpu) {
        self.alarm.store(timer::NEVER, Ordering::Relaxed);
        let next_deadline = self.timers.expire(timer::now_ticks());
        self.on_interrupt(this);
        self.request_alarm(next_deadline);
        if self.alarm.load(Ordering::Relaxed) == timer::NEVER {
            timer::set_alarm(timer::NEVER);
        }
    }

    /// Sends the first thread that waits here to a CPU that has nothing to do.
    fn spread(&self, cpu: usize) {
        // SAFETY: null, or a thread in a queue, and those are alive (see `thread`).
        let first = unsafe { self.queue.first.get().as_ref() };
        // Looked for before the thread gives up its turn: `place` puts it at the end if it must stay.
        if first.is_some_and(|thread| idle_cpu_near(cpu, thread).is_some())
            && let Some(thread) = self.queue.pop()
        {
            place(thread);
        }
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}
