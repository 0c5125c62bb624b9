//! Ways to flush (`tlbi=`, `tlbi.piggyback=`, `tlbi.exit=`), whichever this boot chose.
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lazuli::arch::user_copy::{copy_from_user, copy_to_user};
use lazuli::ipi::Reason;
use lazuli::machine::Kernel;
use lazuli::sched::Thread;
use lazuli::testing::mms::*;
use lazuli::{expect, kernel_tests, percpu, sched};
use mm::pte::Protection;
use mm::region::Attributes;
use mm::space::Placement;
use mm::{Config, Counter, FlushMode, Machine, MmUser, PAGE_SIZE, Scheme};

kernel_tests! {
    t10_a_borrower_keeps_what_it_borrowed,
    t32_teardown_takes_lazy_cpus_along,
    t39_one_cpu_alone_tells_nobody,
    one_process_on_one_cpu_never_broadcasts_in_auto,
    retired_asids_are_not_invalidated,
    two_processes_unmap_on_every_cpu_at_once,
}

fn config() -> Config {
    Kernel::system().config
}

/// Invalidations by hardware on every CPU, of any kind.
fn broadcasts() -> u64 {
    use Counter::{TlbiAsidBroadcast, TlbiLeafBroadcast, TlbiRangeBroadcast, TlbiWalkBroadcast};
    [TlbiLeafBroadcast, TlbiWalkBroadcast, TlbiRangeBroadcast, TlbiAsidBroadcast].map(total).iter().sum()
}

/// IPIs that asked for an invalidation.
fn flushes() -> u64 {
    (0..percpu::count()).map(|cpu| percpu::of(cpu).ipi.sent(Reason::Flush)).sum()
}

fn unmap(mm: &MmUser<Kernel>, address: u64) {
    mm.space().unmap(mm, address, PAGE_SIZE).expect("the range is one");
}

fn map(mm: &MmUser<Kernel>, address: u64) {
    let attributes = Attributes::anonymous(Protection::READ_WRITE);
    mm.space().map(mm, Placement::At(address), PAGE_SIZE, attributes).expect("there is memory");
}

/// Runs something in a thread on a CPU, to its end.
fn on(cpu: usize, what: impl FnOnce() + Send + 'static) -> Outcome {
    join(&spawn(cpu, None, what))
}

