//! The end of a child and the signal that tells of it: neither is seen without the other.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{
    Case, Notes,
    exec::become_child,
    files::open,
    notes::{answer, at, call, must},
    signals::{COUNT, mask_of, remember},
};
use crate::{
    probe::handle,
    sys::{cpu, process},
};

pub(super) const CASES: &[Case] =
    &[("told", told), ("found", found), ("signals", signals), ("no-news", no_news), ("exec", exec)];

const ANY: u64 = -1i64 as u64;
const NO_HANG: u64 = libc::WNOHANG as u64;
const ROUNDS: u32 = 400;

/// Forks a child that ends at once, on another CPU if there is one.
fn short_lived() -> u64 {
    let cpus = cpu::allowed().expect("cpus");
    let here = cpu::current().expect("a cpu");
    let there = cpus.iter().copied().find(|&cpu| cpu != here).unwrap_or(here);
    process::spawn(|| i32::from(cpu::pin(there).is_err())).expect("a child") as u64
}

/// Whoever sees the end of a child has been told of it: the handler has run before `wait4` comes back.
fn told(notes: &mut Notes) {
    handle(libc::SIGCHLD, libc::SA_RESTART, remember);
    let mut untold = 0;
    for round in 1..=ROUNDS {
        let child = short_lived();
        while must(libc::SYS_wait4, &[child, 0, NO_HANG, 0]) == 0 {
            cpu::relax();
        }
        untold += u32::from(COUNT.load(SeqCst) != round);
    }
    notes.note("ends-seen-before-the-signal", untold);
}

// Written by the handler below, read by the thread that it interrupts.
static EMPTY_HANDED: AtomicU32 = AtomicU32::new(0);

/// Takes the child that the signal tells of. Nothing else of the process runs then, and only one child is there.
extern "C" fn reap(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let found = call(libc::SYS_wait4, &[ANY, 0, NO_HANG, 0]);
    EMPTY_HANDED.fetch_add(u32::from(found <= 0), SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

/// Whoever is told of the end of a child finds it.
fn found(notes: &mut Notes) {
    handle(libc::SIGCHLD, 0, reap);
    for round in 1..=ROUNDS {
        short_lived();
        while COUNT.load(SeqCst) < round {
            cpu::relax();
        }
    }
    notes.note("signals-seen-before-the-end", EMPTY_HANDED.load(SeqCst));
}

/// Clones a child that tells its parent of its end by this signal.
fn child_with(signal: i32, body: impl FnOnce()) -> u64 {
    let child = must(libc::SYS_clone, &[signal as u64]);
    if child == 0 {
        body();
        process::exit_now(0);
    }
    child
}

fn wait_for(child: u64, options: i32) -> String {
    let found = call(libc::SYS_wait4, &[child, 0, options as u64, 0]);
    if found as u64 == child { "found".to_string() } else { answer(found) }
}

/// A child may tell of its end by another signal, or by none. Then it must be asked for by name of its kind.
fn signals(notes: &mut Notes) {
    handle(libc::SIGCHLD, 0, remember);
    handle(libc::SIGUSR1, 0, remember);
    for (name, signal) in [("usr1", libc::SIGUSR1), ("none", 0)] {
        let child = child_with(signal, || ());
        notes.note(&format!("{name}-asked-for-like-others"), wait_for(child, 0));
        notes.note(&format!("{name}-asked-for-as-a-clone"), wait_for(child, libc::__WCLONE));
        notes.note(&format!("{name}-told"), COUNT.swap(0, SeqCst));
    }
    let child = child_with(libc::SIGCHLD, || ());
    notes.note("chld-asked-for-as-a-clone", wait_for(child, libc::__WCLONE));
    notes.note("chld-asked-for-as-any", wait_for(child, libc::__WALL));
}

/// Who ignores SIGCHLD is not asked about by children that tell by it; others wait to be asked all the same.
fn no_news(notes: &mut Notes) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    notes.note("ignored", wait_for(child_with(libc::SIGCHLD, || ()), libc::__WALL));
    notes.note("ignored-but-tells-by-usr1", {
        handle(libc::SIGUSR1, 0, remember);
        wait_for(child_with(libc::SIGUSR1, || ()), libc::__WALL)
    });
    handle(libc::SIGCHLD, libc::SA_NOCLDWAIT, remember);
    COUNT.store(0, SeqCst);
    let chld = mask_of(libc::SIGCHLD);
    must(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as u64, at(&chld), 0, 8]);
    notes.note("handled-and-not-to-wait-for", wait_for(child_with(libc::SIGCHLD, || ()), libc::__WALL));
    must(libc::SYS_rt_sigprocmask, &[libc::SIG_UNBLOCK as u64, at(&chld), 0, 8]);
    notes.note("told-all-the-same", COUNT.load(SeqCst));
}

/// A child that runs another program tells of its end by SIGCHLD from then on.
fn exec(notes: &mut Notes) {
    handle(libc::SIGCHLD, 0, remember);
    let child = child_with(libc::SIGUSR1, || {
        must(libc::SYS_dup3, &[open(b"/dev/null\0"), 1, 0]);
        become_child("nothing", &[]);
    });
    notes.note("asked-for", wait_for(child, libc::__WALL));
    notes.note("told-by-chld", COUNT.load(SeqCst));
}
