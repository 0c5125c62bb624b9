//! The lying machine: it runs the shipped mm code and behaves as badly as the architecture allows.
//!
//! N CPUs, of which one at a time makes a step. A step is one architectural operation, one
//! fault-injection point, one turn of a spin loop, one change of the interrupt mask. Before each,
//! a seeded scheduler may let any other CPU go on ([`baton`]); after each, walkers fill TLBs from
//! whatever they may still reach, TLBIs land early or not yet ([`hardware`]), table stores become
//! visible or stay in a store buffer ([`memory`]), and an oracle looks at everything ([`oracle`]).
//!
//! On it runs a tiny kernel ([`kernel`]), and a test directs both ([`director`]).
//!
//! What it cannot show: reordering of the mm layer's own atomics, which are sequentially
//! consistent here because only one thread runs. Loom and the contract tests answer for those.

pub mod baton;
pub mod director;
mod fiber;
pub mod hardware;
pub mod hotplug;
mod interface;
mod interrupts;
pub mod kernel;
pub mod memory;
mod oracle;
mod rng;
mod setup;
mod timeline;
pub mod told;
pub mod user;

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::frame::{FrameAllocator, FrameInfo};
use crate::pte::Table;
use crate::{Complaint, Counter, Frame, System};

use baton::{Core, Thread, ThreadId};
use hardware::Cpu;
pub use interface::Lying;
use memory::Memory;
pub use oracle::MmNumber;
use oracle::Oracle;
pub use rng::Rng;
pub use setup::{Lies, Setup};
pub use timeline::Event;
use timeline::Timeline;
use told::Told;

/// One machine, and the tiny kernel's tables. It is leaked, as the mm layer wants it for ever.
pub struct World {
    /// What it was built from.
    pub setup: Setup,
    system: OnceLock<System<Lying>>,
    state: Mutex<State>,
    frames: &'static [Table],
    /// Each task's own address space.
    pub owners: kernel::Owners,
    kept: Mutex<Vec<kernel::User>>,
}

/// Everything that changes, under one lock that is never contended: one thread runs.
pub struct State {
    /// Chance.
    pub rng: Rng,
    /// How long a step takes, in nanoseconds.
    step: u64,
    /// Each CPU's translation hardware.
    pub cpus: Vec<Cpu>,
    /// What each CPU runs.
    pub cores: Vec<Core>,
    /// All threads there ever were.
    pub threads: Vec<Thread>,
    /// The frames.
    pub memory: Memory,
    /// What must hold.
    pub oracle: Oracle,
    /// What happened.
    pub timeline: Timeline,
    /// Who has the baton: a thread, or the test itself.
    pub running: Option<ThreadId>,
    /// Steps since anything but spinning happened.
    pub spins: u32,
    /// Why the run failed, if it did.
    pub verdict: Option<String>,
    /// The machine has ended: so does each thread that goes on.
    pub over: bool,
    /// Complaints the test provokes on purpose, and those that came.
    pub expected: Vec<Complaint>,
    /// The complaints that came.
    pub complaints: Vec<Complaint>,
    /// By [`Counter`]: what the event that was counted last was about.
    pub about: [u64; Counter::ALL.len()],
    /// SGIs sent to invalidate.
    pub flushes: u64,
    /// SGIs sent to shoot.
    pub shoots: u64,
    /// SGIs sent to check.
    pub checks: u64,
    /// How many wait for answers of other CPUs, or are about to.
    pub senders: usize,
    /// The thread that frees what could not be freed where it died.
    pub reaper: Option<ThreadId>,
    /// When the reaper is to be woken, if nobody wakes it before.
    pub reaper_due: Option<u64>,
    /// The test is done: the reaper ends.
    pub ending: bool,
    /// Somebody else decides what happens next ([`told`]); by himself the machine does nothing by chance.
    told: Option<Told>,
    /// Time that did not pass by steps, in nanoseconds.
    waited: u64,
}

/// The state, locked.
pub struct Locked<'a>(MutexGuard<'a, State>);

