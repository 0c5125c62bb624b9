//! CPUs that go offline and come back: what they had loaded, who waits for them, what ran there.
//!
//! Built with the feature `fault-points`, which stops a CPU where a stage of its way out ends. Few ASIDs, so that
//! generations end while a CPU is away.
//@ smp: 2 4
//@ append: asid_bits=4
//@ timeout: 120
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use lazuli::arch::timer::now_ns;
use lazuli::arch::user_copy::copy_from_user;
use lazuli::hotplug::{self, Refused, set_online};
use lazuli::ipi::{self, Reason};
use lazuli::machine::Kernel;
use lazuli::sched::{Patience, Thread};
use lazuli::smp::{self, Failure};
use lazuli::testing::mms::*;
use lazuli::{expect, fault_points, kernel_tests, percpu, sched};
use mm::{Counter, CpuSet, Machine, PAGE_SIZE, Point, Scheme};

kernel_tests! {
    what_cannot_be_done_is_refused,
    t24_a_cpu_comes_back_on_init_mm,
    t23_a_cpu_leaves_what_it_is_lazy_on,
    t23_a_cpu_leaves_what_is_dead,
    t23_an_address_space_dies_at_each_stage,
    t23_who_saw_it_online_is_answered,
    t46_who_saw_it_online_and_was_not_heard_is_answered,
    a_cpu_that_stops_late_comes_back,
    t23_a_cpu_comes_back_to_nothing_old,
    threads_go_on_elsewhere,
    deadlines_go_with_them,
    cpus_come_and_go_under_load,
}

fn change(cpu: usize, online: bool) -> Outcome {
    set_online(cpu, online).map_err(|refused| alloc::format!("CPU {cpu} to {online}: {refused:?}"))
}

/// The CPU that goes: the last one, so that on four CPUs two others look on.
fn leaver() -> usize {
    percpu::count() - 1
}

fn is_on_init(cpu: usize) -> bool {
    is_loaded(cpu, Kernel::system().init_mm())
}

fn reads(word: u64) -> bool {
    let mut bytes = [0; 8];
    copy_from_user(&mut bytes, PAGE).is_ok() && u64::from_le_bytes(bytes) == word
}

/// Takes the CPU down from a thread of its own, which has done so when it ends.
fn take_down(cpu: usize) -> Arc<Thread> {
    spawn(0, None, move || set_online(cpu, false).expect("the CPU can be taken down"))
}

fn nothing_lost() -> Outcome {
    displace_all()?;
    settle()?;
    expect!(total(Counter::MmsLeaked), 0, "address spaces that a failed check kept");
    Ok(())
}

fn what_cannot_be_done_is_refused() -> Outcome {
    expect!(set_online(percpu::count(), true), Err(Refused::NoSuchCpu), "a CPU that is not there");
    expect!(set_online(0, false), Err(Refused::BootCpu), "CPU 0");
    expect!(set_online(0, true), Ok(()), "CPU 0, which is online already");
    expect!(ipi::online().count(), percpu::count(), "CPUs online");
    // One that is there need not come, whether the firmware says so or not: it must not be let in later.
    let _ = smp::start(leaver());
    expect!(smp::awaited(), None, "awaited, though it is online");
    Ok(())
}

fn t24_a_cpu_comes_back_on_init_mm() -> Outcome {
    let cpu = leaver();
    visit(cpu, &new_mm())?;
    let before = count_on(cpu, Counter::Ttbr0Writes);
    for _ in 0..20 {
        change(cpu, false)?;
        expect!((hotplug::is_online(cpu), is_on_init(cpu)), (false, true), "online, and on init_mm, when it is down");
        change(cpu, false)?;
        change(cpu, true)?;
        expect!((hotplug::is_online(cpu), is_on_init(cpu)), (true, true), "online, and on init_mm, when it is back");
        change(cpu, true)?;
        visit(cpu, &new_mm())?;
    }
    expect!(count_on(cpu, Counter::Ttbr0Writes) > before, true, "its counters went on");
    nothing_lost()
}

