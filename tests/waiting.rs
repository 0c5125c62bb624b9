//! Dead address spaces that wait, for company, for every CPU or for one that does not leave: how many, and for how long.
//!
//! The numbers (T21 …) name the scenarios of docs/lazy-tlb.md.
//@ scheme: every
//@ smp: 2 4 8
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use core::sync::atomic::{AtomicBool, Ordering};

use lazuli::arch::stack;
use lazuli::machine::Kernel;
use lazuli::testing::mms::*;
use lazuli::{expect, hotplug, kernel_tests, percpu};
use mm::{Counter, Machine, Scheme};

kernel_tests! {
    t21_a_batch_costs_one_round,
    t21_a_batch_that_does_not_fill_is_freed_in_time,
    t22_a_cpu_goes_while_a_batch_waits,
    t34_a_cpu_that_idles_for_ever_holds_little,
    t53_a_cpu_that_idles_for_long_is_not_asked,
    t54_a_cpu_that_is_not_lazy_is_not_asked,
}

/// An address space that was lazily loaded on a CPU dies.
fn die_lazily(cpu: usize) -> Outcome {
    let mm = new_mm();
    visit(cpu, &mm)?;
    drop(mm);
    Ok(())
}

fn t21_a_batch_costs_one_round() -> Outcome {
    const DEATHS: u64 = 200;
    let batch = Kernel::system().config.batch as u64;
    if batch == 0 {
        return Ok(());
    }
    displace_all()?;
    settle()?;
    let cpus = percpu::count();
    let (rounds, ipis, freed) = (total(Counter::BatchRounds), shoots(), total(Counter::MmsFreed));
    for death in 0..DEATHS {
        die_lazily(1 + death as usize % (cpus - 1))?;
        let waiting = Kernel::system().waiting();
        expect!(waiting.1 as u64 <= batch, true, "at most {batch} wait: {waiting:?}");
    }
    settle()?;
    let rounds = total(Counter::BatchRounds) - rounds;
    expect!(total(Counter::MmsFreed) - freed >= DEATHS, true, "all are freed");
    // A batch that took longer than 10 ms to fill, because the emulator did other things, was freed early.
    expect!(rounds <= DEATHS, true, "{rounds} rounds for {DEATHS} deaths");
    let most = rounds * (cpus as u64 - 1);
    expect!(shoots() - ipis <= most, true, "{} IPIs in {rounds} rounds", shoots() - ipis);
    Ok(())
}

fn t21_a_batch_that_does_not_fill_is_freed_in_time() -> Outcome {
    if Kernel::system().config.batch == 0 {
        return Ok(());
    }
    settle()?;
    die_lazily(1)?;
    expect!(Kernel::system().dead.now() <= 1, true, "it waits, or was freed");
    settle()
}

fn t22_a_cpu_goes_while_a_batch_waits() -> Outcome {
    displace_all()?;
    die_lazily(1)?;
    let found = Kernel::system().dead.now();
    hotplug::set_online(1, false).map_err(|error| alloc::format!("CPU 1 stays: {error:?}"))?;
    let (waiting, _, _) = Kernel::system().waiting();
    expect!(waiting, 0, "dead address spaces that wait for a CPU that is gone, of {found}");
    for _ in 0..20 {
        die_lazily(0)?;
    }
    hotplug::set_online(1, true).map_err(|error| alloc::format!("CPU 1 does not come back: {error:?}"))?;
    displace_all()?;
    settle()?;
    expect!(total(Counter::MmsLeaked), 0, "leaked");
    Ok(())
}

/// Free frames, those of the stacks that are kept for the next threads among them.
fn free_frames() -> usize {
    Kernel::system().frames.free() + stack::idle_frames()
}

/// CPU 1 becomes lazy once and then idles; thousands die on the others.
fn t34_a_cpu_that_idles_for_ever_holds_little() -> Outcome {
    const DEATHS: usize = 3_000;
    displace_all()?;
    settle()?;
    die_lazily(1)?;
    let frames = free_frames();
    let cpus = percpu::count();
    for death in 0..DEATHS {
        // CPU 1 alone is left in peace.
        let cpu = death % (cpus - 1);
        die_lazily(if cpu == 0 { 0 } else { cpu + 1 })?;
        let (waiting, most, limit) = Kernel::system().waiting();
        expect!(most <= limit.max(Kernel::system().config.batch), true, "{waiting} wait, {most} at most, of {limit}");
    }
    // One for each CPU at most, where they are handed over.
    settle()?;
    // One root for each CPU that is lazy on a dead one, and some more threads than before that just ended.
    until("the frames are back", || free_frames() + cpus + 16 >= frames)?;
    expect!(total(Counter::MmsLeaked), 0, "leaked");
    Ok(())
}

/// Under `qsbr` an idle CPU leaves on its own after a while; nobody has to interrupt it afterwards.
fn t53_a_cpu_that_idles_for_long_is_not_asked() -> Outcome {
    if scheme() != Scheme::Qsbr || !lazy_after_exit() {
        return Ok(());
    }
    let mm = new_mm();
    visit(1, &mm)?;
    until("CPU 1, idle, has left", || is_loaded(1, Kernel::system().init_mm()))?;
    let found = count_on(1, Counter::ShootFoundLazy) + count_on(1, Counter::ShootFoundGone);
    drop(mm);
    settle()?;
    let asked = count_on(1, Counter::ShootFoundLazy) + count_on(1, Counter::ShootFoundGone) - found;
    expect!(asked, 0, "times it was asked to leave");
    Ok(())
}

/// A CPU that runs something of its own all the time is interrupted only by who goes by the mask.
fn t54_a_cpu_that_is_not_lazy_is_not_asked() -> Outcome {
    const DEATHS: u64 = 50;
    static STOP: AtomicBool = AtomicBool::new(false);
    if percpu::count() < 3 {
        return Ok(());
    }
    STOP.store(false, Ordering::Relaxed);
    let busy = spawn(1, Some(new_mm()), || {
        while !STOP.load(Ordering::Relaxed) {
            lazuli::sync::relax();
        }
        leave_mm();
    });
    until("the busy thread runs", || !Kernel::system().cpus()[1].is_lazy())?;
    let asked = || count_on(1, Counter::ShootFoundLazy) + count_on(1, Counter::ShootFoundGone);
    let before = asked();
    for _ in 0..DEATHS {
        die_lazily(2)?;
    }
    let seen = asked() - before;
    STOP.store(true, Ordering::Relaxed);
    join(&busy)?;
    // Even the mask does not name it: it never ran those. What names it is what ran there before.
    expect!(seen, 0, "times a CPU that holds none of them was asked");
    displace_all()?;
    settle()
}
