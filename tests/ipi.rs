//! IPIs: every target reached exactly once, whoever calls whom and how many at a time.
//@ timeout: 120
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lazuli::drivers::{gic, interrupt};
use lazuli::ipi::{self, Reason};
use lazuli::{kernel_tests, percpu, sched, sync};
use mm::{CpuId, CpuSet, MAX_CPUS};

kernel_tests! {
    every_cpu_is_online,
    an_sgi_reaches_only_its_targets,
    reaches_each_target_once,
    reaches_only_the_targets,
    runs_everywhere_with_interrupts_masked,
    who_waits_finds_it_done,
    interrupts_wake_idle_cpus,
    two_cpus_call_each_other,
    all_cpus_call_all_cpus,
    a_call_that_does_not_wait_is_done_by_the_next,
    a_full_inbox_is_not_interrupted_again,
    each_reason_has_its_own_count,
    each_request_is_counted_where_it_is_served,
}

/// How often each CPU's function ran.
static RUNS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

fn note_run(amount: usize) {
    RUNS[percpu::cpu_id()].fetch_add(amount, Ordering::Relaxed);
}

fn take_runs() -> Vec<usize> {
    (0..percpu::count()).map(|cpu| RUNS[cpu].swap(0, Ordering::Relaxed)).collect()
}

fn all() -> CpuSet {
    CpuSet::first(percpu::count())
}

fn own_id() -> CpuId {
    CpuId(percpu::cpu_id() as u16)
}

fn expect<T: PartialEq + core::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

/// SGIs that all CPUs have sent for a reason.
fn sent(reason: Reason) -> u64 {
    (0..percpu::count()).map(|cpu| percpu::of(cpu).ipi.sent(reason)).sum()
}

fn every_cpu_is_online() -> Result<(), String> {
    expect("online", ipi::online(), all())
}

/// Sets of CPUs. The low byte takes every value: of up to 8 CPUs each set occurs, of more many do.
fn sets() -> impl Iterator<Item = CpuSet> {
    (0..256usize).map(|round| {
        let members = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        all().iter().filter(|cpu| members.rotate_right(cpu.index() as u32) & 1 != 0).collect()
    })
}

fn once_on(targets: &CpuSet) -> Vec<usize> {
    all().iter().map(|cpu| usize::from(targets.contains(cpu))).collect()
}

fn an_sgi_reaches_only_its_targets() -> Result<(), String> {
    /// One that the kernel does not use.
    const SGI: u32 = 7;
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    interrupt::register(SGI, "test", |_| {
        note_run(1);
        TAKEN.fetch_add(1, Ordering::Release);
    });
    for targets in sets() {
        TAKEN.store(0, Ordering::Relaxed);
        gic::send_sgi(SGI, &targets);
        while TAKEN.load(Ordering::Acquire) < targets.count() {
            sync::relax();
        }
        // Time for one too many to arrive.
        (0..1000).for_each(|_| sync::relax());
        expect("SGIs taken", take_runs(), once_on(&targets))?;
    }
    Ok(())
}

fn reaches_each_target_once() -> Result<(), String> {
    for round in 1..=1000 {
        ipi::on_each_cpu_mask(Reason::Call, &all(), note_run, round, true);
        expect("runs", take_runs(), alloc::vec![round; percpu::count()])?;
    }
    Ok(())
}

fn reaches_only_the_targets() -> Result<(), String> {
    for targets in sets() {
        ipi::on_each_cpu_mask(Reason::Call, &targets, note_run, 1, true);
        expect("runs", take_runs(), once_on(&targets))?;
    }
    Ok(())
}

fn runs_everywhere_with_interrupts_masked() -> Result<(), String> {
    fn look(_: usize) {
        note_run(usize::from(sync::irqs_masked()));
    }
    ipi::on_each_cpu_mask(Reason::Call, &all(), look, 0, true);
    expect("CPUs with interrupts masked", take_runs(), alloc::vec![1; percpu::count()])?;
    expect("masked afterwards", sync::irqs_masked(), false)
}

fn who_waits_finds_it_done() -> Result<(), String> {
    fn take_long(_: usize) {
        (0..10_000).for_each(|_| sync::relax());
        note_run(1);
    }
    ipi::on_each_cpu_mask(Reason::Call, &all(), take_long, 0, true);
    expect("runs", take_runs(), alloc::vec![1; percpu::count()])
}

fn interrupts_wake_idle_cpus() -> Result<(), String> {
    for _ in 0..100 {
        // Long enough for the others to be asleep in WFI.
        (0..10_000).for_each(|_| sync::relax());
        ipi::on_each_cpu_mask(Reason::Call, &all(), note_run, 1, true);
        expect("runs", take_runs(), alloc::vec![1; percpu::count()])?;
    }
    Ok(())
}

