//! Threads of control, and whose turn it is.
//!
//! Each task is a thread of the host, as each has a stack of its own in a kernel. Exactly one has
//! the baton. Which CPU goes on is chosen by the seed at every step; which task a CPU runs is the
//! tiny kernel's business. A test directs: it starts tasks, lets the machine run until nothing can
//! go on, looks, and goes on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic;
use std::sync::{Arc, MutexGuard, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mm::Point;

use super::hotplug::Power;
use super::interrupts::{Call, Inbox};
use super::{HERE, State, World};

/// A thread of the machine, by number.
pub(crate) type ThreadId = usize;

/// So many turns of spin loops without anything else mean that nothing will ever come.
const STUCK: u32 = 4000;

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Status {
    /// On a CPU or in a CPU's queue.
    Runnable,
    /// Waits to be woken.
    Blocked,
    Finished,
}

/// One thread of control.
pub(crate) struct Thread {
    pub(crate) name: &'static str,
    pub(crate) cpu: usize,
    pub(crate) status: Status,
    /// Still on its stack on the CPU it is leaving: nobody else may run it yet.
    pub(crate) departing: bool,
    /// Woken before it slept.
    pub(crate) woken: bool,
    pub(crate) pins: u32,
    pub(super) waits_for: Option<Arc<Call>>,
    stop_at: Option<Point>,
    held: bool,
    host: Option<JoinHandle<()>>,
}

/// What a CPU runs.
pub(crate) struct Core {
    pub(crate) current: ThreadId,
    pub(crate) idle: ThreadId,
    pub(crate) queue: VecDeque<ThreadId>,
    pub(crate) masked: bool,
    /// It waits for an interrupt, with nothing to run.
    pub(crate) asleep: bool,
    /// When the timer wakes it, if it sleeps then.
    pub(crate) alarm: Option<u64>,
    pub(crate) power: Power,
    pub(crate) online: bool,
    /// The switch under way has to be finished.
    pub(crate) unfinished: bool,
    pub(super) inbox: Inbox,
}

impl State {
    /// The first thread in the CPU's queue that has left the CPU it was on.
    pub(crate) fn first_ready(&self, cpu: usize) -> Option<usize> {
        self.cores[cpu].queue.iter().position(|&thread| !self.threads[thread].departing)
    }

    fn can_go_on(&self, cpu: usize) -> bool {
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
            Some(call) => core.masked || called || call.is_done(),
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
        if self.spins > STUCK {
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
    pub(crate) fn add_core(&'static self, idle_loop: fn()) {
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

    /// Starts a thread of the host; it waits for the baton before it does anything.
    pub(crate) fn start_thread(
        &'static self,
        name: &'static str,
        cpu: usize,
        body: impl FnOnce() + Send + 'static,
    ) -> ThreadId {
        let mut state = self.lock();
        let me = state.threads.len();
        let start = move || {
            HERE.set(Some((self, Some(me))));
            self.wait_for_baton(me);
            if !self.lock().over {
                body();
            }
        };
        let host = thread::Builder::new().stack_size(256 << 10).spawn(start).expect("the host has no thread left");
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
            host: Some(host),
        });
        me
    }

    /// Perhaps another CPU goes on first. Comes back when it is this thread's turn.
    pub(super) fn let_others_run(&'static self, me: ThreadId) {
        let mut state = self.lock();
        let next = state.choose(Some(me), self.setup.lies.switch);
        if next != Some(me) {
            self.pass(state, next);
            self.wait_for_baton(me);
        }
    }

    /// This thread is no CPU's any more, or for now: somebody else goes on.
    pub(crate) fn give_up_baton(&'static self) {
        let mut state = self.lock();
        let next = state.choose(None, 1);
        self.pass(state, next);
    }

    fn pass(&self, mut state: MutexGuard<'_, State>, next: Option<ThreadId>) {
        state.running = next;
        match next {
            Some(thread) => state.threads[thread].host.as_ref().expect("it runs").thread().unpark(),
            None => self.director.unpark(),
        }
    }

    /// Sleeps until it is this thread's turn, or the machine ends.
    pub(crate) fn wait_for_baton(&self, me: ThreadId) {
        loop {
            let state = self.lock();
            if state.running == Some(me) || state.over {
                return;
            }
            drop(state);
            thread::park();
        }
    }

    /// For the director: lets the machine run until nothing can go on.
    ///
    /// # Panics
    /// If the oracle objected, or threads spin for ever though none is held at a point.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        state.spins = 0;
        let next = state.choose(None, 1);
        if next.is_none() {
            return;
        }
        self.pass(state, next);
        loop {
            let mut state = self.lock();
            if let Some(verdict) = state.verdict.take() {
                drop(state);
                panic!("{verdict}");
            }
            if state.running.is_none() {
                let free = state.threads.iter().all(|thread| !thread.held);
                let stuck = (0..state.cores.len()).any(|cpu| state.cores[cpu].current != state.cores[cpu].idle);
                if free && stuck {
                    let report = self.report(&state, "nothing goes on: a deadlock");
                    drop(state);
                    panic!("{report}");
                }
                return;
            }
            drop(state);
            thread::park_timeout(Duration::from_secs(1));
        }
    }

    /// Ends all threads. The tasks have finished.
    pub(crate) fn join(&self) {
        let mut state = self.lock();
        state.over = true;
        let hosts: Vec<_> = state.threads.iter_mut().filter_map(|thread| thread.host.take()).collect();
        drop(state);
        for host in hosts {
            host.thread().unpark();
            host.join().expect("threads of the machine never unwind");
        }
    }

    /// Makes a thread stop when it next comes to this point.
    pub(crate) fn stop_at(&self, thread: ThreadId, point: Point) {
        self.lock().threads[thread].stop_at = Some(point);
    }

    /// Whether the thread stands at the point it was told to stop at.
    pub(crate) fn is_held(&self, thread: ThreadId) -> bool {
        self.lock().threads[thread].held
    }

    /// Lets a thread that was stopped go on, at the next [`World::run`].
    pub(crate) fn go_on(&self, thread: ThreadId) {
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
    pub(crate) fn hold(&'static self) {
        let me = super::this_thread().expect("the director does not hold itself");
        self.lock().threads[me].held = true;
        self.let_others_run(me);
    }

    /// The run failed. This thread stops here for ever, with everything it holds; the director
    /// tells.
    pub(super) fn fail(&self, state: MutexGuard<'_, State>, why: &str) -> ! {
        self.blame(state, why);
        stop_for_ever()
    }

    fn blame(&self, mut state: MutexGuard<'_, State>, why: &str) {
        let report = self.report(&state, why);
        state.verdict.get_or_insert(report);
        self.pass(state, None);
    }

    fn report(&self, state: &State, why: &str) -> String {
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
        thread::park();
    }
}

/// A panic in a thread of the machine is a failed run. Unwinding drops handles, and so runs mm code
/// on a machine that has already gone wrong: the thread stops at its next step ([`World::step`]).
pub(super) fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match HERE.get() {
            Some((world, Some(_))) => match world.state.try_lock() {
                Ok(state) => world.blame(state, &info.to_string()),
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
