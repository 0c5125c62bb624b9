//! Waiting: that no wake-up is lost, and that each wait ends when it should.
#![no_std]
#![no_main]

extern crate alloc;

mod threads;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lazuli::arch::timer::now_ns;
use lazuli::kernel_tests;
use lazuli::sched::thread::flags;
use lazuli::sched::{self, Patience, Signals, WaitError, WaitQueue};
use lazuli::sync::IrqLock;

use self::threads::{MS, Outcome, PATIENCE_NS, join, only, other_cpus, sleep, spawn_on, spin_until};

kernel_tests! {
    two_threads_take_turns_on_one_cpu,
    wake_ups_cross_cpus,
    one_wake_up_wakes_one,
    a_wake_up_that_comes_too_late_is_passed_on,
    park_remembers_one_unpark,
    sleep_is_never_short,
    deadlines_come_in_order,
    waits_end_at_their_deadline,
    signals_end_interruptible_waits_only,
    a_deadline_taken_back_elsewhere,
}

fn soon() -> Patience {
    Patience::ENDLESS.until(Some(now_ns() + PATIENCE_NS))
}

/// A ball that two sides pass to each other, each waiting for its turn.
struct Court {
    turn: AtomicUsize,
    queues: [WaitQueue; 2],
}

impl Court {
    fn new() -> Arc<Self> {
        Arc::new(Self { turn: AtomicUsize::new(0), queues: [WaitQueue::new(), WaitQueue::new()] })
    }

    fn play(&self, side: usize, rounds: usize) -> Result<(), WaitError> {
        for _ in 0..rounds {
            self.queues[side].wait(soon(), || (self.turn.load(Ordering::Acquire) == side).then_some(()))?;
            self.turn.store(1 - side, Ordering::Release);
            self.queues[1 - side].wake_one();
        }
        Ok(())
    }
}

/// Plays on two CPUs and expects an end.
fn play(cpus: [usize; 2], rounds: usize) -> Outcome {
    let court = Court::new();
    let lost = Arc::new(AtomicBool::new(false));
    let players: Vec<_> = [0, 1]
        .map(|side| {
            let (court, lost) = (court.clone(), lost.clone());
            spawn_on(cpus[side], move || {
                if court.play(side, rounds).is_err() {
                    lost.store(true, Ordering::Relaxed);
                }
            })
        })
        .into();
    join(&players)?;
    if lost.load(Ordering::Relaxed) { Err(format!("a wake-up between CPUs {cpus:?} was lost")) } else { Ok(()) }
}

fn two_threads_take_turns_on_one_cpu() -> Outcome {
    play([0, 0], 5_000)
}

