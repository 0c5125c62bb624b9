//! What a test holds: a machine with its kernel, to be directed step by step or let run.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use crate::{Complaint, Config, Counter, FlushMode, Mm, Scheme};

use super::baton::{Status, ThreadId};
use super::hotplug::Power;
use super::kernel::{self, User};
use super::{Lying, Setup, World};

/// The schemes there are.
pub const SCHEMES: [Scheme; 5] = [Scheme::Refcount, Scheme::Shootdown, Scheme::Handoff, Scheme::Qsbr, Scheme::Eager];

/// More waits for time than any scheme asks for.
const MOST_WAITS: usize = 100;

/// Command lines that mean something: each scheme with its modifiers.
pub const LINES: [&str; 15] = [
    "lazy_tlb=refcount",
    "lazy_tlb=refcount lazy_tlb.exit=init",
    "lazy_tlb=shootdown",
    "lazy_tlb=shootdown lazy_tlb.exit=init",
    "lazy_tlb=shootdown lazy_tlb.target=slot",
    "lazy_tlb=shootdown lazy_tlb.trim=dying",
    "lazy_tlb=shootdown lazy_tlb.target=slot lazy_tlb.trim=dying",
    "lazy_tlb=shootdown lazy_tlb.batch=3",
    "lazy_tlb=shootdown lazy_tlb.batch=2 lazy_tlb.target=slot lazy_tlb.trim=dying lazy_tlb.exit=init",
    "lazy_tlb=handoff",
    "lazy_tlb=handoff lazy_tlb.exit=init",
    "lazy_tlb=handoff lazy_tlb.shoot_after=2",
    "lazy_tlb=qsbr",
    "lazy_tlb=qsbr lazy_tlb.exit=init",
    "lazy_tlb=eager",
];

/// Whether a final drop leaves no CPU lazy. The others wait for lazy CPUs to leave on their own.
pub fn frees_at_the_drop(scheme: Scheme) -> bool {
    matches!(scheme, Scheme::Shootdown | Scheme::Eager)
}

/// Every scheme with every way to flush that means something with it.
pub fn configs() -> Vec<Config> {
    let mut configs = Vec::new();
    for scheme in SCHEMES {
        for flush in [FlushMode::Broadcast, FlushMode::Ipi, FlushMode::Auto] {
            for (piggyback, retire) in [(false, false), (true, false), (false, true)] {
                let config = Config { scheme, flush, piggyback, retire, ..Config::default() };
                configs.extend(config.check().is_ok().then_some(config));
            }
        }
    }
    configs
}

/// Runs a scenario under each configuration and some seeds, some of them with `lazy_tlb.debug=1`.
pub fn each(cpus: usize, scenario: impl Fn(Director, Scheme)) {
    for (index, config) in configs().into_iter().enumerate() {
        for seed in 0..3 {
            let setup = Setup::with(cpus, config, 3 * index as u64 + seed);
            scenario(Director::new(if seed == 1 { setup.check() } else { setup }), config.scheme);
        }
    }
}

