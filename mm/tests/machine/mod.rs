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

pub(crate) mod baton;
pub(crate) mod director;
pub(crate) mod hardware;
pub(crate) mod hotplug;
mod interrupts;
pub(crate) mod kernel;
mod lying;
pub(crate) mod memory;
mod oracle;
mod rng;
mod timeline;
pub(crate) mod user;

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, OnceLock};

use mm::frame::{FrameAllocator, FrameInfo};
use mm::pte::Table;
use mm::{Complaint, Config, FlushMode, Frame, Hardware, Scheme, System};

use baton::{Core, Thread, ThreadId};
use hardware::Cpu;
pub(crate) use lying::Lying;
use memory::Memory;
pub(crate) use oracle::MmNumber;
use oracle::Oracle;
pub(crate) use rng::Rng;
pub(crate) use timeline::Event;
use timeline::Timeline;

/// What kind of machine, and how badly it behaves.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) cpus: usize,
    pub(crate) frames: usize,
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) hardware: Hardware,
    pub(crate) lies: Lies,
    /// How long a step takes, in nanoseconds.
    pub(crate) step: u64,
}

/// A clock so slow that nothing the mm layer waits for comes while a scenario lasts.
const SLOW: u64 = 100;
/// A clock so fast that all of it does.
const FAST: u64 = 100_000;

/// The liberties the machine takes. Each is a chance of one in so many; 0 is never.
#[derive(Clone, Copy)]
pub(crate) struct Lies {
    /// Another CPU goes on instead of this one.
    pub(crate) switch: u32,
    /// Some walker reads ahead, from some root or cached table it may use, for some page.
    pub(crate) walk: u32,
    /// Every walker reads ahead whatever it can.
    pub(crate) walk_all: u32,
    /// A TLBI reaches one of its CPUs before the DSB that waits for it.
    pub(crate) land: u32,
    /// A table store leaves its CPU's store buffer before a DSB makes it.
    pub(crate) drain: u32,
    /// A pending SGI is not taken yet.
    pub(crate) late_sgi: u32,
    /// An SGI is taken twice.
    pub(crate) twice: u32,
    /// The timer preempts a task.
    pub(crate) preempt: u32,
    /// A preempted task goes on on some other CPU.
    pub(crate) balance: u32,
}

impl Default for Lies {
    fn default() -> Self {
        Self { switch: 2, walk: 2, walk_all: 16, land: 8, drain: 8, late_sgi: 2, twice: 16, preempt: 8, balance: 0 }
    }
}

impl Setup {
    /// A machine of so many CPUs under a scheme, with all its lies.
    pub(crate) fn new(cpus: usize, scheme: Scheme, seed: u64) -> Self {
        Self::with(cpus, Config { scheme, ..Config::default() }, seed)
    }

    /// The same with all its options.
    pub(crate) fn with(cpus: usize, config: Config, seed: u64) -> Self {
        let hardware = Hardware::plain(16);
        Self { cpus, frames: 96, seed, config, hardware, lies: Lies::default(), step: SLOW }
    }

    /// The same with a way to flush, if that means something with what is chosen already.
    pub(crate) fn flushing(mut self, [flush, piggyback, retire]: [usize; 3]) -> Self {
        let flush = [FlushMode::Broadcast, FlushMode::Ipi, FlushMode::Auto][flush];
        let config = Config { flush, piggyback: piggyback != 0, retire: retire != 0, ..self.config };
        if config.check().is_ok() {
            self.config = config;
        }
        self
    }

    /// The same with these words on the command line, and with a clock on which time passes.
    pub(crate) fn options(mut self, words: &'static str) -> Self {
        for (option, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            self.config.set(option, value).expect("a test names valid options");
        }
        self.step = FAST;
        self
    }

    /// The same, but no time passes.
    pub(crate) fn slow(mut self) -> Self {
        self.step = SLOW;
        self
    }

    /// The same with so many bits of ASID.
    pub(crate) fn asid_bits(mut self, bits: u32) -> Self {
        self.config.asid_bits = Some(bits);
        self
    }

    /// The same with `lazy_tlb.debug=1`.
    pub(crate) fn check(mut self) -> Self {
        self.config.check = true;
        self
    }
}