fn t23_a_cpu_leaves_what_it_is_lazy_on() -> Outcome {
    let cpu = leaver();
    let mm = mapped(23);
    visit(cpu, &mm)?;
    expect!(is_loaded(cpu, &mm), scheme() != Scheme::Eager, "the CPU is lazy on it");
    change(cpu, false)?;
    expect!((is_loaded(cpu, &mm), is_on_init(cpu)), (false, true), "loaded, and on init_mm, after it went");
    expect!(mm.count(), 1, "mm_count: the users' reference");
    let (ipis, freed) = (shoots(), total(Counter::MmsFreed));
    drop(mm);
    // Under `qsbr` it waits until somebody looks.
    Kernel::system().free_all_dead();
    expect!(shoots() - ipis, 0, "IPIs to shoot a CPU that is not there");
    expect!(total(Counter::MmsFreed) - freed, 1, "freed while the CPU is down");
    change(cpu, true)?;
    nothing_lost()
}

fn t23_a_cpu_leaves_what_is_dead() -> Outcome {
    let cpu = leaver();
    let mm = new_mm();
    visit(cpu, &mm)?;
    let freed = total(Counter::MmsFreed);
    // Where lazies are counted the CPU holds the last reference; under `handoff` its slot is tagged.
    drop(mm);
    change(cpu, false)?;
    until("it is freed while the CPU is down", || total(Counter::MmsFreed) - freed == 1)?;
    change(cpu, true)?;
    nothing_lost()
}

/// Where the CPU that goes is held, and whether it is; whether the last user is being dropped.
static HELD_AT: AtomicUsize = AtomicUsize::new(usize::MAX);
static IS_HELD: AtomicBool = AtomicBool::new(false);
static DROPPING: AtomicBool = AtomicBool::new(false);

fn hold(point: Point) {
    if point as usize == HELD_AT.load(Ordering::Acquire) && percpu::cpu_id() == leaver() {
        HELD_AT.store(usize::MAX, Ordering::Relaxed);
        IS_HELD.store(true, Ordering::Release);
        spin_until(|| DROPPING.load(Ordering::Acquire));
        // Time for the drop to come to where it needs this CPU, if it does.
        (0..20_000).for_each(|_| lazuli::sync::relax());
    }
}

fn t23_an_address_space_dies_at_each_stage() -> Outcome {
    let cpu = leaver();
    for stage in [Point::CpuLeaving, Point::CpuUnlazied, Point::CpuOffline] {
        let mm = mapped(23);
        visit(cpu, &mm)?;
        let freed = total(Counter::MmsFreed);
        IS_HELD.store(false, Ordering::Relaxed);
        DROPPING.store(false, Ordering::Relaxed);
        HELD_AT.store(stage as usize, Ordering::Release);
        fault_points::set(hold);
        let thread = take_down(cpu);
        let held = until("the CPU is held", || IS_HELD.load(Ordering::Acquire));
        DROPPING.store(true, Ordering::Release);
        drop(mm);
        let ended = join(&thread);
        fault_points::clear();
        held.and(ended)?;
        until("it is freed while the CPU is down", || total(Counter::MmsFreed) - freed == 1)?;
        expect!(is_on_init(cpu), true, "the CPU went on init_mm, from {stage:?}");
        change(cpu, true)?;
        nothing_lost()?;
    }
    Ok(())
}

fn t23_who_saw_it_online_is_answered() -> Outcome {
    who_saw_it_online_is_answered(0)
}

fn t46_who_saw_it_online_and_was_not_heard_is_answered() -> Outcome {
    who_saw_it_online_is_answered(1)
}

