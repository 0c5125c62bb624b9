//! Threads of control, and whose turn it is.
//!
//! Each task has a stack of its own, as in a kernel, and exactly one has the baton ([`fiber`]). Which CPU goes on is chosen by the seed at every step; which task a CPU runs is the
//! tiny kernel's business. A test directs: it starts tasks, lets the machine run until nothing can
//! go on, looks, and goes on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;
use std::panic;
use std::ptr;
use std::sync::{Arc, Once};

use crate::Point;

use super::fiber::{self, Fiber};
use super::hotplug::Power;
use super::interrupts::{Call, Inbox};
use super::{Event, HERE, Locked, State, World};

/// A thread of the machine, by number.
pub type ThreadId = usize;

/// So many turns of spin loops without anything else mean that nothing will ever come.
const STUCK: u32 = 4000;
/// How often the baton may be passed before the machine comes to rest: fifty times what the longest test takes.
const ENDLESS: u32 = 1_000_000;

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
pub enum Status {
    /// On a CPU or in a CPU's queue.
    Runnable,
    /// Waits to be woken.
    Blocked,
    /// It has ended.
    Finished,
}

/// One thread of control.
pub struct Thread {
    /// Its name in reports.
    pub name: &'static str,
    /// The CPU that it is on.
    pub cpu: usize,
    /// What it is doing.
    pub status: Status,
    /// Still on its stack on the CPU it is leaving: nobody else may run it yet.
    pub departing: bool,
    /// Woken before it slept.
    pub woken: bool,
    /// How often preemption was turned off.
    pub pins: u32,
    pub(super) waits_for: Option<Arc<Call>>,
    stop_at: Option<Point>,
    held: bool,
    /// The step that it is about to make.
    pub next: Option<Event>,
    /// None while it runs, and after its end.
    fiber: Option<Fiber>,
    /// The bytes of its stack that are in use while it is suspended.
    pub stack: Range<usize>,
}

impl Thread {
    /// Whether it has begun, or will, and has not ended.
    pub(super) fn has_stack(&self) -> bool {
        self.fiber.is_some()
    }
}

/// What a CPU runs.
pub struct Core {
    /// The thread that it runs.
    pub current: ThreadId,
    /// The thread that it runs when there is no other.
    pub idle: ThreadId,
    /// Threads that wait for it.
    pub queue: VecDeque<ThreadId>,
    /// Interrupts are masked.
    pub masked: bool,
    /// It waits for an interrupt, with nothing to run.
    pub asleep: bool,
    /// When the timer wakes it, if it sleeps then.
    pub alarm: Option<u64>,
    /// Whether it takes part.
    pub power: Power,
    /// Whether it takes interrupts.
    pub online: bool,
    /// The switch under way has to be finished.
    pub unfinished: bool,
    pub(super) inbox: Inbox,
}

impl State {
    /// The first thread in the CPU's queue that has left the CPU it was on.
    pub fn first_ready(&self, cpu: usize) -> Option<usize> {
        self.cores[cpu].queue.iter().position(|&thread| !self.threads[thread].departing)
    }

    pub(super) fn can_go_on(&self, cpu: usize) -> bool {
        let core = &self.cores[cpu];
        let thread = &self.threads[core.current];
        if thread.held {
            return false;
        }
        match core.power {
            Power::Off => return false,
            Power::Coming => return true,
            Power::Up | Power::Leaving => {}
        }
        let leaves = core.power == Power::Leaving;
        let called = !core.masked && !core.inbox.is_empty();
        match &thread.waits_for {
            Some(call) => core.masked || called || call.is_done() || call.has_lost(),
            None if core.asleep && !core.masked => {
                called
                    || leaves
                    || self.first_ready(cpu).is_some()
                    || core.alarm.is_some_and(|time| time <= self.now_ns())
            }
            None => true,
        }
    }

