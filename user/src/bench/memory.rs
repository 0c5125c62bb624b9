//! `fault`, `munmap` and `mprotect`: what a change of the page tables costs, and to whom.
//!
//! Siblings make the difference: with none, one CPU has the address space; asleep, their CPUs are lazy on it; running,
//! they use it. A kernel that invalidates other CPUs pays by which of these it can tell apart.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::{
    Sample, Workload, measure,
    team::{self, Kind},
};
use crate::sys::{
    cpu,
    futex::{self, Scope},
    memory::{Mapping, PAGE},
};

/// Operations before the measured region.
const WARM_UP: u64 = 16;

/// Pages that one mapping of the `fault` workload holds, so that a long run needs little memory.
const PAGES_AT_ONCE: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Siblings {
    None,
    Asleep,
    Running,
}

const BUSY: u32 = 0;
const OVER: u32 = 1;

/// Runs `body` while a sibling thread sits on each other CPU, but on no more than `most`: a machine of hundreds of CPUs
/// must not bear hundreds to measure a handful of operations.
fn beside(siblings: Siblings, most: u64, body: impl FnOnce() -> io::Result<Sample>) -> io::Result<Sample> {
    let cpus = cpu::allowed()?;
    let (home, others) = cpus.split_first().expect("a running thread has a CPU");
    let most = if siblings == Siblings::None { 0 } else { most as usize };
    let others = &others[..others.len().min(most)];
    let (settled, state) = (&AtomicU32::new(0), &AtomicU32::new(BUSY));
    cpu::pin(*home)?;
    let sample = thread::scope(|scope| {
        for &other in others {
            scope.spawn(move || sibling(siblings, other, settled, state));
        }
        // Pairs with the Release addition in `sibling`.
        while settled.load(Ordering::Acquire) < others.len() as u32 {
            thread::yield_now();
        }
        let sample = body();
        // Pairs with the Acquire loads in `sibling`.
        state.store(OVER, Ordering::Release);
        futex::wake(state, i32::MAX, Scope::Private)?;
        sample
    });
    cpu::pin_to(&cpus)?;
    sample
}

fn sibling(siblings: Siblings, home: usize, settled: &AtomicU32, state: &AtomicU32) {
    if let Err(error) = cpu::pin(home) {
        eprintln!("lazybench: a sibling stays where it is: {error}");
    }
    // Pairs with the Acquire load in `beside`.
    settled.fetch_add(1, Ordering::Release);
    // Pairs with the Release store in `beside`.
    while state.load(Ordering::Acquire) == BUSY {
        if siblings == Siblings::Running || futex::wait(state, BUSY, Scope::Private, None).is_err() {
            cpu::relax();
        }
    }
}

fn repeated(ops: u64, siblings: Siblings, mut one: impl FnMut() -> io::Result<()>) -> io::Result<(u64, Sample)> {
    let sample = beside(siblings, ops, || {
        (0..WARM_UP).try_for_each(|_| one())?;
        let (done, sample) = measure::region(|| (0..ops).try_for_each(|_| one()));
        done.map(|()| sample)
    })?;
    Ok((ops, sample))
}

/// One operation maps a page, touches it and unmaps it.
fn munmap(ops: u64, siblings: Siblings) -> io::Result<(u64, Sample)> {
    repeated(ops, siblings, || {
        Mapping::private(PAGE)?.touch(0);
        Ok(())
    })
}

/// A thread on each CPU does the same, all at once: each change concerns every other CPU.
fn munmap_storm(ops: u64) -> io::Result<(u64, Sample)> {
    let cpus = cpu::allowed()?;
    let threads = cpus.len().min(ops as usize);
    let each = ops.div_ceil(threads as u64);
    let sample = team::run(Kind::Threads, threads, |number, gate| {
        cpu::pin(cpus[number])?;
        let one = |_| Mapping::private(PAGE).map(|page| page.touch(0));
        (0..WARM_UP).try_for_each(one)?;
        gate.pass()?;
        (0..each).try_for_each(one)
    })?;
    Ok((each * threads as u64, sample))
}

/// One operation takes the right to write away, gives it back and writes.
fn mprotect(ops: u64, siblings: Siblings) -> io::Result<(u64, Sample)> {
    let mapping = Mapping::private(PAGE)?;
    repeated(ops, siblings, || {
        mapping.protect(libc::PROT_READ)?;
        mapping.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        mapping.touch(0);
        Ok(())
    })
}

/// One operation takes the right to write to a touched page away, or gives it back. Its neighbours allow nothing, so that
/// a kernel that joins and splits regions of like rights has neither to do.
fn mprotect_page(ops: u64) -> io::Result<(u64, Sample)> {
    let mapping = Mapping::private(3 * PAGE)?;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    mapping.touch(1);
    mapping.protect(libc::PROT_NONE)?;
    mapping.protect_page(1, writable)?;
    let mut rights = [libc::PROT_READ, writable].into_iter().cycle();
    repeated(ops, Siblings::None, || mapping.protect_page(1, rights.next().expect("a cycle has no end")))
}

/// One operation writes to a page that has never been touched.
fn fault(ops: u64) -> io::Result<(u64, Sample)> {
    touch_fresh(WARM_UP)?;
    let mut total = Sample::default();
    let mut left = ops;
    while left > 0 {
        let pages = left.min(PAGES_AT_ONCE);
        total += touch_fresh(pages)?;
        left -= pages;
    }
    Ok((ops, total))
}

fn touch_fresh(pages: u64) -> io::Result<Sample> {
    let mapping = Mapping::private(pages as usize * PAGE)?;
    mapping.without_huge_pages();
    Ok(measure::region(|| (0..pages as usize).for_each(|page| mapping.touch(page))).1)
}

pub(super) fn workloads() -> Vec<Workload> {
    let mut all = vec![Workload::new("fault", 4096, fault)];
    let variants = [("alone", Siblings::None), ("lazy", Siblings::Asleep), ("running", Siblings::Running)];
    for (name, siblings) in variants {
        let cpus_needed = if siblings == Siblings::None { 1 } else { 2 };
        let add = |work: Workload| work.on_cpus(cpus_needed);
        all.push(add(Workload::new(format!("munmap-{name}"), 1000, move |ops| munmap(ops, siblings))));
        all.push(add(Workload::new(format!("mprotect-{name}"), 1000, move |ops| mprotect(ops, siblings))));
    }
    all.push(Workload::new("mprotect-page", 1000, mprotect_page));
    all.push(Workload::new("munmap-storm", 1000, munmap_storm).on_cpus(2));
    all
}
