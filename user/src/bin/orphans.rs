//! `orphans`: what the first process is told of children that it inherits. It must be the first process itself.
//@ smp: 1 4
//@ gic: 3
//@ el: 1
//@ sanitize: tlb

use std::{
    process::ExitCode,
    sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use lazuli_user::{
    probe::handle,
    report::{Failed, Report, Verdict, ensure},
    sys::{self, process},
};

// Written by the handler, read by the thread that it interrupts.
static TOLD: AtomicU32 = AtomicU32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);
static STATUS: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo that lives until the handler returns.
    unsafe {
        SENDER.store((*info).si_pid(), SeqCst);
        STATUS.store((*info).si_status(), SeqCst);
    }
    TOLD.fetch_add(1, SeqCst);
}

fn main() -> ExitCode {
    let mut report = Report::default();
    for (name, test) in [
        ("a-dead-one-is-told-of", dead as fn() -> Verdict),
        ("a-living-one-tells-by-sigchld", living),
        ("one-that-nobody-asks-for-is-gone", ignored),
    ] {
        let is_first = std::process::id() == 1;
        report.add(name, if is_first { test() } else { Err(Failed::Skip("not the first process".to_string())) });
    }
    report.end()
}

fn call(number: i64, arguments: [u64; 4]) -> i64 {
    let [a, b, c, d] = arguments;
    // SAFETY: the calls below take numbers and null pointers only.
    unsafe { sys::raw(number, [a, b, c, d, 0, 0]) }
}

/// Clones a child that tells of its end by this signal, or by none with 0.
fn clone(signal: i32, body: impl FnOnce() -> i32) -> i32 {
    match call(libc::SYS_clone, [signal as u64, 0, 0, 0]) {
        0 => process::exit_now(body()),
        child => child as i32,
    }
}

/// Asks for that child, of whichever kind; gives its number, or the errno below zero.
fn ask(child: i32) -> i32 {
    call(libc::SYS_wait4, [child as u64, 0, libc::__WALL as u64, 0]) as i32
}

/// A child, which tells nobody of its own end, of which the first process inherits the zombie of a grandchild.
fn leave_a_zombie() -> i32 {
    clone(0, || {
        let grandchild = clone(libc::SIGCHLD, || 7);
        let keep = (libc::WEXITED | libc::WNOWAIT) as u64;
        i32::from(call(libc::SYS_waitid, [libc::P_PID as u64, grandchild as u64, 0, keep]) != 0)
    })
}

fn wait_until_told() -> Verdict {
    let told = (0..5000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        TOLD.load(SeqCst) > 0
    });
    ensure(told, || "no SIGCHLD came".to_string())
}

fn dead() -> Verdict {
    handle(libc::SIGCHLD, libc::SA_RESTART, remember);
    TOLD.store(0, SeqCst);
    let child = leave_a_zombie();
    ensure(ask(child) == child, || "the child is not to be found".to_string())?;
    wait_until_told()?;
    let (grandchild, status) = (SENDER.load(SeqCst), STATUS.load(SeqCst));
    ensure(grandchild != child && status == 7, || format!("told of {grandchild} with status {status}"))?;
    ensure(ask(-1) == grandchild, || "the grandchild is not to be found".to_string())?;
    ensure(TOLD.load(SeqCst) == 1, || "told more than once".to_string())
}

fn living() -> Verdict {
    handle(libc::SIGCHLD, libc::SA_RESTART, remember);
    TOLD.store(0, SeqCst);
    let child = clone(0, || {
        clone(libc::SIGUSR1, || {
            while call(libc::SYS_getppid, [0; 4]) != 1 {
                thread::sleep(Duration::from_millis(1));
            }
            8
        });
        0
    });
    ensure(ask(child) == child, || "the child is not to be found".to_string())?;
    wait_until_told()?;
    let (grandchild, status) = (SENDER.load(SeqCst), STATUS.load(SeqCst));
    ensure(grandchild != child && status == 8, || format!("told of {grandchild} with status {status}"))?;
    // As of any other child: no longer as of a clone.
    let found = call(libc::SYS_wait4, [grandchild as u64, 0, 0, 0]);
    ensure(found as i32 == grandchild, || format!("asked for the grandchild: {found}"))
}

fn ignored() -> Verdict {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let child = leave_a_zombie();
    ensure(ask(child) == child, || "the child is not to be found".to_string())?;
    let found = ask(-1);
    ensure(found == -libc::ECHILD, || format!("asked for any child: {found}"))
}