fn t10_a_borrower_keeps_what_it_borrowed() -> Outcome {
    static READY: AtomicBool = AtomicBool::new(false);
    static STOP: AtomicBool = AtomicBool::new(false);
    static LOST: AtomicU64 = AtomicU64::new(0);
    let mm = mapped(10);
    let borrowed = mm.clone();
    let borrower = spawn(other_cpu(), None, move || {
        drop(sched::replace_mm(Some(borrowed)));
        while !STOP.load(Ordering::Acquire) {
            let mut word = [0; 8];
            if copy_from_user(&mut word, PAGE).is_err() || word[0] != 10 {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
            READY.store(true, Ordering::Release);
            sched::yield_now();
        }
        leave_mm();
    });
    until("the borrower reads", || READY.load(Ordering::Acquire))?;
    for _ in 0..200 {
        map(&mm, PAGE + PAGE_SIZE);
        mm.space().write_bytes(&mm, PAGE + PAGE_SIZE, &[1]).map_err(|error| format!("{error:?}"))?;
        unmap(&mm, PAGE + PAGE_SIZE);
    }
    STOP.store(true, Ordering::Release);
    join(&borrower)?;
    expect!(LOST.load(Ordering::Relaxed), 0, "reads that failed while others flushed");
    Ok(())
}

fn t32_teardown_takes_lazy_cpus_along() -> Outcome {
    displace_all()?;
    settle()?;
    let mm = mapped(32);
    (0..percpu::count()).try_for_each(|cpu| visit(cpu, &mm))?;
    let (ipis, freed) = (shoots(), total(Counter::MmsFreed));
    drop(mm);
    // A CPU alone asks nobody, itself included: it is the exiting one, and may stay lazy.
    if config().piggyback && percpu::count() > 1 {
        expect!((shoots() - ipis, total(Counter::MmsFreed) - freed), (0, 1), "IPIs beyond the flush's own, and freed");
        let on_init = (0..percpu::count()).filter(|&cpu| is_loaded(cpu, Kernel::system().init_mm())).count();
        expect!(on_init, percpu::count(), "CPUs on init_mm");
    }
    displace_all()?;
    settle()
}

fn t39_one_cpu_alone_tells_nobody() -> Outcome {
    if config().flush == FlushMode::Broadcast {
        return Ok(());
    }
    let mm = mapped(39);
    let cpu = other_cpu();
    let (ipis, before) = (flushes(), broadcasts());
    let own = mm.clone();
    on(cpu, move || {
        drop(sched::replace_mm(Some(own)));
        let mm = sched::current_mm().expect("just entered");
        let mut word = [0; 8];
        copy_from_user(&mut word, PAGE).expect("it is mapped");
        mm.space().unmap(mm, PAGE, PAGE_SIZE).expect("the range is one");
        assert!(copy_from_user(&mut word, PAGE).is_err(), "it is gone here");
        leave_mm();
    })?;
    expect!((flushes() - ipis, broadcasts() - before), (0, 0), "IPIs and broadcasts for one CPU's own");
    // The last CPU of the machine comes in, and both are told.
    visit(percpu::count() - 1, &mm)?;
    let own = mm.clone();
    on(cpu, move || {
        map(&own, PAGE);
        own.space().write_bytes(&own, PAGE, &[7]).expect("it is mapped");
        unmap(&own, PAGE);
    })?;
    let others = u64::from(percpu::count() - 1 != cpu);
    expect!((flushes() - ipis, broadcasts() - before), (others, 0), "IPIs to a CPU that is idle");
    Ok(())
}

fn one_process_on_one_cpu_never_broadcasts_in_auto() -> Outcome {
    displace_all()?;
    settle()?;
    let (ipis, before) = (flushes(), broadcasts());
    on(other_cpu(), || {
        for word in 0..50 {
            // fork, a write on both sides, exec, exit.
            drop(sched::replace_mm(Some(mapped(word))));
            let child = new_mm();
            let parent = sched::current_mm().expect("just entered");
            parent.space().fork_into(parent, &mut child.space(), None).expect("there is memory");
            copy_to_user(PAGE, &[1]).expect("copied on write");
            drop(sched::replace_mm(Some(child)));
            copy_to_user(PAGE, &[2]).expect("the last owner");
            drop(sched::replace_mm(Some(mapped(word))));
            copy_to_user(PAGE, &[3]).expect("it is mapped");
            leave_mm();
        }
    })?;
    if config().flush == FlushMode::Auto {
        expect!((flushes() - ipis, broadcasts() - before), (0, 0), "IPIs and broadcasts");
    }
    displace_all()?;
    settle()
}

fn retired_asids_are_not_invalidated() -> Outcome {
    if !config().retire {
        return Ok(());
    }
    let mm = mapped(1);
    (0..percpu::count()).try_for_each(|cpu| visit(cpu, &mm))?;
    let (before, retired) = (broadcasts(), total(Counter::AsidsRetired));
    drop(mm);
    expect!((broadcasts() - before, total(Counter::AsidsRetired) - retired), (0, 1), "broadcasts, and ASIDs retired");
    if scheme() == Scheme::Shootdown {
        let on_init = (0..percpu::count()).filter(|&cpu| is_loaded(cpu, Kernel::system().init_mm())).count();
        expect!(on_init, percpu::count(), "CPUs on init_mm");
    }
    Ok(())
}

/// Threads of two processes on every CPU map, fault in and unmap pages of their own under the locks of their address
/// spaces, and so wait for each other's CPUs all the time: whoever waits has interrupts on and serves.
fn two_processes_unmap_on_every_cpu_at_once() -> Outcome {
    const ROUNDS: u64 = 40;
    static WRONG: AtomicU64 = AtomicU64::new(0);
    let worker = |mm: &MmUser<Kernel>, cpu: usize| -> Arc<Thread> {
        let own = PAGE + (1 + cpu as u64) * 0x10_0000;
        spawn(cpu, Some(mm.clone()), move || {
            let mm = sched::current_mm().expect("the thread owns one");
            for round in 0..ROUNDS {
                let attributes = Attributes::anonymous(Protection::READ_WRITE);
                let mapped = mm.space().map(mm, Placement::At(own), 2 * PAGE_SIZE, attributes);
                let written = copy_to_user(own, &round.to_le_bytes()).is_ok();
                let mut word = [0; 8];
                let read = copy_from_user(&mut word, own).is_ok() && u64::from_le_bytes(word) == round;
                let unmapped = mm.space().unmap(mm, own, 2 * PAGE_SIZE);
                let gone = copy_from_user(&mut word, own).is_err();
                if mapped.is_err() || !written || !read || unmapped.is_err() || !gone {
                    WRONG.fetch_add(1, Ordering::Relaxed);
                }
            }
            leave_mm();
        })
    };
    let mms = [mapped(1), mapped(2)];
    let cpus = 0..percpu::count();
    let threads: Vec<_> = cpus.flat_map(|cpu| mms.iter().map(move |mm| worker(mm, cpu)).collect::<Vec<_>>()).collect();
    threads.iter().try_for_each(|thread| join(thread))?;
    expect!(WRONG.load(Ordering::Relaxed), 0, "rounds in which a page was not there, or not gone");
    drop(mms);
    displace_all()?;
    settle()
}