/// What the CPUs do at once in the tests below: given by CPU 0, done outside of any interrupt.
static STARTED: AtomicUsize = AtomicUsize::new(0);
static FINISHED: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` in a thread of another CPU.
fn run_on(cpu: CpuId, work: fn()) {
    sched::Builder::new("test").affinity(CpuSet::only(cpu)).spawn(work).expect("no memory for a thread");
}

/// Runs `work` on every CPU of `crew` at the same time, in task context, and waits for all.
fn all_at_once(crew: CpuSet, work: fn()) {
    STARTED.store(0, Ordering::Relaxed);
    FINISHED.store(0, Ordering::Relaxed);
    for cpu in crew.iter().filter(|&cpu| cpu != own_id()) {
        run_on(cpu, work);
    }
    work();
    while FINISHED.load(Ordering::Acquire) != crew.count() {
        sync::relax();
    }
}

/// Comes back when `count` CPUs have called it.
fn meet(count: usize) {
    STARTED.fetch_add(1, Ordering::Relaxed);
    while STARTED.load(Ordering::Relaxed) < count {
        sync::relax();
    }
}

const ROUNDS: usize = 500;

fn two_cpus_call_each_other() -> Result<(), String> {
    if percpu::count() < 2 {
        return Ok(());
    }
    fn call_the_other() {
        meet(2);
        let other = CpuSet::only(CpuId(1 - percpu::cpu_id() as u16));
        for _ in 0..ROUNDS {
            ipi::on_each_cpu_mask(Reason::Call, &other, note_run, 1, true);
        }
        FINISHED.fetch_add(1, Ordering::Release);
    }
    all_at_once(all().iter().take(2).collect(), call_the_other);
    expect("runs", take_runs()[..2].to_vec(), alloc::vec![ROUNDS; 2])
}

fn all_cpus_call_all_cpus() -> Result<(), String> {
    fn call_all() {
        meet(percpu::count());
        for round in 0..ROUNDS {
            // Now and then a round that does not wait: the next one must.
            ipi::on_each_cpu_mask(Reason::Shoot, &all(), note_run, 1, round % 4 != 0);
        }
        ipi::on_each_cpu_mask(Reason::Shoot, &CpuSet::EMPTY, note_run, 0, true);
        FINISHED.fetch_add(1, Ordering::Release);
    }
    let before = sent(Reason::Shoot);
    all_at_once(all(), call_all);
    expect("runs", take_runs(), alloc::vec![ROUNDS * percpu::count(); percpu::count()])?;
    let requests = ROUNDS * percpu::count() * (percpu::count() - 1);
    let interrupts = sent(Reason::Shoot) - before;
    if interrupts > requests as u64 {
        return Err(format!("{interrupts} SGIs for {requests} requests"));
    }
    Ok(())
}

fn a_call_that_does_not_wait_is_done_by_the_next() -> Result<(), String> {
    for round in 1..=1000 {
        ipi::on_each_cpu_mask(Reason::Call, &all(), note_run, round, false);
    }
    ipi::on_each_cpu_mask(Reason::Call, &CpuSet::EMPTY, note_run, 0, true);
    expect("runs", take_runs(), alloc::vec![500_500; percpu::count()])
}

/// CPU 3 is inside its function, interrupts masked; it stays there while this is set.
static INSIDE: AtomicBool = AtomicBool::new(false);
static HELD: AtomicBool = AtomicBool::new(false);

fn a_full_inbox_is_not_interrupted_again() -> Result<(), String> {
    if all().count() < 4 {
        return Ok(());
    }
    fn hold(_: usize) {
        INSIDE.store(true, Ordering::Relaxed);
        while HELD.load(Ordering::Relaxed) {
            sync::relax();
        }
    }
    fn ask_cpu_3() {
        ipi::on_each_cpu_mask(Reason::Call, &CpuSet::only(CpuId(3)), note_run, 1, true);
        FINISHED.fetch_add(1, Ordering::Release);
    }
    let wait_for = |condition: &dyn Fn() -> bool| {
        while !condition() {
            sync::relax();
        }
    };
    HELD.store(true, Ordering::Relaxed);
    FINISHED.store(0, Ordering::Relaxed);
    ipi::on_each_cpu_mask(Reason::Call, &CpuSet::only(CpuId(3)), hold, 0, false);
    wait_for(&|| INSIDE.load(Ordering::Relaxed));
    let before = sent(Reason::Call);
    run_on(CpuId(1), ask_cpu_3);
    run_on(CpuId(2), ask_cpu_3);
    wait_for(&|| percpu::of(3).ipi.waiting() == 2);
    HELD.store(false, Ordering::Relaxed);
    wait_for(&|| FINISHED.load(Ordering::Acquire) == 2);
    expect("runs", take_runs()[3], 2)?;
    expect("SGIs for two requests to a busy CPU", sent(Reason::Call) - before, 1)
}

fn each_reason_has_its_own_count() -> Result<(), String> {
    let others = percpu::count() as u64 - 1;
    for reason in [Reason::Call, Reason::Flush, Reason::Shoot, Reason::Check] {
        let before = sent(reason);
        ipi::on_each_cpu_mask(reason, &all(), note_run, 1, true);
        expect("SGIs", sent(reason) - before, others)?;
        expect("runs", take_runs(), alloc::vec![1; percpu::count()])?;
    }
    Ok(())
}

/// What a CPU is asked is counted there by reason, also where several requests came in one SGI.
fn each_request_is_counted_where_it_is_served() -> Result<(), String> {
    let received = |reason| -> Vec<u64> { (0..percpu::count()).map(|cpu| ipi::received(cpu, reason)).collect() };
    for reason in [Reason::Call, Reason::Flush, Reason::Shoot, Reason::Check] {
        let before = received(reason);
        for targets in sets() {
            ipi::on_each_cpu_mask(reason, &targets, note_run, 1, true);
        }
        // CPU 0 asks, and calls its own function itself.
        let mut runs = take_runs();
        runs[0] = 0;
        let seen: Vec<_> = received(reason).iter().zip(&before).map(|(now, before)| (now - before) as usize).collect();
        expect("requests served", seen, runs)?;
    }
    let before = received(Reason::Reschedule);
    let last = percpu::count() - 1;
    ipi::send_reschedule(CpuId(last as u16));
    while ipi::received(last, Reason::Reschedule) == before[last] {
        sync::relax();
    }
    Ok(())
}
