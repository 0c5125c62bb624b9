//! What the members of the crew do.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use super::crew::{Work, expect};
use super::hotplug::present;
use crate::{
    kept::Kept,
    random::Random,
    report::{Failed, Verdict, ensure},
    sys::{
        cpu,
        memory::{Mapping, PAGE},
        process::{self, Ended},
    },
};

/// The program's argument as a child that only exits, and the code with which.
pub const CHILD: (&str, i32) = ("child", 42);

/// Where a number makes a kernel thread borrow the writer's address space so often.
const BORROW: &str = "/proc/lazy_tlb_borrow";

type Deed = fn(&mut Worker) -> Verdict;

const DEEDS: &[(&str, Deed)] = &[
    ("fork", fork),
    ("exec", exec),
    ("threads", threads),
    ("storm", storm),
    ("borrow", borrow),
    ("walk", walk),
    ("kill", kill),
    ("pipe", pipe),
    ("share", share),
    ("sleep", sleep),
];
/// What comes after them, for [`name`].
pub(super) const HOTPLUG: u32 = DEEDS.len() as u32;

/// What a member does, by the number that it wrote down.
pub(super) fn name(number: u32) -> &'static str {
    DEEDS.get(number as usize).map_or("hotplug", |(name, _)| name)
}

/// A member that does [`DEEDS`].
pub(super) struct Worker {
    random: Random,
    cpus: Vec<usize>,
    kept: Kept,
    program: String,
    next: usize,
}

impl Worker {
    pub(super) fn new(number: usize, random: Random) -> Result<Self, Failed> {
        let program = std::env::current_exe()?.to_string_lossy().into_owned();
        Ok(Self { random, cpus: (0..present()).collect(), kept: Kept::new(number as u8)?, program, next: 0 })
    }

    /// Moves to a random CPU. It may be offline: then this one stays where it is.
    fn wander(&mut self) {
        let _ = cpu::pin(self.random.pick(&self.cpus));
    }
}

impl Work for Worker {
    fn choose(&mut self) -> u32 {
        self.next = self.random.below(DEEDS.len() as u64) as usize;
        self.next as u32
    }

    fn go(&mut self) -> Verdict {
        DEEDS[self.next].1(self)?;
        // What a deed bound is free again: its CPU may be about to go.
        cpu::pin_to(&self.cpus)?;
        self.kept.check()
    }

    fn end(&mut self) -> Verdict {
        self.kept.check()
    }
}

/// A child, which touches memory of its own elsewhere and may have a child itself.
fn fork(worker: &mut Worker) -> Verdict {
    let code = worker.random.below(100) as i32;
    let pages = 1 + worker.random.below(32) as usize;
    let twice = worker.random.one_in(3);
    let child = process::spawn(|| {
        worker.wander();
        let Ok(own) = Mapping::private(pages * PAGE) else { return 101 };
        (0..pages).for_each(|page| own.touch(page));
        let grandchild = !twice || expect(process::spawn_empty(), Ended::Exited(0)).is_ok();
        if grandchild && worker.kept.check().is_ok() { code } else { 102 }
    });
    expect(child, Ended::Exited(code))
}

fn exec(worker: &mut Worker) -> Verdict {
    worker.wander();
    expect(process::spawn_program(&worker.program, &[&worker.program, CHILD.0]), Ended::Exited(CHILD.1))
}

/// Threads that compute, with pauses in which their CPUs may become lazy.
fn threads(worker: &mut Worker) -> Verdict {
    let count = 1 + worker.random.below(4);
    let turns = 1 + worker.random.below(20);
    let sum = Mutex::new(0.0);
    thread::scope(|scope| {
        for addend in 1..=count {
            let sum = &sum;
            scope.spawn(move || {
                for _ in 0..turns {
                    *sum.lock().expect("nobody panics with it") += addend as f64;
                    thread::sleep(Duration::from_micros(20));
                }
            });
        }
    });
    let (sum, wanted) = (sum.into_inner().expect("nobody panics with it"), (turns * count * (count + 1) / 2) as f64);
    ensure(sum == wanted, || format!("{count} threads came to {sum}, not {wanted}"))
}