/// One machine, and the tiny kernel's tables. It is leaked, as the mm layer wants it for ever.
pub(crate) struct World {
    pub(crate) setup: Setup,
    system: OnceLock<System<Lying>>,
    state: Mutex<State>,
    frames: &'static [Table],
    director: std::thread::Thread,
    pub(crate) owners: kernel::Owners,
}

/// Everything that changes, under one lock that is never contended: one thread runs.
pub(crate) struct State {
    pub(crate) rng: Rng,
    /// How long a step takes, in nanoseconds.
    step: u64,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) cores: Vec<Core>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) memory: Memory,
    pub(crate) oracle: Oracle,
    pub(crate) timeline: Timeline,
    /// Who has the baton: a thread, or the test itself.
    pub(crate) running: Option<ThreadId>,
    /// Steps since anything but spinning happened.
    pub(crate) spins: u32,
    pub(crate) verdict: Option<String>,
    pub(crate) over: bool,
    /// Complaints the test provokes on purpose, and those that came.
    pub(crate) expected: Vec<Complaint>,
    pub(crate) complaints: Vec<Complaint>,
    /// SGIs sent, by reason.
    pub(crate) flushes: u64,
    pub(crate) shoots: u64,
    pub(crate) checks: u64,
    /// How many wait for answers of other CPUs, or are about to.
    pub(crate) senders: usize,
    /// The thread that frees what could not be freed where it died.
    pub(crate) reaper: Option<ThreadId>,
    /// When the reaper is to be woken, if nobody wakes it before.
    pub(crate) reaper_due: Option<u64>,
    /// The test is done: the reaper ends.
    pub(crate) ending: bool,
}

thread_local! {
    static HERE: Cell<Option<(&'static World, Option<ThreadId>)>> = const { Cell::new(None) };
}

/// The machine of this thread.
pub(crate) fn world() -> &'static World {
    HERE.get().expect("this thread belongs to no machine").0
}

/// The thread of the machine that this is, or `None` for the test that directs it.
pub(crate) fn this_thread() -> Option<ThreadId> {
    HERE.get().and_then(|(_, thread)| thread)
}

impl World {
    /// Builds the machine; the calling thread becomes its director.
    pub(crate) fn new(setup: Setup) -> &'static Self {
        baton::catch_panics();
        let frames = memory::take_frames(setup.frames);
        let world: &'static World = Box::leak(Box::new(World {
            system: OnceLock::new(),
            state: Mutex::new(State::new(&setup, frames)),
            frames,
            director: std::thread::current(),
            owners: kernel::Owners::default(),
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
    pub(crate) fn end(&self) {
        HERE.set(None);
        memory::give_frames_back(self.frames);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread of the machine died with its lock")
    }

    pub(crate) fn system(&self) -> &System<Lying> {
        self.system.get().expect("the system is being built")
    }

    /// One step of this thread: the oracle looks at what this CPU did since its last one, others may
    /// go on, then `effect` happens at once and the machine lies. The director's own calls, before
    /// the CPUs start, are not steps.
    pub(crate) fn step<T>(&'static self, event: Event, effect: impl FnOnce(&mut State, usize) -> T) -> T {
        let Some(me) = this_thread() else { return effect(&mut self.lock(), 0) };
        if std::thread::panicking() {
            baton::stop_for_ever();
        }
        let mut state = self.lock();
        let cpu = state.threads[me].cpu;
        state.memory.collect_stores(cpu);
        if let Err(violation) = oracle::judge(&mut state, self) {
            self.fail(state, &violation);
        }
        drop(state);
        self.let_others_run(me);
        interrupts::take(self);
        kernel::tick();
        let mut state = self.lock();
        let cpu = state.threads[me].cpu;
        state.timeline.note(cpu, me, event);
        let result = effect(&mut state, cpu);
        state.spins = if event.is_idle() { state.spins + 1 } else { 0 };
        state.lie(self.setup.lies);
        result
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
            ending: false,
        }
    }

    /// The time.
    pub(crate) fn now_ns(&self) -> u64 {
        self.timeline.steps() * self.step
    }

    /// What the machine does of its own accord after a step.
    fn lie(&mut self, lies: Lies) {
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
pub(crate) fn this_cpu() -> usize {
    this_thread().map_or(0, |me| world().lock().threads[me].cpu)
}
