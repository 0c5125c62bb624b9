//! Threads on the other CPUs that load and store on demand, and idle (or spin) in between.

use std::{
    io,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::{
    probe::{self, Fault},
    sys::{
        cpu,
        futex::{self, Scope},
    },
};

/// What the members do between two orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// They sleep, so that their CPUs idle with the address space loaded.
    Asleep,
    /// They run user code, so that their CPUs use the address space.
    Running,
}

pub(super) const RESTS: [Rest; 2] = [Rest::Asleep, Rest::Running];

const LOAD: u32 = 0;
const STORE: u32 = 1;
const LEAVE: u32 = 2;

/// What an answer says of a fault: no byte has this value.
const FAULTED: u64 = 1 << 32;

/// The order that stands, and how many have carried it out.
struct Board {
    number: AtomicU32,
    done: AtomicU32,
    order: AtomicU32,
    address: AtomicU64,
    value: AtomicU64,
}

/// The members, as seen by the one who gives orders.
pub(super) struct Crew<'a> {
    board: &'a Board,
    answers: &'a [AtomicU64],
    rest: Rest,
}

/// Runs `body` on the first CPU with a crew of one thread on each of the others (at least one thread).
pub(super) fn with<T>(rest: Rest, body: impl FnOnce(&Crew) -> T) -> io::Result<T> {
    let cpus = cpu::allowed()?;
    let others = if cpus.len() == 1 { &cpus[..] } else { &cpus[1..] };
    let board = &Board {
        number: AtomicU32::new(0),
        done: AtomicU32::new(0),
        order: AtomicU32::new(LOAD),
        address: AtomicU64::new(0),
        value: AtomicU64::new(0),
    };
    let answers: &Vec<AtomicU64> = &others.iter().map(|_| AtomicU64::new(0)).collect();
    probe::catch_faults();
    cpu::pin(cpus[0])?;
    let result = thread::scope(|scope| {
        for (answer, &home) in answers.iter().zip(others) {
            scope.spawn(move || serve(board, answer, home, rest));
        }
        let crew = Crew { board, answers, rest };
        let result = body(&crew);
        crew.give(LEAVE, 0, 0);
        result
    });
    cpu::pin_to(&cpus)?;
    Ok(result)
}

impl Crew<'_> {
    /// What each member loads from the address; `None` is a fault.
    pub(super) fn load(&self, address: u64) -> Vec<Option<u8>> {
        self.give(LOAD, address, 0);
        self.answers().map(|answer| (answer != FAULTED).then_some(answer as u8)).collect()
    }

    /// Whether each member could store the byte there.
    pub(super) fn store(&self, address: u64, value: u8) -> Vec<bool> {
        self.give(STORE, address, value);
        self.answers().map(|answer| answer != FAULTED).collect()
    }

    /// Gives the members time to fall asleep for good, so that their CPUs are idle.
    pub(super) fn settle(&self) {
        if self.rest == Rest::Asleep {
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn answers(&self) -> impl Iterator<Item = u64> {
        // Ordered by `done`, see `give`.
        self.answers.iter().map(|answer| answer.load(Ordering::Relaxed))
    }

    fn give(&self, order: u32, address: u64, value: u8) {
        let board = self.board;
        board.order.store(order, Ordering::Relaxed);
        board.address.store(address, Ordering::Relaxed);
        board.value.store(value.into(), Ordering::Relaxed);
        board.done.store(0, Ordering::Relaxed);
        // Pairs with the Acquire load in `serve`: who sees the number sees the four stores above.
        board.number.fetch_add(1, Ordering::Release);
        futex::wake(&board.number, i32::MAX, Scope::Private).expect("the word is mapped");
        loop {
            // Pairs with the Release addition in `serve`: who sees all done sees their answers.
            let done = board.done.load(Ordering::Acquire);
            if done == self.answers.len() as u32 {
                return;
            }
            futex::wait(&board.done, done, Scope::Private, None).expect("the word is mapped");
        }
    }
}

fn serve(board: &Board, answer: &AtomicU64, home: usize, rest: Rest) {
    cpu::pin(home).expect("this CPU was allowed a moment ago");
    let mut seen = 0;
    loop {
        // Pairs with the Release addition in `give`.
        while board.number.load(Ordering::Acquire) == seen {
            match rest {
                Rest::Running => cpu::relax(),
                Rest::Asleep => futex::wait(&board.number, seen, Scope::Private, None).expect("the word is mapped"),
            }
        }
        seen += 1;
        let order = board.order.load(Ordering::Relaxed);
        let result = perform(order, board.address.load(Ordering::Relaxed), board.value.load(Ordering::Relaxed) as u8);
        answer.store(result.map_or(FAULTED, u64::from), Ordering::Relaxed);
        // Pairs with the Acquire load in `give`.
        board.done.fetch_add(1, Ordering::Release);
        futex::wake(&board.done, 1, Scope::Private).expect("the word is mapped");
        if order == LEAVE {
            return;
        }
    }
}

fn perform(order: u32, address: u64, value: u8) -> Result<u8, Fault> {
    match order {
        LOAD => probe::load_value(address),
        STORE => probe::store_value(address, value).map(|()| value),
        _ => Ok(0),
    }
}
