//! Signals: handlers and their flags, masks, and who may send what to whom.

use std::{
    sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use super::{
    Case, Notes,
    notes::{KERNEL, UNMAPPED, at, call, into, must, pipe},
};
use crate::{
    probe::handle,
    sys::{cpu, process, sched_yield},
};

pub(super) const CASES: &[Case] = &[
    ("arguments", arguments),
    ("details", details),
    ("sigaction", sigaction),
    ("nested", nested),
    ("reset-hand", reset_hand),
    ("mask", mask),
    ("mask-arguments", mask_arguments),
    ("child", child),
    ("defaults", defaults),
    ("thread", to_thread),
    ("leaving-thread", leaving_thread),
];

// Written by handlers, read by the threads that they interrupt or wake.
pub(super) static COUNT: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);
static STATUS: AtomicI32 = AtomicI32::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);

pub(super) const USR1: u64 = libc::SIGUSR1 as u64;
const USR2: u64 = libc::SIGUSR2 as u64;
const NOBODY: u64 = 0x3f_ffff;

pub(super) fn own_pid() -> u64 {
    must(libc::SYS_getpid, &[])
}

fn own_tid() -> u64 {
    must(libc::SYS_gettid, &[])
}

pub(super) fn mask_of(signal: i32) -> u64 {
    1 << (signal - 1)
}

