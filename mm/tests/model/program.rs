//! A random program: a machine, its options, and what each task does. It is data, so that it can be made smaller.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use mm::pte::Protection;
use mm::{Hardware, Page, PageRange, Scheme};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::machine::baton::{Status, ThreadId};
use crate::machine::director::{Director, LINES};
use crate::machine::kernel::{self, Reference, User};
use crate::machine::user::{self, pages};
use crate::machine::{Setup, World, world};

/// Something that a task does. What makes no sense where it stands is left out.
#[derive(Clone, Debug)]
enum Act {
    /// Loads from a page, or stores to it. The first three pages are its own, the others are used by somebody.
    Touch(Index, Option<u64>),
    /// Maps its pages from here on, private or shared.
    Map(u64, bool),
    Unmap(u64),
    /// Gives its pages from here on these rights: to read, or to write as well.
    Protect(u64, bool),
    /// Another program begins there in a copy of the address space, or in the same.
    Fork(Index),
    Thread(Index),
    /// A new address space in place of this one.
    Exec,
    /// None any more.
    Leave,
    /// Takes a reference for somebody to find.
    Grab,
    /// Becomes a user of what somebody left a reference to.
    Borrow(Index),
    /// Drops a reference that somebody left, with interrupts masked or not.
    Forget(Index, bool),
    Migrate(Index),
    Yield,
    Sleep,
    Wake(Index),
    /// A CPU goes, or comes back.
    Power(Index),
}

fn acts() -> impl Strategy<Value = Act> {
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), any::<Option<u64>>()).prop_map(|(page, value)| Act::Touch(page, value)),
        3 => (0..3_u64, any::<bool>()).prop_map(|(from, shared)| Act::Map(from, shared)),
        1 => (0..3_u64).prop_map(Act::Unmap),
        1 => (0..3_u64, any::<bool>()).prop_map(|(from, write)| Act::Protect(from, write)),
        2 => index().prop_map(Act::Fork),
        2 => index().prop_map(Act::Thread),
        3 => Just(Act::Exec),
        2 => Just(Act::Leave),
        2 => Just(Act::Grab),
        3 => index().prop_map(Act::Borrow),
        2 => (index(), any::<bool>()).prop_map(|(which, masked)| Act::Forget(which, masked)),
        2 => index().prop_map(Act::Migrate),
        1 => Just(Act::Yield),
        1 => Just(Act::Sleep),
        2 => index().prop_map(Act::Wake),
        1 => index().prop_map(Act::Power),
    ]
}

/// A machine and its programs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    cpus: usize,
    line: &'static str,
    flushing: [usize; 3],
    ranges: bool,
    /// So many more bits of ASID than must be; `None` for all.
    spare_bits: Option<u32>,
    check: bool,
    /// The first of them, one more than CPUs, begin at once.
    programs: Vec<Vec<Act>>,
}

/// Small machines mostly: on them a CPU is met again sooner.
pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let cpus = prop_oneof![8 => 1..5_usize, 2 => 5..17_usize, 1 => Just(64_usize)];
    cpus.prop_flat_map(|cpus| {
        let programs = vec(vec(acts(), 1..20), 1..cpus * 2 + 8);
        let options = (select(&LINES[..]), [0..3_usize, 0..2, 0..2], any::<bool>(), proptest::option::of(0..2_u32));
        (options, prop::bool::weighted(0.25), programs).prop_map(move |(options, check, programs)| {
            let (line, flushing, ranges, spare_bits) = options;
            Plan { cpus, line, flushing, ranges, spare_bits, check, programs }
        })
    })
}

/// What the tasks of one machine share.
struct Shared {
    cpus: usize,
    references: Mutex<Vec<Reference>>,
    tasks: Mutex<Vec<ThreadId>>,
    waiting: Mutex<VecDeque<Vec<Act>>>,
}

impl Plan {
    /// Runs it. Gives what stands for everything that happened: the number of steps, and the random number after the last.
    ///
    /// # Errors
    /// What the oracle, or the count at the end, objected to.
    pub(crate) fn run(self, schedule: u64) -> Result<(u64, u64), String> {
        let d = Director::new(self.setup(schedule));
        let programs = self.programs.len();
        let shared = Arc::new(Shared {
            cpus: self.cpus,
            references: Mutex::default(),
            tasks: Mutex::default(),
            waiting: Mutex::new(self.programs.into()),
        });
        (0..programs.min(self.cpus + 1)).for_each(|number| start(&shared, d.world(), number % shared.cpus, None));
        d.go().map_or(Ok(()), Err)?;
        // Tasks that sleep and have nobody left to wake them.
        while wake(&shared, d.world(), 0) {
            d.go().map_or(Ok(()), Err)?;
        }
        let references = std::mem::take(&mut *shared.references.lock().expect("no thread unwinds"));
        d.spawn(0, move || drop(references));
        d.go().map_or(Ok(()), Err)?;
        let mut state = d.lock();
        let happened = (state.timeline.steps(), state.rng.draw());
        drop(state);
        d.close()?;
        d.join();
        d.end();
        Ok(happened)
    }

    fn setup(&self, schedule: u64) -> Setup {
        let mut setup = Setup::new(self.cpus, Scheme::Refcount, schedule).options(self.line).flushing(self.flushing);
        if self.ranges {
            setup.hardware = Hardware { tlbi_range: true, tlbi_ttl: true, ..setup.hardware };
        }
        setup.lies.balance = 4;
        setup.lies.lost = 16;
        setup.frames = 400;
        if self.cpus > 4 {
            // Whoever looks everything up everywhere takes his time on a big machine.
            setup.lies.walk_all = 256;
            setup.frames = 2400;
        }
        if let Some(spare) = self.spare_bits {
            let least = (self.cpus as u32 + 2).next_power_of_two().trailing_zeros();
            setup = setup.asid_bits(least + spare);
        }
        if self.check { setup.check() } else { setup }
    }
}

