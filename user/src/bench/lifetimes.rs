//! `fork`, `stay`, `exit` and `hold`: address spaces that are born and die.

use std::{
    env, io,
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
    process::{self, Ended},
};

/// Lifetimes before the measured region.
const WARM_UP: u64 = 4;

/// What `fork-exec` executes when this program cannot find itself.
const FALLBACK: &str = "/bin/hello";

/// The argument that makes `lazybench` return at once.
pub const NOOP: &str = "--noop";

fn reap(pid: i32) -> io::Result<()> {
    match process::wait(pid)?.1 {
        Ended::Exited(0) => Ok(()),
        other => Err(io::Error::other(format!("child {pid} should have exited with 0, but: {other:?}"))),
    }
}

fn repeat(times: u64, mut spawn: impl FnMut() -> io::Result<i32>) -> io::Result<()> {
    (0..times).try_for_each(|_| reap(spawn()?))
}

fn fork_exit(ops: u64) -> io::Result<(u64, Sample)> {
    repeat(WARM_UP, process::spawn_empty)?;
    let (done, sample) = measure::region(|| repeat(ops, process::spawn_empty));
    done.map(|()| (ops, sample))
}

fn fork_exec(ops: u64) -> io::Result<(u64, Sample)> {
    let path = own_path();
    let spawn = || process::spawn_program(&path, &[&path, NOOP]);
    // An emulator of user mode alone passes execve on to a host that does not know our programs.
    if process::wait(spawn()?)?.1 == Ended::Exited(126) {
        let why = format!("this kernel does not know the format of {path}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let (done, sample) = measure::region(|| repeat(ops, spawn));
    done.map(|()| (ops, sample))
}

fn own_path() -> String {
    let named = env::args().next().unwrap_or_default();
    let found = env::current_exe().map_or(named, |path| path.to_string_lossy().into_owned());
    if found.starts_with('/') { found } else { FALLBACK.to_string() }
}

/// Parent and children share one CPU, so that no address space is ever known to another.
fn stay(body: impl FnOnce() -> io::Result<(u64, Sample)>) -> io::Result<(u64, Sample)> {
    cpu::bound_to(&cpu::allowed()?[..1], body)
}

/// One CPU is the last that a dead address space ran on, and idles for ever. Lives come and go on the others.
fn hold_idle(ops: u64) -> io::Result<(u64, Sample)> {
    let cpus = cpu::allowed()?;
    let (idle, others) = cpus.split_last().expect("a running thread has a CPU");
    cpu::bound_to(others, || {
        let visit = || i32::from([*idle, others[0]].map(cpu::pin).iter().any(Result::is_err));
        reap(process::spawn(visit)?)?;
        fork_exit(ops)
    })
}

/// One parent per CPU, each bound to its own, so that every CPU sees address spaces come and go. Fewer if there are
/// fewer children to be had: a machine of hundreds of CPUs must not bear hundreds to measure a handful.
fn storm(ops: u64, child: impl Fn(usize, &[usize]) -> i32 + Sync) -> io::Result<(u64, Sample)> {
    let cpus = cpu::allowed()?;
    let parents = cpus.len().min(ops as usize);
    let each = ops.div_ceil(parents as u64);
    let sample = team::run(Kind::Processes, parents, |number, gate| {
        cpu::pin(cpus[number])?;
        let spawn = || process::spawn(|| child(number, &cpus));
        repeat(WARM_UP, spawn)?;
        gate.pass()?;
        repeat(each, spawn)
    })?;
    Ok((each * parents as u64, sample))
}

/// A child that runs on every CPU before it exits: each of them may still hold its address space.
fn walk(first: usize, cpus: &[usize]) -> i32 {
    let order = (1..=cpus.len()).map(|step| cpus[(first + step) % cpus.len()]);
    i32::from(order.map(cpu::pin).any(|moved| moved.is_err()))
}

/// A child that leaves a thread asleep on each of two other CPUs and exits over their heads.
fn leave_threads_behind(first: usize, cpus: &[usize]) -> i32 {
    static ASLEEP: AtomicU32 = AtomicU32::new(0);
    for step in 1..=2 {
        let home = cpus[(first + step) % cpus.len()];
        let sleep = move || {
            let moved = cpu::pin(home);
            // Pairs with the Acquire load below: the main thread exits only when both have moved.
            ASLEEP.fetch_add(1, Ordering::Release);
            let woken = futex::wake(&ASLEEP, 1, Scope::Private);
            while moved.is_ok() && woken.is_ok() {
                thread::park();
            }
        };
        if thread::Builder::new().spawn(sleep).is_err() {
            return 1;
        }
    }
    loop {
        // Pairs with the Release addition above.
        let asleep = ASLEEP.load(Ordering::Acquire);
        if asleep == 2 {
            return 0;
        }
        if futex::wait(&ASLEEP, asleep, Scope::Private, None).is_err() {
            return 1;
        }
    }
}

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("fork-exit", 500, fork_exit),
        Workload::new("fork-exec", 100, fork_exec),
        Workload::new("stay-fork", 500, |ops| stay(|| fork_exit(ops))),
        Workload::new("stay-exec", 100, |ops| stay(|| fork_exec(ops))),
        Workload::new("exit-single", 500, |ops| storm(ops, |_, _| 0)),
        Workload::new("exit-threads", 200, |ops| storm(ops, leave_threads_behind)),
        Workload::new("exit-walk", 500, |ops| storm(ops, walk)).on_cpus(2),
        Workload::new("hold-idle", 1000, hold_idle).on_cpus(2),
    ]
}