impl<'a> Locked<'a> {
    fn new(guard: MutexGuard<'a, State>) -> Self {
        INSIDE.set(true);
        Self(guard)
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

thread_local! {
    /// The machine itself is at work, not what runs on it.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static HERE: Cell<Option<(&'static World, Option<ThreadId>)>> = const { Cell::new(None) };
}

/// The machine of this thread.
pub fn world() -> &'static World {
    HERE.get().expect("this thread belongs to no machine").0
}

pub use fiber::STACK_BYTES;

/// Whether what is allocated now is the machine's own.
pub fn is_inside() -> bool {
    INSIDE.get()
}

/// The thread of the machine that this is, or `None` for the test that directs it.
pub fn this_thread() -> Option<ThreadId> {
    HERE.get().and_then(|(_, thread)| thread)
}

impl World {
    /// Builds the machine; the calling thread becomes its director.
    pub fn new(setup: Setup) -> &'static Self {
        baton::catch_panics();
        let frames = memory::take_frames(setup.frames);
        let world: &'static World = Box::leak(Box::new(World {
            system: OnceLock::new(),
            state: Mutex::new(State::new(&setup, frames)),
            frames,
            owners: kernel::Owners::default(),
            kept: Mutex::default(),
            setup,
        }));
        HERE.set(Some((world, None)));
        let setup = &world.setup;
        let info: &[FrameInfo] = Box::leak((0..setup.frames).map(|_| FrameInfo::default()).collect());
        let base = memory::BASE;
        let frames = FrameAllocator::new(Frame::from_number(base), info, std::iter::once(base..base + setup.frames));
        let system = System::new(setup.config, setup.cpus, setup.hardware, frames).expect("the setup means nothing");
        let root = system.init_mm().root();
        assert!(world.system.set(system).is_ok());
        world.lock().load_everywhere(root);
        world
    }

    /// Frees the machine's memory for the next one. Only after all its threads have ended.
    pub fn end(&self) {
        HERE.set(None);
        memory::give_frames_back(self.frames);
    }

    /// The state, for a look or a change between two steps.
    pub fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock().expect("a thread of the machine died with its lock"))
    }

    /// What the mm layer keeps.
    pub fn system(&self) -> &System<Lying> {
        self.system.get().expect("the system is being built")
    }

    /// One step of this thread: the oracle looks at what this CPU did since its last one, others may
    /// go on, then `effect` happens at once and the machine lies. The director's own calls, before
    /// the CPUs start, are not steps.
    pub fn step<T>(&'static self, event: Event, effect: impl FnOnce(&mut State, usize) -> T) -> T {
        let Some(me) = this_thread() else { return effect(&mut self.lock(), 0) };
        if std::thread::panicking() {
            baton::stop_for_ever();
        }
        self.lock().threads[me].next = Some(event);
        self.look();
        self.let_others_run(me);
        while interrupts::take_one(self) {
            self.look();
            self.let_others_run(me);
        }
        kernel::tick();
        let mut state = self.lock();
        let cpu = state.threads[me].cpu;
        state.timeline.note(cpu, me, event);
        let result = effect(&mut state, cpu);
        // An idle thread that looks for something to do and goes back to sleep brings nothing forward either.
        let looks = me == state.cores[cpu].idle && matches!(event, Event::Mask | Event::Unmask);
        state.spins = if looks || event.is_idle() { state.spins + 1 } else { 0 };
        state.lie(self.setup.lies);
        let told = state.told.is_some();
        drop(state);
        if told {
            fiber::wipe_below();
        }
        result
    }

    /// The oracle looks at everything that the running thread did since its last step.
    fn look(&self) {
        let mut state = self.lock();
        let cpu = state.running.map_or(0, |thread| state.threads[thread].cpu);
        state.memory.collect_stores(cpu);
        if let Err(violation) = oracle::judge(&mut state, self) {
            self.fail(state, &violation);
        }
    }
}

impl State {
    fn new(setup: &Setup, frames: &'static [Table]) -> Self {
        Self {
            rng: Rng::new(setup.seed),
            step: setup.step,
            cpus: (0..setup.cpus).map(|_| Cpu::default()).collect(),
            cores: Vec::new(),
            threads: Vec::new(),
            memory: Memory::new(frames),
            oracle: Oracle::default(),
            timeline: Timeline::default(),
            running: None,
            spins: 0,
            verdict: None,
            over: false,
            expected: Vec::new(),
            complaints: Vec::new(),
            flushes: 0,
            shoots: 0,
            checks: 0,
            senders: 0,
            reaper: None,
            reaper_due: None,
            about: [0; Counter::ALL.len()],
            ending: false,
            told: None,
            waited: 0,
        }
    }

    /// The time.
    pub fn now_ns(&self) -> u64 {
        self.timeline.steps() * self.step + self.waited
    }

    /// What the machine does of its own accord after a step.
    fn lie(&mut self, lies: Lies) {
        if self.told.is_some() {
            return self.walk_everything();
        }
        if self.rng.one_in(lies.walk) {
            self.walk_somewhere();
        }
        if self.rng.one_in(lies.walk_all) {
            self.walk_everything();
        }
        if self.rng.one_in(lies.land) {
            self.land_one();
        }
        if self.rng.one_in(lies.drain) {
            self.memory.drain_some(&mut self.rng);
        }
    }
}

/// The CPU that this thread is on; the director stands on CPU 0.
pub fn this_cpu() -> usize {
    this_thread().map_or(0, |me| world().lock().threads[me].cpu)
}