/// Every CPU with every next one, at the same time: each CPU is woken by one and wakes another.
fn wake_ups_cross_cpus() -> Outcome {
    let cpus: Vec<_> = (0..1).chain(other_cpus()).collect();
    let courts: Vec<_> = cpus.iter().map(|_| Court::new()).collect();
    let lost = Arc::new(AtomicUsize::new(0));
    let mut players = Vec::new();
    for (index, court) in courts.iter().enumerate() {
        for side in [0, 1] {
            let (court, lost) = (court.clone(), lost.clone());
            players.push(spawn_on(cpus[(index + side) % cpus.len()], move || {
                if court.play(side, 1_500).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    join(&players)?;
    match lost.load(Ordering::Relaxed) {
        0 => Ok(()),
        lost => Err(format!("{lost} wake-ups were lost")),
    }
}

/// Tokens come one at a time, each with one wake-up; every token must be taken though takers compete.
fn one_wake_up_wakes_one() -> Outcome {
    const TOKENS: usize = 2_000;
    struct Shop {
        tokens: IrqLock<usize>,
        queue: WaitQueue,
        taken: AtomicUsize,
        closed: AtomicBool,
    }
    let shop = Arc::new(Shop {
        tokens: IrqLock::new(0),
        queue: WaitQueue::new(),
        taken: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    });
    let cpus: Vec<_> = (0..1).chain(other_cpus()).collect();
    let takers: Vec<_> = (0..6)
        .map(|index| {
            let shop = shop.clone();
            spawn_on(cpus[index % cpus.len()], move || {
                // Some are impatient: a wake-up that finds one of those must go on to another.
                let patience = || match index % 2 {
                    0 => Patience::ENDLESS,
                    _ => Patience::ENDLESS.until(Some(now_ns() + MS / 10)),
                };
                while !shop.closed.load(Ordering::Relaxed) {
                    let taken = shop.queue.wait(patience(), || {
                        let mut tokens = shop.tokens.lock();
                        let got = *tokens > 0;
                        *tokens -= usize::from(got);
                        (got || shop.closed.load(Ordering::Relaxed)).then_some(got)
                    });
                    shop.taken.fetch_add(usize::from(taken == Ok(true)), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for given in 1..=TOKENS {
        *shop.tokens.lock() += 1;
        shop.queue.wake_one();
        if given % 64 == 0 {
            spin_until(|| {
                sched::yield_now();
                shop.taken.load(Ordering::Relaxed) == given
            })?;
        }
    }
    shop.closed.store(true, Ordering::Relaxed);
    shop.queue.wake_all();
    join(&takers)
}

/// A wake-up chooses a thread just after that looked for the last time: the next one in the queue must get it.
fn a_wake_up_that_comes_too_late_is_passed_on() -> Outcome {
    let (queue, event) = (Arc::new(WaitQueue::new()), Arc::new(AtomicBool::new(false)));
    let deadline = now_ns() + 20 * MS;
    let impatient = {
        let (queue, event) = (queue.clone(), event.clone());
        spawn_on(0, move || {
            let _ = queue.wait(Patience::ENDLESS.until(Some(deadline)), || {
                if now_ns() >= deadline {
                    event.store(true, Ordering::Relaxed);
                    queue.wake_one();
                }
                None::<()>
            });
        })
    };
    sched::yield_now();
    let patient = {
        let (queue, event) = (queue.clone(), event.clone());
        spawn_on(0, move || queue.wait_until(|| event.load(Ordering::Relaxed).then_some(())))
    };
    join(&[impatient, patient])
}

fn park_remembers_one_unpark() -> Outcome {
    let me = sched::current_arc();
    me.unpark();
    me.unpark();
    sched::park(soon()).map_err(|error| format!("an unpark was forgotten: {error:?}"))?;
    let brief = Patience::ENDLESS.until(Some(now_ns() + 2 * MS));
    if sched::park(brief) != Err(WaitError::TimedOut) {
        return Err("two unparks before a park count as one".into());
    }
    for cpu in (0..1).chain(other_cpus()) {
        let (parent, rounds) = (me.clone(), 1_000);
        let child = spawn_on(cpu, move || {
            for _ in 0..rounds {
                parent.unpark();
                if sched::park(soon()).is_err() {
                    return;
                }
            }
        });
        for _ in 0..rounds {
            sched::park(soon()).map_err(|error| format!("unpark from CPU {cpu}: {error:?}"))?;
            child.unpark();
        }
        join(&[child])?;
    }
    Ok(())
}

fn sleep_is_never_short() -> Outcome {
    for ns in [0, 1, 999, 10_000, MS, 3 * MS + 7] {
        let start = now_ns();
        sleep(ns);
        let slept = now_ns() - start;
        if slept < ns {
            return Err(format!("a sleep of {ns} ns took {slept} ns"));
        }
    }
    Ok(())
}

fn deadlines_come_in_order() -> Outcome {
    // A thread may lose its CPU between its wake-up and its entry in the list: one attempt without that is enough.
    let mut result = Ok(());
    for _ in 0..10 {
        result = sleep_in_order();
        if result.is_ok() {
            break;
        }
    }
    result
}

fn sleep_in_order() -> Outcome {
    const SLEEPERS: usize = 24;
    let order = Arc::new(IrqLock::new(Vec::with_capacity(SLEEPERS)));
    let start = now_ns() + 50 * MS;
    let sleepers: Vec<_> = (0..SLEEPERS)
        .map(|index| {
            let order = order.clone();
            spawn_on(0, move || {
                // 0, 7, 14, ... modulo 24: armed in no order at all.
                let rank = index * 7 % SLEEPERS;
                let _ = sched::sleep_until(start + rank as u64 * MS, Signals::Wait);
                order.lock().push(rank);
            })
        })
        .collect();
    join(&sleepers)?;
    let order = order.lock();
    if order.is_sorted() && order.len() == SLEEPERS { Ok(()) } else { Err(format!("they woke as {:?}", *order)) }
}

fn waits_end_at_their_deadline() -> Outcome {
    let queue = WaitQueue::new();
    let deadline = now_ns() + 5 * MS;
    let result = queue.wait(Patience::ENDLESS.until(Some(deadline)), || None::<()>);
    if result != Err(WaitError::TimedOut) || now_ns() < deadline {
        return Err(format!("{result:?}, {} ns after the deadline", now_ns().wrapping_sub(deadline) as i64));
    }
    if queue.wake_one() { Err("a thread that gave up is still in the queue".into()) } else { Ok(()) }
}

fn signals_end_interruptible_waits_only() -> Outcome {
    let cpu = other_cpus().next().unwrap_or(0);
    let (queue, event) = (Arc::new(WaitQueue::new()), Arc::new(AtomicBool::new(false)));
    let interrupted = Arc::new(AtomicBool::new(false));
    let waiter = {
        let (queue, event, interrupted) = (queue.clone(), event.clone(), interrupted.clone());
        spawn_on(cpu, move || {
            let result = queue.wait(Patience::INTERRUPTIBLE, || None::<()>);
            interrupted.store(result == Err(WaitError::Interrupted), Ordering::Relaxed);
            // The flag is still set, and nobody asks here.
            queue.wait_until(|| event.load(Ordering::Relaxed).then_some(()));
        })
    };
    sleep(2 * MS);
    waiter.interrupt(flags::SIGNAL_PENDING);
    sleep(5 * MS);
    waiter.interrupt(flags::SIGNAL_PENDING);
    sleep(5 * MS);
    if waiter.has_exited() {
        return Err("a signal ended a wait that it must not end".into());
    }
    event.store(true, Ordering::Relaxed);
    queue.wake_all();
    join(&[waiter])?;
    if interrupted.load(Ordering::Relaxed) { Ok(()) } else { Err("the signal did not end the wait".into()) }
}

/// Arms a deadline on one CPU, moves while asleep, and takes it back on another, again and again.
fn a_deadline_taken_back_elsewhere() -> Outcome {
    let Some(other) = other_cpus().next() else { return Ok(()) };
    let failed = Arc::new(AtomicBool::new(false));
    let flag = failed.clone();
    let sleeper = spawn_on(0, move || {
        for _ in 0..200 {
            if sched::park(soon()).is_err() {
                flag.store(true, Ordering::Relaxed);
                return;
            }
        }
    });
    for round in 0..200 {
        let cpu = if round % 2 == 0 { other } else { 0 };
        sched::set_affinity(&sleeper, &only(cpu)).map_err(|error| format!("{error:?}"))?;
        sleeper.unpark();
        spin_until(|| {
            sched::yield_now();
            sleeper.last_cpu() == cpu || sleeper.has_exited()
        })?;
    }
    while !sleeper.has_exited() {
        sleeper.unpark();
        sleep(MS / 10);
    }
    join(&[sleeper])?;
    if failed.load(Ordering::Relaxed) { Err("a wake-up was lost".into()) } else { Ok(()) }
}