pub(super) extern "C" fn remember(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo that lives until the handler returns.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        SENDER.store((*info).si_pid(), SeqCst);
        STATUS.store((*info).si_status(), SeqCst);
    }
    THREAD.store(own_tid() as i32, SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

/// Sends itself the signal once more while it handles the first.
extern "C" fn send_again(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let depth = DEPTH.fetch_add(1, SeqCst) + 1;
    DEEPEST.fetch_max(depth, SeqCst);
    if COUNT.fetch_add(1, SeqCst) == 0 {
        must(libc::SYS_tgkill, &[own_pid(), own_tid(), signal as u64]);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn arguments(notes: &mut Notes) {
    let pid = own_pid();
    notes.call("kill-nobody", libc::SYS_kill, &[NOBODY, USR1]);
    notes.call("kill-bad-signal", libc::SYS_kill, &[pid, 65]);
    notes.call("kill-negative-signal", libc::SYS_kill, &[pid, -1i64 as u64]);
    notes.call("kill-probe-self", libc::SYS_kill, &[pid, 0]);
    notes.call("kill-probe-nobody", libc::SYS_kill, &[NOBODY, 0]);
    notes.call("tkill-nobody", libc::SYS_tkill, &[NOBODY, USR1]);
    notes.call("tkill-zero", libc::SYS_tkill, &[0, USR1]);
    notes.call("tkill-bad-signal", libc::SYS_tkill, &[own_tid(), 65]);
    notes.call("tgkill-wrong-process", libc::SYS_tgkill, &[NOBODY, own_tid(), USR1]);
    notes.call("tgkill-wrong-thread", libc::SYS_tgkill, &[pid, NOBODY, USR1]);
    notes.call("tgkill-zero", libc::SYS_tgkill, &[0, own_tid(), USR1]);
    notes.call("tgkill-negative", libc::SYS_tgkill, &[pid, -1i64 as u64, USR1]);
}

fn details(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, remember);
    let pid = own_pid();
    notes.call("kill", libc::SYS_kill, &[pid, USR1]);
    notes.note("kill-handled", COUNT.load(SeqCst));
    notes.note("kill-code", CODE.load(SeqCst));
    notes.note("kill-sender-is-self", SENDER.load(SeqCst) as u64 == pid);
    notes.call("tgkill", libc::SYS_tgkill, &[pid, own_tid(), USR1]);
    notes.note("tgkill-handled", COUNT.load(SeqCst));
    notes.note("tgkill-code", CODE.load(SeqCst));
    notes.call("tkill", libc::SYS_tkill, &[own_tid(), USR1]);
    notes.note("tkill-handled", COUNT.load(SeqCst));
    notes.note("tkill-code", CODE.load(SeqCst));
    let child = process::spawn(|| call(libc::SYS_kill, &[pid, USR1]) as i32).expect("a child");
    process::wait(child).expect("the child");
    notes.note("from-child-handled", COUNT.load(SeqCst));
    notes.note("sender-is-child", SENDER.load(SeqCst) == child);
}

fn sigaction(notes: &mut Notes) {
    let (action, mut old) = ([1u64, 0, 0, 0], [9u64; 4]);
    // The kernel's own structure: handler, flags, restorer, mask; eight bytes of signals.
    notes.call("ignore", libc::SYS_rt_sigaction, &[USR1, at(&action), 0, 8]);
    notes.call("ask", libc::SYS_rt_sigaction, &[USR1, 0, into(&mut old), 8]);
    notes.note("old-handler", old[0]);
    notes.call("kill-ignored", libc::SYS_kill, &[own_pid(), USR1]);
    notes.call("sigkill", libc::SYS_rt_sigaction, &[libc::SIGKILL as u64, at(&action), 0, 8]);
    notes.call("sigstop", libc::SYS_rt_sigaction, &[libc::SIGSTOP as u64, at(&action), 0, 8]);
    notes.call("ask-sigkill", libc::SYS_rt_sigaction, &[libc::SIGKILL as u64, 0, into(&mut old), 8]);
    notes.call("signal-0", libc::SYS_rt_sigaction, &[0, at(&action), 0, 8]);
    notes.call("signal-65", libc::SYS_rt_sigaction, &[65, at(&action), 0, 8]);
    notes.call("signal-64", libc::SYS_rt_sigaction, &[64, at(&action), 0, 8]);
    notes.call("bad-size", libc::SYS_rt_sigaction, &[USR1, at(&action), 0, 4]);
    notes.call("kernel-pointer", libc::SYS_rt_sigaction, &[USR1, KERNEL, 0, 8]);
    notes.call("old-to-kernel-pointer", libc::SYS_rt_sigaction, &[USR1, 0, KERNEL, 8]);
    notes.call("unmapped", libc::SYS_rt_sigaction, &[USR1, UNMAPPED, 0, 8]);
}

fn nested(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, send_again);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.note("handled", COUNT.swap(0, SeqCst));
    notes.note("deepest", DEEPEST.swap(0, SeqCst));
    handle(libc::SIGUSR1, libc::SA_NODEFER, send_again);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.note("nodefer-handled", COUNT.swap(0, SeqCst));
    notes.note("nodefer-deepest", DEEPEST.swap(0, SeqCst));
}

fn reset_hand(notes: &mut Notes) {
    handle(libc::SIGUSR1, libc::SA_RESETHAND, remember);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.note("handled", COUNT.load(SeqCst));
    let mut old = [9u64; 4];
    must(libc::SYS_rt_sigaction, &[USR1, 0, into(&mut old), 8]);
    notes.note("handler-now", old[0]);
}

fn mask(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, remember);
    let (block, unblock, set) = (libc::SIG_BLOCK as u64, libc::SIG_UNBLOCK as u64, libc::SIG_SETMASK as u64);
    let usr1 = mask_of(libc::SIGUSR1);
    let mut old = 9u64;
    notes.call("block", libc::SYS_rt_sigprocmask, &[block, at(&usr1), into(&mut old), 8]);
    notes.note("old-mask", old);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.note("held-back", COUNT.load(SeqCst));
    notes.call("ask", libc::SYS_rt_sigprocmask, &[block, 0, into(&mut old), 8]);
    notes.note("mask-is-usr1", old == usr1);
    notes.call("unblock", libc::SYS_rt_sigprocmask, &[unblock, at(&usr1), 0, 8]);
    notes.note("two-become-one", COUNT.load(SeqCst));
    notes.call("block-all", libc::SYS_rt_sigprocmask, &[set, at(&!0u64), 0, 8]);
    must(libc::SYS_rt_sigprocmask, &[set, at(&0u64), into(&mut old), 8]);
    notes.note("not-kill-nor-stop", old == !(mask_of(libc::SIGKILL) | mask_of(libc::SIGSTOP)));
    must(libc::SYS_rt_sigprocmask, &[block, at(&usr1), 0, 8]);
    let inherited = process::spawn(|| {
        let mut mask = 0u64;
        must(libc::SYS_rt_sigprocmask, &[block, 0, into(&mut mask), 8]);
        i32::from(mask == usr1)
    });
    notes.note("child-inherits", format!("{:?}", process::wait(inherited.expect("a child")).expect("the child").1));
}

fn mask_arguments(notes: &mut Notes) {
    let none = 0u64;
    notes.call("bad-how", libc::SYS_rt_sigprocmask, &[9, at(&none), 0, 8]);
    notes.call("bad-how-but-no-set", libc::SYS_rt_sigprocmask, &[9, 0, 0, 8]);
    notes.call("bad-size", libc::SYS_rt_sigprocmask, &[0, at(&none), 0, 16]);
    notes.call("kernel-pointer", libc::SYS_rt_sigprocmask, &[0, KERNEL, 0, 8]);
    notes.call("old-to-kernel-pointer", libc::SYS_rt_sigprocmask, &[0, 0, KERNEL, 8]);
}