    /// Who goes on; `me` is likelier than others. `None` if nobody can.
    fn choose(&mut self, me: Option<ThreadId>, switch: u32) -> Option<ThreadId> {
        if self.told.is_some() || self.spins > STUCK {
            return None;
        }
        let able: Vec<ThreadId> =
            (0..self.cores.len()).filter(|&cpu| self.can_go_on(cpu)).map(|cpu| self.cores[cpu].current).collect();
        match me {
            Some(me) if able.contains(&me) && !self.rng.one_in(switch) => Some(me),
            _ => self.rng.pick(&able).copied(),
        }
    }
}

impl World {
    /// A CPU's first thread, which is there when nothing else is.
    pub fn add_core(&'static self, idle_loop: fn()) {
        let cpu = self.lock().cores.len();
        let idle = self.start_thread("idle", cpu, idle_loop);
        self.lock().cores.push(Core {
            current: idle,
            idle,
            queue: VecDeque::new(),
            masked: false,
            asleep: false,
            alarm: None,
            power: Power::Up,
            online: true,
            unfinished: false,
            inbox: Inbox::new(),
        });
    }

    /// Makes a thread; it does nothing before it gets the baton.
    pub fn start_thread(
        &'static self,
        name: &'static str,
        cpu: usize,
        body: impl FnOnce() + Send + 'static,
    ) -> ThreadId {
        let fiber = Fiber::new(move || {
            if !self.lock().over {
                body();
            }
        });
        let stack = fiber.stack();
        let mut state = self.lock();
        let me = state.threads.len();
        state.threads.push(Thread {
            name,
            cpu,
            status: Status::Runnable,
            departing: false,
            woken: false,
            pins: 0,
            waits_for: None,
            stop_at: None,
            held: false,
            fiber: Some(fiber),
            next: None,
            stack,
        });
        me
    }

    /// Perhaps another CPU goes on first. Comes back when it is this thread's turn.
    pub(super) fn let_others_run(&'static self, me: ThreadId) {
        let mut state = self.lock();
        state.running = state.choose(Some(me), self.setup.lies.switch);
        let stays = state.running == Some(me);
        drop(state);
        if !stays {
            self.wait_for_baton(me);
        }
    }

    /// This thread is no CPU's any more, or for now: somebody else goes on.
    pub fn give_up_baton(&'static self) {
        let mut state = self.lock();
        state.running = state.choose(None, 1);
    }

    /// Sleeps until it is this thread's turn, or the machine ends.
    pub fn wait_for_baton(&self, me: ThreadId) {
        loop {
            let state = self.lock();
            if state.over {
                return;
            }
            drop(state);
            fiber::suspend();
            if self.lock().running == Some(me) {
                return;
            }
        }
    }

    /// Lets a thread go on until it passes the baton.
    pub(super) fn resume(&self, thread: ThreadId) {
        let world = super::world();
        assert!(ptr::eq(world, self), "a machine runs where it was built, and one at a time");
        let mut fiber = self.lock().threads[thread].fiber.take().expect("it has not ended");
        HERE.set(Some((world, Some(thread))));
        let (ended, stack) = fiber.resume();
        HERE.set(Some((world, None)));
        let mut state = self.lock();
        state.threads[thread].stack = stack;
        state.threads[thread].fiber = (!ended).then_some(fiber);
    }

    /// For the director: lets the machine run until nothing can go on.
    ///
    /// # Panics
    /// If the oracle objected, or threads spin for ever though none is held at a point.
    pub fn run(&self) {
        if let Some(report) = self.go() {
            panic!("{report}");
        }
    }

    /// As [`World::run`]; tells what went wrong.
    pub fn go(&self) -> Option<String> {
        let mut state = self.lock();
        state.spins = 0;
        state.running = state.choose(None, 1);
        drop(state);
        let mut passed = 0;
        while let Some(thread) = self.whose_turn() {
            self.resume(thread);
            passed += 1;
            if passed == ENDLESS {
                return Some(self.report(&self.lock(), "it never comes to rest: a livelock"));
            }
        }
        let mut state = self.lock();
        state.verdict.take().or_else(|| self.deadlock(&state))
    }

