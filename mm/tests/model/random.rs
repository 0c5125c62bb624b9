//! Random programs on random machines, judged by the oracle alone.
//!
//! `LAZULI_SEEDS=n` runs n of them instead of the usual number; `LAZULI_SEED=s` runs just that one.

use std::env;
use std::sync::{Arc, Mutex};

use mm::pte::Protection;
use mm::{Hardware, Page, PageRange, Scheme};

use crate::machine::baton::{Status, ThreadId};
use crate::machine::director::{Director, LINES};
use crate::machine::kernel::{self, Reference, User};
use crate::machine::user::{self, pages};
use crate::machine::{Rng, Setup, world};

/// Programs in one run of the suite.
const SEEDS: u64 = 150;
/// Tasks that exist at most over the life of one machine.
const MOST_TASKS: usize = 14;

#[test]
fn random_programs() {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds = match number("LAZULI_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LAZULI_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        run(seed);
    }
}

/// What a failure prints is enough to see it again.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// What the tasks of one machine share.
struct Shared {
    cpus: usize,
    references: Mutex<Vec<Reference>>,
    tasks: Mutex<Vec<ThreadId>>,
}

/// One machine and its program, all from one seed. Gives what stands for everything that happened:
/// the number of steps, and the random numbers after the last.
fn run(seed: u64) -> (u64, u64) {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let cpus = 1 + rng.below(4);
    let least = (cpus as u32 + 2).next_power_of_two().trailing_zeros();
    let mut setup = Setup::new(cpus, Scheme::Refcount, seed).options(LINES[rng.below(LINES.len())]);
    setup = setup.flushing([rng.below(3), rng.below(2), rng.below(2)]);
    if rng.one_in(2) {
        setup.hardware = Hardware { tlbi_range: true, tlbi_ttl: true, ..setup.hardware };
    }
    setup.frames = 320;
    setup.lies.balance = 4;
    if !rng.one_in(3) {
        setup = setup.asid_bits(least + rng.below(2) as u32);
    }
    if rng.one_in(4) {
        setup = setup.check();
    }
    let d = Director::new(setup);
    let shared = Arc::new(Shared { cpus, references: Mutex::default(), tasks: Mutex::default() });
    for _ in 0..cpus + 1 {
        start(&shared, d.world(), rng.below(cpus), None, rng.next());
    }
    d.run();
    // Tasks that sleep and have nobody left to wake them.
    while wake_somebody(&shared, d.world(), &mut rng) {
        d.run();
    }
    let references = std::mem::take(&mut *shared.references.lock().expect("no thread unwinds"));
    d.on(0, move || drop(references));
    let mut state = d.lock();
    let happened = (state.timeline.steps(), state.rng.next());
    drop(state);
    d.finish();
    happened
}

fn wake_somebody(shared: &Shared, world: &'static crate::machine::World, rng: &mut Rng) -> bool {
    let tasks = shared.tasks.lock().expect("no thread unwinds").clone();
    let state = world.lock();
    let asleep: Vec<_> = tasks.into_iter().filter(|&task| state.threads[task].status == Status::Blocked).collect();
    drop(state);
    let chosen = rng.pick(&asleep).copied();
    chosen.into_iter().for_each(|task| kernel::wake(world, task, rng.below(shared.cpus)));
    chosen.is_some()
}

/// A new task, unless there were enough. It runs in `user` first.
fn start(shared: &Arc<Shared>, world: &'static crate::machine::World, cpu: usize, user: Option<User>, seed: u64) {
    let mut tasks = shared.tasks.lock().expect("no thread unwinds");
    if tasks.len() == MOST_TASKS {
        drop(tasks);
        user.into_iter().for_each(kernel::put);
        return;
    }
    // Pages that only this task maps and unmaps. Some tasks share a leaf table, some have one of
    // their own, some share no table but the root with the others.
    let index = tasks.len() as u64;
    let base = 0x400 + index * 3 + [0, index * 0x200, 0x8_4000_0000][index as usize % 3];
    let program = shared.clone();
    tasks.push(kernel::spawn(world, "program", cpu, move || {
        user.into_iter().for_each(kernel::exec);
        Program { rng: Rng::new(seed), pages: pages(base, base + 3), shared: program }.run();
    }));
}