fn child(notes: &mut Notes) {
    handle(libc::SIGCHLD, libc::SA_RESTART, remember);
    let pid = process::spawn(|| 7).expect("a child");
    process::wait(pid).expect("the child");
    notes.note("exited-handled", COUNT.load(SeqCst));
    notes.note("exited-code-and-status", format!("{}-{}", CODE.load(SeqCst), STATUS.load(SeqCst)));
    notes.note("exited-sender-is-child", SENDER.load(SeqCst) == pid);
    let pid = process::spawn(|| {
        loop {
            thread::park()
        }
    })
    .expect("a child");
    must(libc::SYS_kill, &[pid as u64, libc::SIGKILL as u64]);
    process::wait(pid).expect("the child");
    notes.note("killed-code-and-status", format!("{}-{}", CODE.load(SeqCst), STATUS.load(SeqCst)));
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let pid = process::spawn(|| 0).expect("a child");
    notes.call("ignored-leaves-no-zombie", libc::SYS_wait4, &[pid as u64, 0, 0, 0]);
}

fn defaults(notes: &mut Notes) {
    let mut after = |check: &str, signal: i32| {
        let child = process::spawn(|| {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            must(libc::SYS_kill, &[own_pid(), signal as u64]);
            3
        });
        notes.note(check, format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
    };
    after("hup", libc::SIGHUP);
    after("int", libc::SIGINT);
    after("term", libc::SIGTERM);
    after("kill", libc::SIGKILL);
    after("usr1", libc::SIGUSR1);
    after("segv", libc::SIGSEGV);
    after("alrm", libc::SIGALRM);
    after("rt", 40);
    after("chld-is-ignored", libc::SIGCHLD);
    after("urg-is-ignored", libc::SIGURG);
    after("winch-is-ignored", libc::SIGWINCH);
    after("cont-is-ignored", libc::SIGCONT);
}

/// A signal to the process goes to a thread that does not block it; one to a thread goes there.
fn to_thread(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, remember);
    handle(libc::SIGUSR2, 0, remember);
    let (reader, writer) = pipe(0);
    let set = libc::SIG_SETMASK as u64;
    let other = thread::spawn(move || {
        must(libc::SYS_write, &[writer, at(&(own_tid() as u32)), 4]);
        while COUNT.load(SeqCst) < 2 {
            thread::sleep(Duration::from_millis(1));
        }
    });
    must(libc::SYS_rt_sigprocmask, &[set, at(&mask_of(libc::SIGUSR1)), 0, 8]);
    let mut tid = 0u32;
    must(libc::SYS_read, &[reader, into(&mut tid), 4]);
    let wait_for = |count| {
        while COUNT.load(SeqCst) < count {
            thread::sleep(Duration::from_millis(1));
        }
        THREAD.load(SeqCst) == tid as i32
    };
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.note("blocked-here-handled-there", wait_for(1));
    must(libc::SYS_tgkill, &[own_pid(), tid.into(), USR2]);
    notes.note("sent-there-handled-there", wait_for(2));
    notes.note("join", other.join().is_ok());
}

// Who is ready in a round of the next case, and then once more for the start. Each adds one and spins for the others.
static READY: AtomicU32 = AtomicU32::new(0);

fn meet(count: u32) {
    READY.fetch_add(1, SeqCst);
    for turn in 1u32.. {
        if READY.load(SeqCst) >= count {
            break;
        }
        // The others may need this CPU.
        if turn.is_multiple_of(100) { sched_yield() } else { cpu::relax() }
    }
}

/// A signal to the process is not lost with the thread that was to take it: another one does.
fn leaving_thread(notes: &mut Notes) {
    const ROUNDS: u32 = 60;
    handle(libc::SIGUSR1, 0, remember);
    let set = libc::SIG_SETMASK as u64;
    must(libc::SYS_rt_sigprocmask, &[set, at(&mask_of(libc::SIGUSR1)), 0, 8]);
    let unblock = move || must(libc::SYS_rt_sigprocmask, &[set, at(&0u64), 0, 8]);
    let (reader, writer) = pipe(0);
    let mut lost = 0;
    for round in 1..=ROUNDS {
        // Ends without the C library, which would block all signals before, and so let them go to another thread.
        let leaving = thread::Builder::new().stack_size(64 << 10).spawn(move || {
            unblock();
            meet(3 * round);
            call(libc::SYS_exit, &[0]);
        });
        drop(leaving.expect("a thread"));
        // Started second, so that a kernel which looks for a taker from the first thread on finds the other one.
        let staying = thread::spawn(move || {
            unblock();
            meet(3 * round);
            while call(libc::SYS_read, &[reader, into(&mut [0u8]), 1]) != 1 {}
        });
        meet(3 * round);
        // Early in one round and late in another: somewhere the signal meets the thread on its way out.
        (0..round % 40).for_each(|_| cpu::relax());
        must(libc::SYS_kill, &[own_pid(), USR1]);
        let taken = (0..5000).any(|_| {
            thread::sleep(Duration::from_micros(100));
            COUNT.load(SeqCst) == round
        });
        lost += u32::from(!taken);
        must(libc::SYS_write, &[writer, at(b"x"), 1]);
        let _ = staying.join();
        COUNT.store(round, SeqCst);
    }
    notes.note("lost", lost);
}
