//! Races of lazy address spaces: a CPU is held between two steps of a protocol while another acts.
//!
//! Built with the feature `fault-points`, which stops a CPU where the mm layer names a point.
//@ scheme: every
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lazuli::arch::timer::now_ns;
use lazuli::machine::Kernel;
use lazuli::sync::IrqGuard;
use lazuli::testing::mms::*;
use lazuli::{expect, fault_points, kernel_tests, percpu, sched};
use mm::config::Target;
use mm::{Counter, Machine, Point};

kernel_tests! {
    t11_a_shoot_arrives_while_exec_changes_the_root,
    t12_exec_from_a_lazy_kernel_thread,
    t13_a_shoot_arrives_in_the_middle_of_a_switch,
    t14_a_shoot_waits_for_a_cpu_with_interrupts_masked,
    t15_cpus_that_shoot_each_other,
    t16_a_final_drop_that_may_not_wait,
    t19_a_cpu_leaves_between_mask_and_ipi,
    t20_a_target_frees_an_address_space_of_its_own,
    t31_every_process_on_every_cpu,
    t46_an_sgi_gets_lost,
    t47_a_target_that_never_sleeps,
}

/// The CPU that [`hold`] stops, and whether it has stopped and may go on.
static HELD_CPU: AtomicUsize = AtomicUsize::new(usize::MAX);
static IS_HELD: AtomicBool = AtomicBool::new(false);
static SHOT: AtomicBool = AtomicBool::new(false);

/// Stops `HELD_CPU` once after it wrote TTBR0 and before it published its slot, until another CPU has read the mask it
/// is going to shoot by, and a little longer, so that its SGI is pending here.
fn hold(point: Point) {
    let cpu = percpu::cpu_id();
    match point {
        Point::RootLoaded if cpu == HELD_CPU.load(Ordering::Acquire) => {
            HELD_CPU.store(usize::MAX, Ordering::Relaxed);
            IS_HELD.store(true, Ordering::Release);
            spin_until(|| SHOT.load(Ordering::Acquire));
            (0..10_000).for_each(|_| lazuli::sync::relax());
        }
        Point::MaskRead => SHOT.store(true, Ordering::Release),
        _ => {}
    }
}

/// Runs `act` on `cpu`, stopped after its next TTBR0 write, and `meanwhile` here.
fn race(cpu: usize, act: impl FnOnce() + Send + 'static, meanwhile: impl FnOnce()) -> Outcome {
    IS_HELD.store(false, Ordering::Relaxed);
    SHOT.store(false, Ordering::Relaxed);
    fault_points::set(hold);
    let thread = spawn(cpu, None, move || {
        HELD_CPU.store(cpu, Ordering::Release);
        act();
    });
    let stopped = until("the CPU is held", || IS_HELD.load(Ordering::Acquire));
    meanwhile();
    let ended = join(&thread);
    fault_points::clear();
    stopped.and(ended)
}

/// Whether CPUs are left to race, and the scheme shoots.
fn can_race() -> bool {
    percpu::count() > 1 && shoots_at_the_drop() && lazy_after_exit()
}

/// What every race must leave behind.
fn nothing_lost() -> Outcome {
    displace_all()?;
    settle()?;
    expect!(total(Counter::MmsLeaked), 0, "address spaces that a failed check kept");
    Ok(())
}

fn t11_a_shoot_arrives_while_exec_changes_the_root() -> Outcome {
    if !can_race() {
        return Ok(());
    }
    // The new program's address space is not the dead one: the slot must decide, and the root with it.
    let dead = new_mm();
    visit(1, &dead)?;
    let next = new_mm();
    race(
        1,
        move || {
            drop(sched::replace_mm(Some(next)));
            leave_mm();
        },
        || drop(dead),
    )?;
    nothing_lost()
}

fn t12_exec_from_a_lazy_kernel_thread() -> Outcome {
    let cpu = other_cpu();
    let old = new_mm();
    visit(cpu, &old)?;
    let (first, second) = (new_mm(), new_mm());
    let thread = spawn(cpu, None, move || {
        drop(sched::replace_mm(Some(first)));
        drop(sched::replace_mm(Some(second)));
        leave_mm();
    });
    join(&thread)?;
    expect!(old.count(), 1, "mm_count of what the kernel thread was lazy on");
    drop(old);
    nothing_lost()
}

