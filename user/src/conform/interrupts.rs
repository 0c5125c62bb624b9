//! Calls that a signal interrupts: which of them end, which begin again, and what a handler finds.

use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

use super::{
    Case, Notes,
    notes::{KERNEL, answer, at, call, into, must, pipe},
    signals::{COUNT, USR1, mask_of, own_pid, remember},
};
use crate::{probe::handle, sys::process};

pub(super) const CASES: &[Case] = &[("interrupt", interrupt), ("suspend", suspend)];

/// Runs `body` while a child sends SIGUSR1 after a while, and once more in case the first came too early.
fn while_signalled<T>(body: impl FnOnce() -> T) -> T {
    let pid = own_pid();
    let sender = process::spawn(|| {
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(30));
            call(libc::SYS_kill, &[pid, USR1]);
        }
        0
    });
    let value = body();
    let sender = sender.expect("a child");
    must(libc::SYS_kill, &[sender as u64, libc::SIGKILL as u64]);
    process::wait(sender).expect("the sender");
    value
}

fn interrupt(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let mut byte = [0u8];
    handle(libc::SIGUSR1, 0, remember);
    let result = while_signalled(|| call(libc::SYS_read, &[reader, into(&mut byte), 1]));
    notes.note("read", answer(result));
    let long = [50i64, 0];
    let mut left = [0i64, 0];
    let result = while_signalled(|| call(libc::SYS_nanosleep, &[at(&long), into(&mut left)]));
    notes.note("nanosleep", answer(result));
    notes.note("rest-of-sleep", (20..50).contains(&left[0]) && (0..1_000_000_000).contains(&left[1]));
    let result = while_signalled(|| call(libc::SYS_ppoll, &[0, 0, at(&long), 0, 8]));
    notes.note("ppoll", answer(result));
    handle(libc::SIGUSR1, libc::SA_RESTART, remember);
    COUNT.store(0, SeqCst);
    let result = while_signalled(|| {
        let writer = process::spawn(|| {
            thread::sleep(Duration::from_millis(200));
            call(libc::SYS_write, &[writer, at(b"r"), 1]) as i32
        });
        let result = call(libc::SYS_read, &[reader, into(&mut byte), 1]);
        drop(writer.map(process::wait));
        result
    });
    notes.note("read-restarts", format!("{}-{}", answer(result), byte[0] as char));
    notes.note("handler-ran-meanwhile", COUNT.load(SeqCst) > 0);
    let result = while_signalled(|| call(libc::SYS_nanosleep, &[at(&long), into(&mut left)]));
    notes.note("nanosleep-never-restarts", answer(result));
}

fn suspend(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, remember);
    let (set, usr1) = (libc::SIG_SETMASK as u64, mask_of(libc::SIGUSR1));
    must(libc::SYS_rt_sigprocmask, &[set, at(&usr1), 0, 8]);
    must(libc::SYS_kill, &[own_pid(), USR1]);
    notes.call("pending-comes-at-once", libc::SYS_rt_sigsuspend, &[at(&0u64), 8]);
    notes.note("handled", COUNT.load(SeqCst));
    let mut mask = 0u64;
    must(libc::SYS_rt_sigprocmask, &[set, 0, into(&mut mask), 8]);
    notes.note("mask-comes-back", mask == usr1);
    let result = while_signalled(|| call(libc::SYS_rt_sigsuspend, &[at(&0u64), 8]));
    notes.note("waits", answer(result));
    notes.call("bad-size", libc::SYS_rt_sigsuspend, &[at(&0u64), 4]);
    notes.call("kernel-pointer", libc::SYS_rt_sigsuspend, &[KERNEL, 8]);
}
