//! The registers that a function keeps, x19 to x28: through a call, a signal, a fork and the loss of the CPU.

use std::{
    arch::naked_asm,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use super::{
    Case, Notes,
    notes::{call, must},
    signals::own_pid,
};
use crate::{probe::handle, sys::process};

pub(super) const CASES: &[Case] =
    &[("call", through_a_call), ("signal", through_a_signal), ("fork", through_a_fork), ("loop", through_interrupts)];

/// x19 to x28 as they should be: each its number.
const OWN: [u64; 10] = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28];

/// Makes a system call with two arguments, and spins so many times, with each of x19 to x28 its number; gives these as they are
/// afterwards. x0 to x4 as named; gives the call's answer.
#[unsafe(naked)]
extern "C" fn across(_number: u64, _first: u64, _second: u64, _kept: &mut [u64; 10], _spins: u64) -> i64 {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "mov x8, x0",
        "mov x0, x1",
        "mov x1, x2",
        "mov x2, #0",
        "mov x9, x4",
        "mov x19, #19",
        "mov x20, #20",
        "mov x21, #21",
        "mov x22, #22",
        "mov x23, #23",
        "mov x24, #24",
        "mov x25, #25",
        "mov x26, #26",
        "mov x27, #27",
        "mov x28, #28",
        "svc #0",
        "1: subs x9, x9, #1",
        "b.hi 1b",
        "stp x19, x20, [x3]",
        "stp x21, x22, [x3, #16]",
        "stp x23, x24, [x3, #32]",
        "stp x25, x26, [x3, #48]",
        "stp x27, x28, [x3, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x25, x26, [sp, #64]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "ldp x29, x30, [sp], #96",
        "ret",
    )
}

/// How many handlers found all registers as they should be, and how many did not.
static RIGHT: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Looks at the registers that it interrupts, uses its own, and changes the interrupted x24 on request.
extern "C" fn look(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context that lives until the handler returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.regs };
    let counter = if registers[19..29] == OWN { &RIGHT } else { &WRONG };
    counter.fetch_add(1, SeqCst);
    registers[24] ^= CHANGE.load(SeqCst);
    let mut kept = [0; 10];
    across(libc::SYS_getppid as u64, 0, 0, &mut kept, 0);
    WRONG.fetch_add(u64::from(kept != OWN), SeqCst);
}

static CHANGE: AtomicU64 = AtomicU64::new(0);

fn through_a_call(notes: &mut Notes) {
    let mut kept = [0; 10];
    across(libc::SYS_getppid as u64, 0, 0, &mut kept, 0);
    notes.note("kept", kept == OWN);
    notes.note("failed", across(libc::SYS_close as u64, u64::MAX, 0, &mut kept, 0) == -i64::from(libc::EBADF));
    notes.note("kept-by-failure", kept == OWN);
}

fn through_a_signal(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, look);
    let mut kept = [0; 10];
    across(libc::SYS_kill as u64, own_pid(), libc::SIGUSR1 as u64, &mut kept, 0);
    notes.note("seen", (RIGHT.load(SeqCst), WRONG.load(SeqCst)) == (1, 0));
    notes.note("kept", kept == OWN);
    CHANGE.store(24 ^ 99, SeqCst);
    across(libc::SYS_kill as u64, own_pid(), libc::SIGUSR1 as u64, &mut kept, 0);
    notes.note("changed", format!("{kept:?}").replace(' ', ""));
}

fn through_a_fork(notes: &mut Notes) {
    let mut kept = [0; 10];
    let child = across(libc::SYS_clone as u64, libc::SIGCHLD as u64, 0, &mut kept, 0);
    if child == 0 {
        call(libc::SYS_exit_group, &[u64::from(kept != OWN)]);
    }
    notes.note("parent", kept == OWN);
    notes.note("child", format!("{:?}", process::wait(child as i32).expect("the child").1));
}

/// Interrupts, other threads and signals come while a thread spins.
fn through_interrupts(notes: &mut Notes) {
    const SPINS: u64 = 2_000_000;
    handle(libc::SIGUSR1, 0, look);
    let done = AtomicBool::new(false);
    let (pid, tid) = (own_pid(), must(libc::SYS_gettid, &[]));
    let wrong = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                    must(libc::SYS_tgkill, &[pid, tid, libc::SIGUSR1 as u64]);
                }
            });
        }
        let spin = |_: &u32| {
            let mut kept = [0; 10];
            across(libc::SYS_getppid as u64, 0, 0, &mut kept, SPINS);
            kept != OWN
        };
        let wrong = (0..20).filter(spin).count();
        done.store(true, SeqCst);
        wrong
    });
    notes.note("wrong", wrong);
    notes.note("handlers-in-the-loop", RIGHT.load(SeqCst) > 0);
}