fn t13_a_shoot_arrives_in_the_middle_of_a_switch() -> Outcome {
    if !can_race() {
        return Ok(());
    }
    for _ in 0..20 {
        let dead = new_mm();
        visit(1, &dead)?;
        let next = new_mm();
        let found = total(Counter::ShootFoundGone);
        let runner = move || {
            // The held switch is the scheduler's, from this kernel thread to a task of `next`.
            let _task = spawn(1, Some(next), leave_mm);
            sched::yield_now();
        };
        race(1, runner, || drop(dead))?;
        expect!(total(Counter::ShootFoundGone) > found, true, "the late IPI found the CPU gone");
        nothing_lost()?;
    }
    Ok(())
}

fn t14_a_shoot_waits_for_a_cpu_with_interrupts_masked() -> Outcome {
    static MASKED: AtomicBool = AtomicBool::new(false);
    static UNMASKED: AtomicBool = AtomicBool::new(false);
    if !can_race() {
        return Ok(());
    }
    let mm = new_mm();
    visit(1, &mm)?;
    let thread = spawn(1, None, || {
        let masked = IrqGuard::new();
        MASKED.store(true, Ordering::Release);
        (0..200_000).for_each(|_| lazuli::sync::relax());
        UNMASKED.store(true, Ordering::Release);
        drop(masked);
    });
    until("the CPU masks interrupts", || MASKED.load(Ordering::Acquire))?;
    drop(mm);
    expect!(UNMASKED.load(Ordering::Acquire), true, "the drop waited for the CPU");
    join(&thread)?;
    nothing_lost()
}

fn t15_cpus_that_shoot_each_other() -> Outcome {
    const ROUNDS: usize = 200;
    let cpus = percpu::count().min(4);
    let threads: Vec<_> = (0..cpus)
        .map(|cpu| {
            spawn(cpu, None, move || {
                for _ in 0..ROUNDS {
                    let mm = new_mm();
                    // Lazy here and on the neighbour, which at the same time does the same to this CPU.
                    drop(sched::replace_mm(Some(mm.clone())));
                    leave_mm();
                    let neighbour = spawn((cpu + 1) % cpus, Some(mm.clone()), leave_mm);
                    neighbour.join();
                    drop(mm);
                }
            })
        })
        .collect();
    threads.iter().try_for_each(|thread| join(thread))?;
    nothing_lost()
}

fn t16_a_final_drop_that_may_not_wait() -> Outcome {
    displace_all()?;
    settle()?;
    let cpu = other_cpu();
    let mm = new_mm();
    let last = mm.grab_ref();
    visit(cpu, &mm)?;
    drop(mm);
    let (deferred, freed) = (total(Counter::MmsDeferred), total(Counter::MmsFreed));
    let masked = IrqGuard::new();
    // Here: the reaper, on another CPU, may be at it already.
    let freed_here = count_on(percpu::cpu_id(), Counter::MmsFreed);
    drop(last);
    let at_once = count_on(percpu::cpu_id(), Counter::MmsFreed) - freed_here;
    drop(masked);
    expect!(at_once, 0, "freed with interrupts masked");
    displace_all()?;
    expect!(total(Counter::MmsDeferred) > deferred, true, "it went to the reaper");
    until("the reaper frees it", || total(Counter::MmsFreed) > freed)?;
    nothing_lost()
}

fn t46_an_sgi_gets_lost() -> Outcome {
    if !can_race() {
        return Ok(());
    }
    let resent = || (0..percpu::count()).map(|cpu| percpu::of(cpu).ipi.resent()).sum::<u64>();
    let (before, leaked) = (resent(), total(Counter::MmsLeaked));
    for _ in 0..3 {
        let dead = new_mm();
        visit(1, &dead)?;
        let freed = total(Counter::MmsFreed);
        fault_points::lose_sgis(1);
        // Not freed in silence, and not waited for in vain: who shoots asks again.
        drop(dead);
        expect!(is_loaded(1, Kernel::system().init_mm()), true, "CPU 1 has left");
        expect!(total(Counter::MmsFreed) > freed, true, "freed after it had");
    }
    expect!((resent() - before >= 3, total(Counter::MmsLeaked) - leaked), (true, 0), "asked again; kept for ever");
    nothing_lost()
}