/// Mappings that come, change and go while threads of the same address space run.
fn storm(worker: &mut Worker) -> Verdict {
    let stop = AtomicBool::new(false);
    let (count, turns) = (worker.random.below(3), 1 + worker.random.below(12));
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                // Relaxed: it carries nothing else.
                while !stop.load(Ordering::Relaxed) {
                    cpu::relax();
                    thread::yield_now();
                }
            });
        }
        let result = (0..turns).try_for_each(|_| gust(worker));
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn gust(worker: &mut Worker) -> Verdict {
    let pages = 1 + worker.random.below(64) as usize;
    let memory = Mapping::private(pages * PAGE)?;
    let page = worker.random.below(pages as u64) as usize;
    // SAFETY: inside the mapping just made, which is readable.
    let look = || unsafe { memory.start().add(page * PAGE).read_volatile() };
    ensure(look() == 0, || format!("fresh memory holds {}", look()))?;
    (0..pages).for_each(|page| memory.touch(page));
    memory.protect(libc::PROT_READ)?;
    worker.wander();
    ensure(look() == 1, || format!("a page that holds 1 shows {}", look()))?;
    memory.protect(libc::PROT_NONE)?;
    memory.protect(libc::PROT_READ | libc::PROT_WRITE)?;
    memory.touch(page);
    ensure(look() == 1, || format!("a page that holds 1 shows {} at last", look()))
}

fn borrow(worker: &mut Worker) -> Verdict {
    if !Path::new(BORROW).exists() {
        return Ok(());
    }
    worker.wander();
    Ok(fs::write(BORROW, format!("{}", 1 + worker.random.below(20)))?)
}

/// Leaves a lazily used address space on each CPU that it visits.
fn walk(worker: &mut Worker) -> Verdict {
    (0..worker.random.below(12)).try_for_each(|_| {
        worker.wander();
        worker.kept.check()
    })
}

/// A child that dies while its threads sleep or run on other CPUs.
fn kill(worker: &mut Worker) -> Verdict {
    let (count, running) = (1 + worker.random.below(3), worker.random.one_in(2));
    let child = process::spawn(|| {
        for _ in 0..count {
            let started = thread::Builder::new().spawn(move || {
                loop {
                    if running { cpu::relax() } else { thread::sleep(Duration::from_millis(1)) }
                }
            });
            if started.is_err() {
                return 1;
            }
        }
        loop {
            thread::park();
        }
    })?;
    thread::sleep(Duration::from_micros(worker.random.below(2000)));
    // SAFETY: the child is ours and not reaped yet, so the number names it.
    unsafe { libc::kill(child, libc::SIGKILL) };
    expect(Ok(child), Ended::Killed(libc::SIGKILL))
}

/// A child on another CPU that answers.
fn pipe(worker: &mut Worker) -> Verdict {
    let (ask, answer) = (io::pipe()?, io::pipe()?);
    let turns = 1 + worker.random.below(40) as u8;
    let child = process::spawn(|| {
        worker.wander();
        let mut byte = [0];
        let answered = (0..turns).try_for_each(|_| {
            (&ask.0).read_exact(&mut byte)?;
            (&answer.1).write_all(&[byte[0].wrapping_mul(3)])
        });
        i32::from(answered.is_err())
    })?;
    for turn in 0..turns {
        let mut byte = [0];
        (&ask.1).write_all(&[turn])?;
        (&answer.0).read_exact(&mut byte)?;
        ensure(byte[0] == turn.wrapping_mul(3), || format!("{turn} was answered by {}", byte[0]))?;
    }
    expect(Ok(child), Ended::Exited(0))
}

/// Private memory is copied on the first write, shared memory is not.
fn share(worker: &mut Worker) -> Verdict {
    let (private, shared) = (Mapping::private(PAGE)?, Mapping::shared(PAGE)?);
    // SAFETY: both are pages of zeroes, aligned, writable, alive as long as their mappings; zero is a word.
    let [private, shared]: [&AtomicU32; 2] = unsafe { [&*private.start().cast(), &*shared.start().cast()] };
    let number = worker.random.number() as u32 | 1;
    private.store(number, Ordering::Relaxed);
    let child = process::spawn(|| {
        worker.wander();
        let inherited = private.load(Ordering::Relaxed) == number;
        private.store(0, Ordering::Relaxed);
        shared.store(number, Ordering::Relaxed);
        i32::from(!inherited)
    });
    expect(child, Ended::Exited(0))?;
    // Relaxed: the child is reaped, which orders what it did before this.
    let (private, shared) = (private.load(Ordering::Relaxed), shared.load(Ordering::Relaxed));
    ensure((private, shared) == (number, number), || format!("{number} became {private}, and {shared} in the child"))
}

fn sleep(worker: &mut Worker) -> Verdict {
    worker.wander();
    thread::sleep(Duration::from_micros(worker.random.below(3000)));
    Ok(())
}
