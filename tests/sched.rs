//! Threads: that each runs where it should, when it should, and with what is its own.
#![no_std]
#![no_main]

extern crate alloc;

mod threads;

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
use lazuli::sched::{self, Builder};
use lazuli::sync::PreemptGuard;
use lazuli::{heap, kernel_tests, percpu};
use mm::{Counter, CpuSet, Machine, Mm};

use self::threads::{MS, Outcome, join, only, other_cpus, sleep, spawn_on, spin_until};

kernel_tests! {
    threads_run_on_every_cpu,
    a_spinning_thread_is_preempted,
    a_guard_keeps_the_cpu,
    a_thread_that_was_alone_for_long_gives_way,
    affinity_moves_the_running_thread,
    affinity_moves_other_threads,
    affinity_needs_a_cpu,
    idle_cpus_take_over_work,
    each_thread_finds_its_address_space,
    lazy_cpus_let_go_of_dead_address_spaces,
    threads_leave_nothing_behind,
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
    let due = spin_until(|| percpu::anchor().need_resched.load(Ordering::Relaxed));
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

/// Its slice is long over, and there was no tick because nobody waited: now somebody does.
fn a_thread_that_was_alone_for_long_gives_way() -> Outcome {
    let ran = Arc::new(AtomicBool::new(false));
    let flag = ran.clone();
    let set = move || flag.store(true, Ordering::Relaxed);
    let other = Builder::new("test").affinity(only(0)).build(set).map_err(|error| format!("{error:?}"))?;
    let end = now_ns() + 50 * MS;
    spin_until(|| now_ns() > end)?;
    other.start();
    // Without a lock or a guard, at whose end the kernel would look whether preemption is due.
    spin_until(|| ran.load(Ordering::Relaxed))?;
    join(&[other])
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