struct Program {
    rng: Rng,
    pages: PageRange,
    shared: Arc<Shared>,
}

impl Program {
    fn run(&mut self) {
        for _ in 0..12 + self.rng.below(12) {
            match kernel::own() {
                Some(own) => self.act_as_user(own),
                None => self.act_as_kernel_thread(),
            }
        }
    }

    fn cpu(&mut self) -> usize {
        self.rng.below(self.shared.cpus)
    }

    /// One step of a task with an address space. `own` is one more user of it.
    fn act_as_user(&mut self, own: User) {
        if self.rng.one_in(16) {
            world().lock().toggle_power(self.rng.below(self.shared.cpus));
        }
        match self.rng.below(12) {
            0 => self.forget_one(),
            1 => self.shared.references.lock().expect("no thread unwinds").push(own.grab_ref()),
            2 => {
                let child = user::fork(&own);
                let (cpu, seed) = (self.cpu(), self.rng.next());
                start(&self.shared, world(), cpu, Some(child), seed);
            }
            3 => {
                let (cpu, seed) = (self.cpu(), self.rng.next());
                start(&self.shared, world(), cpu, Some(own.clone()), seed);
            }
            4 => kernel::exec(kernel::create()),
            5 => kernel::exit_mm(),
            6 => self.change(&own),
            7 => kernel::yield_now(),
            8 => kernel::migrate(self.cpu()),
            9 => self.rest(),
            _ => self.touch(),
        }
        kernel::put(own);
    }

    /// One step of a task without: it borrows, or begins anew.
    fn act_as_kernel_thread(&mut self) {
        match self.rng.below(6) {
            0 => kernel::exec(kernel::create()),
            1 | 2 => {
                let references = self.shared.references.lock().expect("no thread unwinds");
                let reference = self.rng.pick(&references).cloned();
                drop(references);
                if let Some(user) = reference.as_ref().and_then(Reference::try_user) {
                    kernel::exec(user);
                }
            }
            3 => self.forget_one(),
            4 => kernel::migrate(self.cpu()),
            _ => self.rest(),
        }
    }

    /// Drops a reference that somebody left, perhaps where it cannot be freed.
    fn forget_one(&mut self) {
        let mut references = self.shared.references.lock().expect("no thread unwinds");
        if references.is_empty() {
            return;
        }
        let index = self.rng.below(references.len());
        let reference = references.swap_remove(index);
        drop(references);
        if self.rng.one_in(3) {
            kernel::masked(|| drop(reference));
        } else {
            drop(reference);
        }
    }

    /// Sleeps, or wakes somebody.
    fn rest(&mut self) {
        if self.rng.one_in(2) {
            kernel::block();
        } else {
            let shared = self.shared.clone();
            wake_somebody(&shared, world(), &mut self.rng);
        }
    }

    /// Maps, unmaps or narrows some of its own pages.
    fn change(&mut self, own: &User) {
        let start = self.pages.start.number() + self.rng.below(3) as u64;
        let some = pages(start, self.pages.end.number());
        match self.rng.below(5) {
            0 => user::unmap(own, some),
            4 => user::map_shared(own, some, Protection::READ_WRITE),
            1 if own.space().regions().covers(&some) => user::protect(own, some, Protection::READ),
            2 if own.space().regions().covers(&some) => user::protect(own, some, Protection::READ_WRITE),
            _ => user::map(own, some, Protection::READ_WRITE),
        }
    }

    /// Loads or stores, here or there. It may fault: the oracle knows whether it should.
    fn touch(&mut self) {
        for _ in 0..1 + self.rng.below(4) {
            let page = self.some_page();
            let value = self.rng.next();
            let _ = if self.rng.one_in(2) { user::load(page).map(drop) } else { user::store(page, value) };
        }
    }

    /// One of its own pages, mostly; else one that others use.
    fn some_page(&mut self) -> Page {
        let own = self.pages.start.number() + self.rng.below(3) as u64;
        let all = world().lock().oracle.pages();
        match self.rng.pick(&all) {
            Some(&page) if self.rng.one_in(3) => page,
            _ => Page::from_number(own),
        }
    }
}
