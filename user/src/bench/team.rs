//! Members that work at the same time, as threads or as processes, behind one gate.
//!
//! Each member sets itself up, warms up, and stops at the gate. When all have arrived the coordinator starts the
//! measured region and opens it; the region ends when the last member has finished, and only then may they end. What comes
//! before and after, the making and reaping of the members, is not measured.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use super::measure::{self, Sample};
use crate::sys::{
    futex::{self, Scope},
    memory::SharedPage,
    process,
};

/// What the members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Threads of one address space.
    Threads,
    /// Forked processes.
    Processes,
}

impl Kind {
    /// Who can see a futex word between two members.
    pub fn scope(self) -> Scope {
        match self {
            Kind::Threads => Scope::Private,
            Kind::Processes => Scope::Shared,
        }
    }
}

/// How often the coordinator looks after members that take long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the members of a team meet.
pub struct Gate {
    page: SharedPage,
}

impl Gate {
    fn new() -> io::Result<Self> {
        SharedPage::new().map(|page| Self { page })
    }

    fn arrived(&self) -> &AtomicU32 {
        &self.page[0]
    }

    fn opened(&self) -> &AtomicU32 {
        &self.page[1]
    }

    fn finished(&self) -> &AtomicU32 {
        &self.page[2]
    }

    fn closed(&self) -> &AtomicU32 {
        &self.page[3]
    }

    /// Called by a member that is ready: comes back when the measured region has begun.
    pub fn pass(&self) -> io::Result<()> {
        add_and_wake(self.arrived())?;
        await_set(self.opened())
    }

    /// Called by a member that has finished: its end, which costs the kernel something, too, is not to be measured.
    fn stay(&self) -> io::Result<()> {
        add_and_wake(self.finished())?;
        await_set(self.closed())
    }

    /// Waits until `count` members are counted in `word`, and has `check` look at them when that takes long.
    fn await_all(word: &AtomicU32, count: u32, check: &mut Check) -> io::Result<()> {
        loop {
            // Pairs with the Release addition in `add_and_wake`.
            let now = word.load(Ordering::Acquire);
            if now == count {
                return Ok(());
            }
            futex::wait(word, now, Scope::Shared, Some(PATIENCE))?;
            if word.load(Ordering::Acquire) == now {
                check()?;
            }
        }
    }
}

type Check<'a> = dyn FnMut() -> io::Result<()> + 'a;

fn set_and_wake(word: &AtomicU32) -> io::Result<()> {
    // Pairs with the Acquire load in `await_set`.
    word.store(1, Ordering::Release);
    futex::wake(word, i32::MAX, Scope::Shared).map(drop)
}

fn await_set(word: &AtomicU32) -> io::Result<()> {
    // Pairs with the Release store in `set_and_wake`.
    while word.load(Ordering::Acquire) == 0 {
        futex::wait(word, 0, Scope::Shared, None)?;
    }
    Ok(())
}

fn add_and_wake(word: &AtomicU32) -> io::Result<()> {
    // Pairs with the Acquire load in `await_all`: what the member did is seen by the coordinator.
    word.fetch_add(1, Ordering::Release);
    futex::wake(word, 1, Scope::Shared).map(drop)
}

/// Runs `members` members of that kind and measures from the opening of the gate until the last has finished.
///
/// `body` gets the number of the member and the gate, which it must pass once.
pub fn run<F>(kind: Kind, members: usize, body: F) -> io::Result<Sample>
where
    F: Fn(usize, &Gate) -> io::Result<()> + Sync,
{
    let gate = &Gate::new()?;
    let body = &body;
    match kind {
        Kind::Threads => thread::scope(|scope| {
            for member in 0..members {
                thread::Builder::new().spawn_scoped(scope, move || work(member, gate, body))?;
            }
            coordinate(gate, members, &mut || Ok(()))
        }),
        Kind::Processes => run_processes(gate, members, body),
    }
}

fn run_processes<F>(gate: &Gate, members: usize, body: &F) -> io::Result<Sample>
where
    F: Fn(usize, &Gate) -> io::Result<()>,
{
    let fork = |member| {
        process::spawn(|| {
            work(member, gate, body);
            0
        })
    };
    let children = (0..members).map(fork).collect::<io::Result<Vec<_>>>()?;
    let sample = coordinate(gate, members, &mut || {
        for &child in &children {
            if let Some(ended) = process::try_wait(child)? {
                return Err(io::Error::other(format!("member {child} ended too early: {ended:?}")));
            }
        }
        Ok(())
    })?;
    for child in children {
        process::wait(child)?;
    }
    Ok(sample)
}

fn work<F>(member: usize, gate: &Gate, body: &F)
where
    F: Fn(usize, &Gate) -> io::Result<()>,
{
    if let Err(error) = body(member, gate).and_then(|()| gate.stay()) {
        // The others would wait for this member for ever, so the process ends here.
        eprintln!("lazybench: member {member}: {error}");
        process::exit_now(1);
    }
}

fn coordinate(gate: &Gate, members: usize, check: &mut Check) -> io::Result<Sample> {
    let sample = measure_members(gate, members, check);
    set_and_wake(gate.closed())?;
    sample
}

fn measure_members(gate: &Gate, members: usize, check: &mut Check) -> io::Result<Sample> {
    Gate::await_all(gate.arrived(), members as u32, check)?;
    let started = measure::start();
    set_and_wake(gate.opened())?;
    Gate::await_all(gate.finished(), members as u32, check)?;
    Ok(started.end())
}