    /// Nothing goes on. Tells why that is wrong, if it is.
    pub(super) fn deadlock(&self, state: &State) -> Option<String> {
        let free = state.threads.iter().all(|thread| !thread.held);
        let stuck = (0..state.cores.len()).any(|cpu| state.cores[cpu].current != state.cores[cpu].idle);
        let why = if stuck {
            "nothing goes on: a deadlock"
        } else if state.spins > STUCK {
            "idle CPUs wake for ever and find nothing to do"
        } else {
            return None;
        };
        free.then(|| self.report(state, why))
    }

    fn whose_turn(&self) -> Option<ThreadId> {
        self.lock().running
    }

    /// Ends all threads. The tasks have finished.
    pub fn join(&self) {
        self.lock().over = true;
        let threads = self.lock().threads.len();
        for thread in 0..threads {
            let unfinished = self.lock().threads[thread].fiber.is_some();
            if unfinished {
                self.resume(thread);
            }
        }
    }

    /// Makes a thread stop when it next comes to this point.
    pub fn stop_at(&self, thread: ThreadId, point: Point) {
        self.lock().threads[thread].stop_at = Some(point);
    }

    /// Whether the thread stands at the point it was told to stop at.
    pub fn is_held(&self, thread: ThreadId) -> bool {
        self.lock().threads[thread].held
    }

    /// Lets a thread that was stopped go on, at the next [`World::run`].
    pub fn go_on(&self, thread: ThreadId) {
        self.lock().threads[thread].held = false;
    }

    pub(super) fn stop_if_asked(&'static self, point: Point) {
        let Some(me) = super::this_thread() else { return };
        let mut state = self.lock();
        if state.threads[me].stop_at != Some(point) {
            return;
        }
        state.threads[me].stop_at = None;
        drop(state);
        self.hold();
    }

    /// This thread, and its CPU with it, stops until the director lets it go on.
    pub fn hold(&'static self) {
        let me = super::this_thread().expect("the director does not hold itself");
        self.lock().threads[me].held = true;
        self.let_others_run(me);
    }

    /// The run failed. This thread stops here for ever, with everything it holds; the director
    /// tells.
    pub(super) fn fail(&self, state: Locked<'_>, why: &str) -> ! {
        self.blame(state, why);
        assert!(super::this_thread().is_some(), "{why}");
        stop_for_ever()
    }

    fn blame(&self, mut state: Locked<'_>, why: &str) {
        let report = self.report(&state, why);
        state.verdict.get_or_insert(report);
        state.running = None;
    }

    pub(super) fn report(&self, state: &State, why: &str) -> String {
        let threads: Vec<String> = state.threads.iter().enumerate().map(|(id, t)| describe(id, t)).collect();
        let (seed, config, cpus) = (self.setup.seed, self.setup.config, self.setup.cpus);
        let timeline = state.timeline.print(cpus);
        format!("{why}\n(seed {seed}, {config}, {cpus} CPUs)\n{timeline}{}", threads.join("\n"))
    }
}

fn describe(id: ThreadId, thread: &Thread) -> String {
    let held = if thread.held { ", held" } else { "" };
    format!("t{id} {} on CPU {}, {:?}{held}, pins {}", thread.name, thread.cpu, thread.status, thread.pins)
}

pub(super) fn stop_for_ever() -> ! {
    loop {
        fiber::suspend();
    }
}

/// A panic in a thread of the machine is a failed run. Unwinding drops handles, and so runs mm code
/// on a machine that has already gone wrong: the thread stops at its next step ([`World::step`]).
pub fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match HERE.get() {
            Some((world, Some(_))) => match world.state.try_lock() {
                Ok(state) => world.blame(Locked::new(state), &info.to_string()),
                Err(_) => {
                    // The machine itself is wrong, and its lock is held. Past the test harness, which
                    // would swallow the words of a thread it does not know.
                    let _ = writeln!(io::stderr(), "{info}");
                    std::process::exit(101);
                }
            },
            _ => before(info),
        }));
    });
}