fn t47_a_target_that_never_sleeps() -> Outcome {
    static STOP: AtomicBool = AtomicBool::new(false);
    if !can_race() {
        return Ok(());
    }
    STOP.store(false, Ordering::Relaxed);
    let dead = new_mm();
    visit(1, &dead)?;
    // A kernel thread keeps the CPU, and with it the laziness, for itself; interrupts are on.
    let busy = spawn(1, None, || spin_until(|| STOP.load(Ordering::Relaxed)));
    sleep(2 * MS);
    let lazy = is_loaded(1, &dead);
    let start = now_ns();
    drop(dead);
    let took = now_ns() - start;
    STOP.store(true, Ordering::Relaxed);
    join(&busy)?;
    expect!(lazy, true, "the busy kernel thread's CPU was lazy");
    expect!(took < 5_000 * MS, true, "the drop took {took} ns");
    nothing_lost()
}

fn t19_a_cpu_leaves_between_mask_and_ipi() -> Outcome {
    /// Lets CPU 1 go to another address space when the mask was read, and waits until it has.
    fn let_go(point: Point) {
        if point == Point::MaskRead {
            SHOT.store(true, Ordering::Release);
            spin_until(|| IS_HELD.load(Ordering::Acquire));
        }
    }
    if !can_race() {
        return Ok(());
    }
    let dead = new_mm();
    visit(1, &dead)?;
    let next = new_mm();
    let kept = next.clone();
    IS_HELD.store(false, Ordering::Relaxed);
    SHOT.store(false, Ordering::Relaxed);
    let (found, gone) = (total(Counter::ShootFoundLazy), total(Counter::ShootFoundGone));
    let thread = spawn(1, None, move || {
        spin_until(|| SHOT.load(Ordering::Acquire));
        drop(sched::replace_mm(Some(next)));
        IS_HELD.store(true, Ordering::Release);
        leave_mm();
    });
    fault_points::set(let_go);
    drop(dead);
    fault_points::clear();
    join(&thread)?;
    let seen = (total(Counter::ShootFoundLazy) - found, total(Counter::ShootFoundGone) - gone);
    expect!(seen, (0, 1), "the IPI found a lazy CPU, or found it gone");
    drop(kept);
    nothing_lost()
}

fn t20_a_target_frees_an_address_space_of_its_own() -> Outcome {
    let cpu = other_cpu();
    for _ in 0..100 {
        let (here, there) = (new_mm(), new_mm());
        visit(cpu, &here)?;
        visit(0, &there)?;
        let thread = spawn(cpu, None, move || drop(there));
        drop(here);
        join(&thread)?;
    }
    nothing_lost()
}

fn t31_every_process_on_every_cpu() -> Outcome {
    const PROCESSES: u64 = 50;
    displace_all()?;
    let cpus = percpu::count();
    let (ipis, rounds) = (shoots(), total(Counter::BatchRounds));
    for _ in 0..PROCESSES {
        let mm = new_mm();
        (0..cpus).try_for_each(|cpu| visit(cpu, &mm))?;
        drop(mm);
    }
    // Each of them left its bit in the mask on every CPU: the storm that the scheme is known for. By slot it is asked who
    // is still lazy on it, which here all are, as nothing else runs.
    let config = &Kernel::system().config;
    let asked = shoots_at_the_drop() && (lazy_after_exit() || config.target == Target::Mask);
    let storm = PROCESSES * (cpus as u64 - 1);
    let seen = shoots() - ipis;
    if config.batch > 1 {
        let rounds = total(Counter::BatchRounds) - rounds;
        expect!(seen <= rounds * (cpus as u64 - 1), true, "{seen} IPIs in {rounds} rounds for {PROCESSES} processes");
    } else if !leaves_unasked() {
        expect!(seen, if asked { storm } else { 0 }, "IPIs for {PROCESSES} processes on {cpus} CPUs");
    }
    nothing_lost()
}