/// And so many of its SGIs get lost.
fn who_saw_it_online_is_answered(lost: usize) -> Outcome {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    static ARMED: AtomicBool = AtomicBool::new(false);
    static HAS_LEFT: AtomicBool = AtomicBool::new(false);
    static ANSWERS: AtomicUsize = AtomicUsize::new(0);
    /// Holds a sender between its look at who is online and its IPI, until the CPU has left.
    fn hold_sender(point: Point) {
        match point {
            Point::TargetsRead if percpu::cpu_id() == 1 && ARMED.swap(false, Ordering::Relaxed) => {
                IS_HELD.store(true, Ordering::Release);
                spin_until(|| HAS_LEFT.load(Ordering::Acquire));
                // Time for the CPU to stop, if it did not wait for us.
                let end = now_ns() + 20 * MS;
                spin_until(|| now_ns() > end);
                fault_points::lose_sgis(LOST.load(Ordering::Relaxed));
            }
            Point::CpuOffline => HAS_LEFT.store(true, Ordering::Release),
            _ => {}
        }
    }
    let cpu = leaver();
    if cpu < 2 {
        // The sender needs a CPU of its own.
        return Ok(());
    }
    IS_HELD.store(false, Ordering::Relaxed);
    HAS_LEFT.store(false, Ordering::Relaxed);
    ANSWERS.store(0, Ordering::Relaxed);
    LOST.store(lost, Ordering::Relaxed);
    ARMED.store(true, Ordering::Relaxed);
    fault_points::set(hold_sender);
    let sender = spawn(1, None, move || {
        let answer = |_| {
            ANSWERS.fetch_add(1, Ordering::Relaxed);
        };
        ipi::on_each_cpu_mask(Reason::Call, &mask(cpu), answer, 0, true);
    });
    let held = until("the sender is held", || IS_HELD.load(Ordering::Acquire));
    let thread = take_down(cpu);
    let ended = join(&sender).and(join(&thread));
    fault_points::clear();
    held.and(ended)?;
    expect!(ANSWERS.load(Ordering::Relaxed), 1, "answers");
    change(cpu, true)
}

/// A CPU that its host does not run is given up after a while. It must end what it began, whoever goes next.
fn a_cpu_that_stops_late_comes_back() -> Outcome {
    const NEXT: usize = 1;
    static RELEASED: AtomicBool = AtomicBool::new(false);
    fn hold(point: Point) {
        match point {
            Point::CpuStopping if percpu::cpu_id() == leaver() => spin_until(|| RELEASED.load(Ordering::Acquire)),
            Point::CpuOffline if percpu::cpu_id() == NEXT => {
                RELEASED.store(true, Ordering::Release);
                // Time for the late one to look whether it is to stop.
                let end = now_ns() + 20 * MS;
                spin_until(|| now_ns() > end);
            }
            _ => {}
        }
    }
    let late = leaver();
    if late == NEXT {
        return Ok(());
    }
    RELEASED.store(false, Ordering::Relaxed);
    fault_points::set(hold);
    let given_up = set_online(late, false);
    let went = change(NEXT, false);
    fault_points::clear();
    expect!(given_up, Err(Refused::Failed(Failure::TimedOut)), "a CPU that does not stop");
    went?;
    until("it has stopped after all, and is back", || set_online(late, true).is_ok())?;
    change(NEXT, true)
}

fn t23_a_cpu_comes_back_to_nothing_old() -> Outcome {
    static WRONG: AtomicU64 = AtomicU64::new(0);
    let cpu = leaver();
    for word in 1..=10 {
        let mm = mapped(word);
        visit(cpu, &mm)?;
        change(cpu, false)?;
        // Its numbers are others' meanwhile, and the page it may remember is another.
        let rollovers = total(Counter::AsidRollovers);
        for _ in 0..300 {
            visit(0, &new_mm())?;
        }
        expect!(total(Counter::AsidRollovers) > rollovers, true, "generations ended while the CPU was down");
        let unmap = mm.space().unmap(&mm, PAGE, PAGE_SIZE);
        unmap.map_err(|error| alloc::format!("{error:?}"))?;
        change(cpu, true)?;
        for (mm, finds) in [(mm, false), (mapped(word), true)] {
            let thread = spawn(cpu, Some(mm), move || {
                WRONG.fetch_add(u64::from(reads(word) != finds), Ordering::Relaxed);
                leave_mm();
            });
            join(&thread)?;
        }
    }
    expect!(WRONG.load(Ordering::Relaxed), 0, "looks that saw what was before");
    nothing_lost()
}