/// Wakes the first task from there on that sleeps.
fn wake(shared: &Shared, world: &'static World, from: usize) -> bool {
    let tasks = shared.tasks.lock().expect("no thread unwinds").clone();
    let state = world.lock();
    let asleep = |task: &&ThreadId| state.threads[**task].status == Status::Blocked;
    let chosen = tasks.iter().skip(from).chain(&tasks).find(asleep).copied();
    drop(state);
    chosen.into_iter().for_each(|task| kernel::wake(world, task, task % shared.cpus));
    chosen.is_some()
}

/// The next program begins, if there is one. It runs in `user` first.
fn start(shared: &Arc<Shared>, world: &'static World, cpu: usize, user: Option<User>) {
    let Some(acts) = shared.waiting.lock().expect("no thread unwinds").pop_front() else {
        return user.into_iter().for_each(kernel::put);
    };
    let mut tasks = shared.tasks.lock().expect("no thread unwinds");
    // Pages that only this task maps and unmaps. Some tasks share a leaf table, some have one of
    // their own, some share no table but the root with the others.
    let index = tasks.len() as u64;
    let base = 0x400 + index * 3 + [0, index * 0x200, 0x8_4000_0000][index as usize % 3];
    let its = shared.clone();
    tasks.push(kernel::spawn(world, "program", cpu, move || {
        kernel::exec(user.unwrap_or_else(kernel::create));
        let program = Program { pages: pages(base, base + 3), shared: its };
        acts.iter().for_each(|act| program.act(act));
    }));
}

struct Program {
    pages: PageRange,
    shared: Arc<Shared>,
}

impl Program {
    fn cpu(&self, index: &Index) -> usize {
        index.index(self.shared.cpus)
    }

    fn act(&self, act: &Act) {
        let own = kernel::own();
        match (act, own) {
            (Act::Power(cpu), own) => {
                world().lock().toggle_power(self.cpu(cpu));
                own.into_iter().for_each(kernel::put);
            }
            (_, Some(own)) => self.act_as_user(act, own),
            (_, None) => self.act_as_kernel_thread(act),
        }
    }

    /// One step of a task with an address space. `own` is one more user of it.
    fn act_as_user(&self, act: &Act, own: User) {
        match act {
            Act::Touch(page, value) => self.touch(page, *value),
            Act::Grab => self.references().push(own.grab_ref()),
            Act::Fork(cpu) => start(&self.shared, world(), self.cpu(cpu), Some(user::fork(&own))),
            Act::Thread(cpu) => start(&self.shared, world(), self.cpu(cpu), Some(own.clone())),
            Act::Exec => kernel::exec(kernel::create()),
            Act::Leave => kernel::exit_mm(),
            Act::Map(..) | Act::Unmap(_) | Act::Protect(..) => self.change(act, &own),
            _ => self.act_as_any(act),
        }
        kernel::put(own);
    }

    /// One step of a task without: it borrows, or begins anew.
    fn act_as_kernel_thread(&self, act: &Act) {
        match act {
            Act::Exec => kernel::exec(kernel::create()),
            Act::Borrow(which) => {
                let references = self.references();
                let reference = (!references.is_empty()).then(|| which.get(&references).clone());
                drop(references);
                if let Some(user) = reference.as_ref().and_then(Reference::try_user) {
                    kernel::exec(user);
                }
            }
            _ => self.act_as_any(act),
        }
    }

    fn act_as_any(&self, act: &Act) {
        match act {
            Act::Forget(which, masked) => self.forget(which, *masked),
            Act::Migrate(cpu) => kernel::migrate(self.cpu(cpu)),
            Act::Yield => kernel::yield_now(),
            Act::Sleep => kernel::block(),
            Act::Wake(task) => {
                let tasks = self.shared.tasks.lock().expect("no thread unwinds").len();
                wake(&self.shared, world(), task.index(tasks));
            }
            _ => {}
        }
    }

    fn references(&self) -> std::sync::MutexGuard<'_, Vec<Reference>> {
        self.shared.references.lock().expect("no thread unwinds")
    }

    /// Drops a reference that somebody left, perhaps where it cannot be freed.
    fn forget(&self, which: &Index, masked: bool) {
        let mut references = self.references();
        if references.is_empty() {
            return;
        }
        let index = which.index(references.len());
        let reference = references.swap_remove(index);
        drop(references);
        if masked { kernel::masked(|| drop(reference)) } else { drop(reference) }
    }

    /// Maps, unmaps or narrows some of its own pages.
    fn change(&self, act: &Act, own: &User) {
        let from = |start: u64| pages(self.pages.start.number() + start, self.pages.end.number());
        match act {
            Act::Map(start, true) => user::map_shared(own, from(*start), Protection::READ_WRITE),
            Act::Map(start, false) => user::map(own, from(*start), Protection::READ_WRITE),
            Act::Unmap(start) => user::unmap(own, from(*start)),
            Act::Protect(start, write) if own.space().regions().covers(&from(*start)) => {
                let protection = if *write { Protection::READ_WRITE } else { Protection::READ };
                user::protect(own, from(*start), protection);
            }
            _ => {}
        }
    }

    /// Loads or stores, here or there. It may fault: the oracle knows whether it should.
    fn touch(&self, page: &Index, value: Option<u64>) {
        let own = (0..3).map(|page| Page::from_number(self.pages.start.number() + page));
        let others = world().lock().oracle.pages();
        let all: Vec<Page> = own.chain(others).collect();
        let page = *page.get(&all);
        let _ = match value {
            Some(value) => user::store(page, value),
            None => user::load(page).map(drop),
        };
    }
}
