//! Threads: that each runs where and when it should, and that no wake-up is lost.
//!
//! Every wait here has a bound, so a lost wake-up is a failed test and not a hang.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use lazuli::arch::stack::KernelStack;
use lazuli::arch::timer::now_ns;
use lazuli::arch::tlbi;
use lazuli::machine::Kernel;
use lazuli::sched::{self, Builder, Patience, Signals, Thread, WaitError, WaitQueue, thread::flags};
use lazuli::sync::{IrqLock, PreemptGuard};
use lazuli::{heap, ipi, kernel_tests, percpu};
use mm::{Counter, CpuId, CpuSet, Machine, Mm};

kernel_tests! {
    two_threads_take_turns_on_one_cpu,
    threads_run_on_every_cpu,
    wake_ups_cross_cpus,
    one_wake_up_wakes_one,
    a_wake_up_that_comes_too_late_is_passed_on,
    park_remembers_one_unpark,
    a_spinning_thread_is_preempted,
    a_guard_keeps_the_cpu,
    sleep_is_never_short,
    deadlines_come_in_order,
    waits_end_at_their_deadline,
    signals_end_interruptible_waits_only,
    a_deadline_taken_back_elsewhere,
    affinity_moves_the_running_thread,
    affinity_moves_other_threads,
    affinity_needs_a_cpu,
    idle_cpus_take_over_work,
    each_thread_finds_its_address_space,
    lazy_cpus_let_go_of_dead_address_spaces,
    threads_leave_nothing_behind,
}

type Outcome = Result<(), String>;

const MS: u64 = 1_000_000;
/// How long a test waits for what must happen: an emulated CPU may lose its host CPU for long.
const PATIENCE_NS: u64 = 20_000 * MS;

fn soon() -> Patience {
    Patience::ENDLESS.until(Some(now_ns() + PATIENCE_NS))
}

fn only(cpu: usize) -> CpuSet {
    CpuSet::only(CpuId(cpu as u16))
}

fn other_cpus() -> impl Iterator<Item = usize> {
    (1..percpu::count()).filter(|&cpu| ipi::online().contains(CpuId(cpu as u16)))
}

fn spawn_on(cpu: usize, entry: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    Builder::new("test").affinity(only(cpu)).spawn(entry).expect("no memory for a thread")
}

fn join(threads: &[Arc<Thread>]) -> Outcome {
    let end = now_ns() + PATIENCE_NS;
    for thread in threads {
        while !thread.has_exited() {
            if now_ns() > end {
                return Err(format!("{thread:?} has not ended"));
            }
            sleep(MS / 4);
        }
    }
    Ok(())
}

fn sleep(ns: u64) {
    sched::sleep_until(now_ns() + ns, Signals::Wait).expect("no signal may end this sleep");
}