fn threads_go_on_elsewhere() -> Outcome {
    static OVER: AtomicBool = AtomicBool::new(false);
    let cpu = leaver();
    OVER.store(false, Ordering::Relaxed);
    let busy: Vec<_> = (0..3)
        .map(|_| {
            spawn(cpu, Some(mapped(5)), || {
                while !OVER.load(Ordering::Acquire) {
                    assert!(reads(5));
                }
                leave_mm();
            })
        })
        .collect();
    change(cpu, false)?;
    for thread in &busy {
        expect!(
            thread.last_cpu() != cpu && thread.affinity() == CpuSet::first(percpu::count()),
            true,
            "{thread:?} may run anywhere"
        );
    }
    expect!(sched::set_affinity(&busy[0], &mask(cpu)).is_err(), true, "no thread may be pinned to a CPU that is down");
    let late = spawn(cpu, None, || {});
    join(&late)?;
    expect!(late.last_cpu() != cpu, true, "a new thread that may run there only runs elsewhere");
    OVER.store(true, Ordering::Release);
    busy.iter().try_for_each(|thread| join(thread))?;
    change(cpu, true)?;
    let again = spawn(cpu, None, || {});
    join(&again)?;
    expect!(again.last_cpu(), cpu, "a thread runs there again");
    nothing_lost()
}

fn deadlines_go_with_them() -> Outcome {
    const SLEEPERS: u64 = 20;
    static ASLEEP: AtomicU64 = AtomicU64::new(0);
    static EARLY: AtomicU64 = AtomicU64::new(0);
    let cpu = leaver();
    let sleepers: Vec<_> = (1..=SLEEPERS)
        .map(|index| {
            spawn(cpu, None, move || {
                let time = (200 + index * 5) * MS;
                let end = now_ns() + time;
                ASLEEP.fetch_add(1, Ordering::Relaxed);
                if index % 4 == 0 {
                    // Woken before its deadline, which is then taken back from where it went.
                    let _ = sched::park(Patience::ENDLESS.until(Some(now_ns() + 60_000 * MS)));
                } else {
                    sleep(time);
                    EARLY.fetch_add(u64::from(now_ns() < end), Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("all are asleep", || ASLEEP.load(Ordering::Relaxed) == SLEEPERS)?;
    sleep(10 * MS);
    change(cpu, false)?;
    for thread in sleepers.iter().skip(3).step_by(4) {
        thread.unpark();
    }
    sleepers.iter().try_for_each(|thread| join(thread))?;
    expect!(EARLY.load(Ordering::Relaxed), 0, "sleepers that woke too early");
    change(cpu, true)
}

fn cpus_come_and_go_under_load() -> Outcome {
    static OVER: AtomicBool = AtomicBool::new(false);
    OVER.store(false, Ordering::Relaxed);
    let count = percpu::count();
    // On many CPUs as many changes and as much load as on few are enough, and end in time.
    let (crew, rounds) = ((count * 2).min(32), (160 / count as u64).clamp(2, 20));
    let crew: Vec<_> = (0..crew)
        .map(|index| {
            // Wherever they are sent; some of what they start may run on one CPU only.
            let cpu = index * count / crew;
            spawn(cpu, None, move || {
                while !OVER.load(Ordering::Acquire) {
                    let mm = mapped(7);
                    let neighbour = spawn((cpu + 1) % count, Some(mm.clone()), || {
                        assert!(reads(7));
                        sleep(MS / 8);
                        assert!(reads(7));
                        leave_mm();
                    });
                    drop(sched::replace_mm(Some(mm)));
                    assert!(reads(7));
                    leave_mm();
                    neighbour.join();
                }
            })
        })
        .collect();
    for round in 0..rounds {
        (1..count).try_for_each(|cpu| change(cpu, false))?;
        sleep(MS * (round % 3));
        (1..count).rev().try_for_each(|cpu| change(cpu, true))?;
    }
    OVER.store(true, Ordering::Release);
    crew.iter().try_for_each(|thread| join(thread))?;
    nothing_lost()
}