/// Runs a scenario under each command line and some seeds. What it counts depends on the line; what
/// must never happen does not.
pub fn each_line(cpus: usize, scenario: impl Fn(Director, &'static str)) {
    for (index, line) in LINES.into_iter().enumerate() {
        for seed in 0..4 {
            // The ways to flush take turns.
            let way = [[0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 1, 0], [0, 0, 1]][(index + seed) % 5];
            let setup = Setup::new(cpus, Scheme::Refcount, seed as u64).options(line).flushing(way);
            scenario(Director::new(if seed % 2 == 0 { setup } else { setup.check() }), line);
        }
    }
}

/// A machine with idle CPUs, and the test that directs it.
pub struct Director(&'static World);

impl Director {
    /// Starts the machine: every CPU is idle on `init_mm`.
    pub fn new(setup: Setup) -> Self {
        let world = World::new(setup);
        (0..world.setup.cpus).for_each(|_| world.add_core(kernel::idle));
        let reaper = kernel::spawn(world, "reaper", 0, kernel::reap_until_the_end);
        world.lock().reaper = Some(reaper);
        world.run();
        Self(world)
    }

    /// A new task on this CPU. It does not run before the next [`World::run`].
    pub fn spawn(&self, cpu: usize, body: impl FnOnce() + Send + 'static) -> ThreadId {
        kernel::spawn(self.0, "task", cpu, body)
    }

    /// Runs a kernel thread on this CPU to its end, or to where it can go no further.
    pub fn on<T: Send + 'static>(&self, cpu: usize, body: impl FnOnce() -> T + Send + 'static) -> T {
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        self.spawn(cpu, move || {
            let value = body();
            *slot.lock().expect("no thread unwinds") = Some(value);
        });
        self.0.run();
        result.lock().expect("no thread unwinds").take().expect("the task came to its end")
    }

    /// A new task on this CPU, let go until it sleeps, ends or stands still.
    pub fn start(&self, cpu: usize, body: impl FnOnce() + Send + 'static) -> ThreadId {
        let task = self.spawn(cpu, body);
        self.0.run();
        task
    }

    /// Wakes a task and lets it go on.
    pub fn resume(&self, task: ThreadId, cpu: usize) {
        self.wake(task, cpu);
        self.0.run();
    }

    /// A new address space.
    pub fn create(&self) -> User {
        self.on(0, kernel::create)
    }

    /// Makes a CPU lazy on an address space: a task of it ran there and ended.
    pub fn make_lazy(&self, cpu: usize, user: &User) {
        let user = user.clone();
        self.on(cpu, move || kernel::exec(user));
    }

    /// Takes a CPU down if it is up, brings it up if it is off, and lets the machine run.
    pub fn toggle_power(&self, cpu: usize) {
        self.0.lock().toggle_power(cpu);
        self.0.run();
    }

    /// A CPU's idle thread.
    pub fn idle_of(&self, cpu: usize) -> ThreadId {
        self.0.lock().cores[cpu].idle
    }

    /// Whether a CPU has power.
    pub fn is_off(&self, cpu: usize) -> bool {
        self.0.lock().cores[cpu].power == Power::Off
    }

    /// Keeps users for as long as the machine lives: given back last, on CPU 0.
    pub fn keep(&self, users: impl IntoIterator<Item = User>) {
        self.0.kept.lock().expect("no thread unwinds").extend(users);
    }

    /// The machine, for those who outlive this borrow.
    pub fn world(&self) -> &'static World {
        self.0
    }

    /// The test breaks the contract of the mm layer: the oracle looks away, and these complaints
    /// are what it is after.
    pub fn break_rules(&self, expected: &[Complaint]) {
        let mut state = self.0.lock();
        state.oracle.look_away();
        state.expected.extend(expected);
    }

    /// Wakes a task on this CPU.
    pub fn wake(&self, task: ThreadId, cpu: usize) {
        kernel::wake(self.0, task, cpu);
    }

    /// A counter, over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        self.0.system().total(counter)
    }

    /// A counter of one CPU.
    pub fn count(&self, cpu: usize, counter: Counter) -> u64 {
        self.0.system().cpus()[cpu].counters.get(counter)
    }

    /// The CPUs whose slots name `init_mm`.
    pub fn on_init(&self) -> Vec<usize> {
        let system = self.0.system();
        let named = |cpu: &usize| system.cpus()[*cpu].has_loaded(system.init_mm());
        (0..self.0.setup.cpus).filter(named).collect()
    }

    /// Ends the machine and counts what is left.
    pub fn finish(self) {
        if let Err(report) = self.close() {
            panic!("{report}");
        }
        self.0.join();
        self.0.end();
    }

    /// All tasks have ended: frees what can be freed, and counts what is left.
    ///
    /// # Errors
    /// If something is left that should not be.
    pub fn close(&self) -> Result<(), String> {
        let kept = std::mem::take(&mut *self.0.kept.lock().expect("no thread unwinds"));
        if !kept.is_empty() {
            self.spawn(0, move || kept.into_iter().for_each(kernel::put));
            self.0.go().map_or(Ok(()), Err)?;
        }
        self.0.lock().ending = true;
        let reaper = self.0.lock().reaper.expect("made in `new`");
        kernel::wake(self.0, reaper, 0);
        self.0.go().map_or(Ok(()), Err)?;
        self.audit()
    }

    /// Time passes until nothing waits for it any more: what is dead is freed without being asked for (I13), but for what
    /// `handoff` leaves to CPUs that have it loaded.
    ///
    /// # Errors
    /// If something dead stays.
    pub fn outlive(&self) -> Result<(), String> {
        for _ in 0..MOST_WAITS {
            self.0.go().map_or(Ok(()), Err)?;
            if !self.0.pass_time() {
                break;
            }
        }
        let state = self.0.lock();
        let living = state.oracle.each_living(&state.memory);
        drop(state);
        let config = self.0.setup.config;
        let stays = config.scheme == Scheme::Handoff && config.shoot_after.is_none();
        for mm in living.into_iter().filter(|mm| mm.count() == 0) {
            let loaded = self.0.system().cpus().iter().any(|cpu| cpu.has_loaded(mm));
            if !(stays && loaded) {
                return Err(self.0.tell(&format!("I13: {mm:?} is dead and never freed ({loaded})")));
            }
        }
        Ok(())
    }

    /// All tasks ended and all handles are gone: what lives is what the scheme lets live.
    fn audit(&self) -> Result<(), String> {
        let state = self.0.lock();
        let idle: Vec<_> = state.cores.iter().map(|core| core.idle).collect();
        for (id, thread) in state.threads.iter().enumerate() {
            if thread.status != Status::Finished && !idle.contains(&id) {
                return Err(self.0.report(&state, &format!("thread {id} never ended")));
            }
        }
        let living = state.oracle.each_living(&state.memory);
        let complained = !state.complaints.is_empty();
        drop(state);
        let wrong = living.iter().find_map(|mm| self.overstays(mm, complained));
        let frames = &self.0.system().frames;
        let used = (frames.total() - frames.free(), frames.refused());
        let expected = (1 + living.len(), 0);
        let leaked = || (used != expected).then(|| format!("frames in use, and refused: {used:?} for {expected:?}"));
        wrong.or_else(leaked).map_or(Ok(()), |why| Err(self.0.tell(&why)))
    }

    /// Why an address space should not live any more, if it should not.
    fn overstays(&self, mm: &Mm<Lying>, complained: bool) -> Option<String> {
        let scheme = self.0.setup.config.scheme;
        let lazy = self.0.system().cpus().iter().filter(|cpu| cpu.has_loaded(mm)).count();
        let counted = if scheme == Scheme::Refcount { lazy as u32 } else { 0 };
        if mm.users() != 0 || mm.count() != counted {
            return Some(format!("I3: {mm:?} is kept by something else than its {lazy} lazy CPUs"));
        }
        let waits = lazy > 0 && !frees_at_the_drop(scheme);
        (!complained && !waits).then(|| format!("I13: {mm:?} was never freed, {lazy} CPUs are lazy on it"))
    }
}

impl Deref for Director {
    type Target = World;

    fn deref(&self) -> &World {
        self.0
    }
}