/// Waits, without blocking, until `done`.
fn spin_until(done: impl Fn() -> bool) -> Outcome {
    let end = now_ns() + PATIENCE_NS;
    while !done() {
        if now_ns() > end {
            return Err("it did not happen in time".into());
        }
        lazuli::sync::relax();
    }
    Ok(())
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

fn threads_run_on_every_cpu() -> Outcome {
    static SEEN: [AtomicUsize; 512] = [const { AtomicUsize::new(0) }; 512];
    let threads: Vec<_> = (0..1)
        .chain(other_cpus())
        .map(|cpu| {
            spawn_on(cpu, || {
                SEEN[percpu::cpu_id()].fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    join(&threads)?;
    for cpu in (0..1).chain(other_cpus()) {
        if SEEN[cpu].load(Ordering::Relaxed) != 1 {
            return Err(format!("CPU {cpu} did not run its thread once"));
        }
    }
    Ok(())
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

fn a_spinning_thread_is_preempted() -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            spawn_on(0, move || {
                while !black_box(&stop).load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            })
        })
        .collect();
    // Neither ever waits: that this thread goes on is the tick's doing, or this test ends here.
    for _ in 0..5 {
        sched::yield_now();
    }
    sleep(20 * MS);
    stop.store(true, Ordering::Relaxed);
    join(&spinners)
}

fn a_guard_keeps_the_cpu() -> Outcome {
    let ran = Arc::new(AtomicBool::new(false));
    let flag = ran.clone();
    let set = move || flag.store(true, Ordering::Relaxed);
    let other = Builder::new("test").affinity(only(0)).build(set).map_err(|error| format!("{error:?}"))?;
    let guard = PreemptGuard::new();
    other.start();
    // The slice ends, and the tick says so.
    let due = spin_until(|| percpu::this().need_resched.load(Ordering::Relaxed));
    let too_early = ran.load(Ordering::Relaxed);
    drop(guard);
    // Giving up the guard made up for it.
    let at_once = ran.load(Ordering::Relaxed);
    due?;
    join(&[other])?;
    match (too_early, at_once) {
        (false, true) => Ok(()),
        (true, _) => Err("another thread ran inside a PreemptGuard".into()),
        (_, false) => Err("preemption that was due was forgotten".into()),
    }
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

fn affinity_moves_the_running_thread() -> Outcome {
    let wrong = Arc::new(AtomicUsize::new(0));
    let count = wrong.clone();
    let mover = spawn_on(0, move || {
        for _ in 0..50 {
            for cpu in (0..1).chain(other_cpus()) {
                let moved = sched::set_affinity(sched::current(), &only(cpu));
                // Allowed nowhere else, so the answer holds.
                let right = moved.is_ok() && percpu::cpu_id() == cpu;
                count.fetch_add(usize::from(!right), Ordering::Relaxed);
            }
        }
    });
    join(&[mover])?;
    match wrong.load(Ordering::Relaxed) {
        0 => Ok(()),
        wrong => Err(format!("{wrong} times the thread was elsewhere")),
    }
}

fn affinity_moves_other_threads() -> Outcome {
    let Some(other) = other_cpus().next() else { return Ok(()) };
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
    let spinner = {
        let (stop, seen) = (stop.clone(), seen.clone());
        spawn_on(other, move || {
            while !stop.load(Ordering::Relaxed) {
                seen.store(percpu::cpu_id(), Ordering::Relaxed);
                lazuli::sync::relax();
            }
        })
    };
    for round in 0..40 {
        let cpu = if round % 2 == 0 { 0 } else { other };
        sched::set_affinity(&spinner, &only(cpu)).map_err(|error| format!("{error:?}"))?;
        spin_until(|| {
            sched::yield_now();
            seen.load(Ordering::Relaxed) == cpu
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    join(&[spinner])
}

fn affinity_needs_a_cpu() -> Outcome {
    let before = sched::current().affinity();
    if sched::set_affinity(sched::current(), &only(511)).is_ok() || sched::current().affinity() != before {
        return Err("a set without an online CPU was accepted".into());
    }
    Ok(())
}

/// Threads that never wait, all started here: the other CPUs must get some of them.
fn idle_cpus_take_over_work() -> Outcome {
    let cpus = 1 + other_cpus().count();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let spinners: Vec<_> = (0..cpus)
        .map(|_| {
            let (stop, seen) = (stop.clone(), seen.clone());
            let spin = move || {
                while !stop.load(Ordering::Relaxed) {
                    seen.fetch_or(1 << percpu::cpu_id(), Ordering::Relaxed);
                    lazuli::sync::relax();
                }
            };
            Builder::new("spinner").spawn(spin).expect("no memory for a thread")
        })
        .collect();
    // Asleep in between, so that this CPU is idle too if it got no thread.
    let result = spin_until(|| {
        sleep(MS);
        seen.load(Ordering::Relaxed).count_ones() as usize == cpus
    });
    stop.store(true, Ordering::Relaxed);
    join(&spinners)?;
    result
}

/// TTBR0 follows the threads: same CPU, other CPU, through idle and through threads that have none.
fn each_thread_finds_its_address_space() -> Outcome {
    let wrong = Arc::new(AtomicUsize::new(0));
    let cpus: Vec<_> = (0..1).chain(other_cpus()).collect();
    let mut threads = Vec::new();
    for index in 0..2 * cpus.len() {
        let mm = Mm::<Kernel>::create().ok_or("no frame for a root")?;
        let (root, wrong) = (mm.root(), wrong.clone());
        let run = move || {
            for round in 0..200 {
                let right =
                    sched::current_mm().is_some_and(|mm| mm.root() == root) && tlbi::read_ttbr0().root() == root;
                wrong.fetch_add(usize::from(!right), Ordering::Relaxed);
                match round % 8 {
                    0 => sleep(MS / 20),
                    1 => drop(sched::set_affinity(sched::current(), &CpuSet::first(percpu::count()))),
                    _ => sched::yield_now(),
                }
            }
        };
        let builder = Builder::new("user").affinity(only(cpus[index % cpus.len()])).mm(mm);
        threads.push(builder.spawn(run).map_err(|error| format!("{error:?}"))?);
    }
    join(&threads)?;
    match wrong.load(Ordering::Relaxed) {
        0 => Ok(()),
        wrong => Err(format!("{wrong} times another address space was loaded")),
    }
}

/// The process of a thread dies while every CPU that it visited keeps its address space: nothing may be lost or leak.
fn lazy_cpus_let_go_of_dead_address_spaces() -> Outcome {
    let cpus: Vec<_> = (0..1).chain(other_cpus()).collect();
    let generation = || -> Outcome {
        let mm = Mm::<Kernel>::create().ok_or("no frame for a root")?;
        let visitors: Vec<_> = cpus
            .iter()
            .map(|&cpu| {
                let leave = || drop(sched::replace_mm(None));
                let builder = Builder::new("user").affinity(only(cpu)).mm(mm.clone());
                builder.spawn(leave).expect("no memory for a thread")
            })
            .collect();
        drop(mm);
        join(&visitors)
    };
    let system = Kernel::system();
    for _ in 0..10 {
        generation()?;
    }
    let freed = system.total(Counter::MmsFreed);
    for _ in 0..50 {
        generation()?;
    }
    // Under a scheme that counts, idle CPUs may each keep the last one or an older one.
    let kept = system.dead.now() as usize + (system.total(Counter::MmsMade) - system.total(Counter::MmsFreed)) as usize;
    if system.total(Counter::MmsFreed) - freed < 50 - cpus.len() as u64 || kept > 2 * cpus.len() {
        return Err(format!("{} of 50 were freed, {kept} are kept", system.total(Counter::MmsFreed) - freed));
    }
    Ok(())
}

fn threads_leave_nothing_behind() -> Outcome {
    let storm = |count: usize| -> Outcome {
        let cpus: Vec<_> = (0..1).chain(other_cpus()).collect();
        for batch in 0..count {
            let threads: Vec<_> = (0..8)
                .map(|index| spawn_on(cpus[(batch + index) % cpus.len()], || drop(black_box(vec![0u8; 100]))))
                .collect();
            for thread in &threads {
                thread.join();
            }
        }
        Ok(())
    };
    storm(20)?;
    let (heap_before, stacks_before) = (settled_heap()?, highest_stack());
    storm(250)?;
    let (heap_after, stacks_after) = (settled_heap()?, highest_stack());
    // Stacks stay in a pool, which grows while the reaper is late: by some, not by the 2,000 threads of the storm.
    let new_stacks = (stacks_after.saturating_sub(stacks_before)) >> 15;
    if heap_after > heap_before || new_stacks > 200 {
        return Err(format!("heap {heap_before} -> {heap_after}, {new_stacks} new stacks"));
    }
    Ok(())
}

/// The top of the highest of some stacks: new ones are higher than all before.
fn highest_stack() -> u64 {
    let stacks: Vec<_> = (0..16).filter_map(|_| KernelStack::new()).collect();
    stacks.iter().map(|stack| stack.top()).max().unwrap_or(0)
}

/// What the heap holds once the reaper has been through.
fn settled_heap() -> Result<usize, String> {
    let mut last = heap::used();
    for _ in 0..100 {
        sleep(5 * MS);
        let now = heap::used();
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    Err("the heap does not come to rest".into())
}
