//! Processes: fork, exit codes, wait4, orphans and process groups.

use std::{thread, time::Duration};

use super::{
    Case, Notes,
    notes::{KERNEL, answer, at, call, into, must, pipe},
};
use crate::sys::process;

pub(super) const CASES: &[Case] = &[
    ("exit-codes", exit_codes),
    ("wait-status", wait_status),
    ("wait-options", wait_options),
    ("wait-arguments", wait_arguments),
    ("wait-many", wait_many),
    ("wait-blocks", wait_blocks),
    ("orphan", orphan),
    ("exit-group", exit_group),
    ("last-thread", last_thread),
    ("killed-threads", killed_threads),
    ("clone-flags", clone_flags),
];

const ANY: u64 = -1i64 as u64;
const NO_HANG: u64 = libc::WNOHANG as u64;

fn spawn(body: impl FnOnce() -> i32) -> u64 {
    process::spawn(body).expect("a child") as u64
}

fn ended(child: u64) -> String {
    format!("{:?}", process::wait(child as i32).expect("the child").1)
}

fn sleep_for_ever() -> i32 {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}

fn exit_codes(notes: &mut Notes) {
    for code in [0, 7, 255, 256 + 3, -1] {
        notes.note(&format!("{code}"), ended(spawn(|| code)));
    }
}

fn wait_status(notes: &mut Notes) {
    let mut status = -1i32;
    let mut of = |child: u64| {
        let found = call(libc::SYS_wait4, &[child, into(&mut status), 0, 0]) as u64;
        format!("{}-{status:#x}", found == child)
    };
    notes.note("exit-5", of(spawn(|| 5)));
    let child = spawn(sleep_for_ever);
    must(libc::SYS_kill, &[child, libc::SIGKILL as u64]);
    notes.note("sigkill", of(child));
    let child = spawn(sleep_for_ever);
    must(libc::SYS_kill, &[child, libc::SIGTERM as u64]);
    notes.note("sigterm", of(child));
}

fn wait_options(notes: &mut Notes) {
    let child = spawn(sleep_for_ever);
    notes.call("no-hang-while-it-runs", libc::SYS_wait4, &[child, 0, NO_HANG, 0]);
    notes.call("no-hang-any", libc::SYS_wait4, &[ANY, 0, NO_HANG, 0]);
    must(libc::SYS_kill, &[child, libc::SIGKILL as u64]);
    notes.note("then", call(libc::SYS_wait4, &[child, 0, 0, 0]) as u64 == child);
    notes.call("twice", libc::SYS_wait4, &[child, 0, 0, 0]);
    notes.call("no-children", libc::SYS_wait4, &[ANY, 0, 0, 0]);
    notes.call("no-children-no-hang", libc::SYS_wait4, &[ANY, 0, NO_HANG, 0]);
}

fn wait_arguments(notes: &mut Notes) {
    notes.call("not-a-child", libc::SYS_wait4, &[1, 0, 0, 0]);
    notes.call("bad-options", libc::SYS_wait4, &[ANY, 0, 0x100, 0]);
    let child = spawn(|| 0);
    notes.call("status-to-kernel-pointer", libc::SYS_wait4, &[child, KERNEL, 0, 0]);
    // Linux has reaped the child before it finds that the status has nowhere to go.
    notes.call("and-after-that", libc::SYS_wait4, &[child, 0, 0, 0]);
    let child = spawn(|| 0);
    let mut usage = [0xffu8; 144];
    notes.note("usage", call(libc::SYS_wait4, &[child, 0, 0, into(&mut usage)]) as u64 == child);
    notes.note("usage-is-written", usage != [0xff; 144]);
}

fn wait_many(notes: &mut Notes) {
    let mut children: Vec<u64> = (0..8).map(|code| spawn(move || code)).collect();
    let mut codes = 0;
    while !children.is_empty() {
        let mut status = 0i32;
        let found = must(libc::SYS_wait4, &[ANY, into(&mut status), 0, 0]);
        let place = children.iter().position(|&child| child == found).expect("a child of ours, once");
        children.swap_remove(place);
        codes += libc::WEXITSTATUS(status);
    }
    notes.note("sum-of-codes", codes);
    notes.call("then", libc::SYS_wait4, &[ANY, 0, 0, 0]);
}

fn wait_blocks(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let child = spawn(|| {
        thread::sleep(Duration::from_millis(50));
        must(libc::SYS_write, &[writer, at(b"x"), 1]);
        0
    });
    notes.note("call", call(libc::SYS_wait4, &[child, 0, 0, 0]) as u64 == child);
    must(libc::SYS_close, &[writer]);
    notes.call("child-had-written", libc::SYS_read, &[reader, into(&mut [0u8; 4]), 4]);
}

/// A child whose parent dies gets another one.
fn orphan(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let middle = spawn(|| {
        let parent = must(libc::SYS_getpid, &[]);
        spawn(|| {
            while must(libc::SYS_getppid, &[]) == parent {
                thread::sleep(Duration::from_millis(5));
            }
            must(libc::SYS_write, &[writer, at(b"adopted"), 7]);
            0
        });
        4
    });
    notes.note("parent", ended(middle));
    must(libc::SYS_close, &[writer]);
    let mut text = [0u8; 16];
    let length = must(libc::SYS_read, &[reader, into(&mut text), 16]) as usize;
    notes.note("child", String::from_utf8_lossy(&text[..length]));
    notes.call("not-ours-to-wait-for", libc::SYS_wait4, &[ANY, 0, 0, 0]);
}

fn exit_group(notes: &mut Notes) {
    let child = spawn(|| {
        for _ in 0..3 {
            thread::spawn(sleep_for_ever);
        }
        thread::spawn(|| process::exit_now(9));
        sleep_for_ever()
    });
    notes.note("from-a-thread", ended(child));
    let child = spawn(|| {
        for _ in 0..3 {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        10
    });
    notes.note("while-threads-run", ended(child));
}

/// The first thread may go before the others: the process ends with the last, and with its code.
fn last_thread(notes: &mut Notes) {
    let child = spawn(|| {
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(50));
            process::exit_now(6)
        });
        call(libc::SYS_exit, &[3]) as i32
    });
    notes.note("exit-group-by-the-last", ended(child));
    let child = spawn(|| call(libc::SYS_exit, &[3]) as i32);
    notes.note("exit-of-the-only-one", ended(child));
}

fn killed_threads(notes: &mut Notes) {
    let child = spawn(|| {
        for _ in 0..3 {
            thread::spawn(sleep_for_ever);
        }
        sleep_for_ever()
    });
    must(libc::SYS_kill, &[child, libc::SIGKILL as u64]);
    notes.note("all-of-them", ended(child));
}

fn clone_flags(notes: &mut Notes) {
    let try_clone = |flags: i32| {
        let value = call(libc::SYS_clone, &[flags as u64, 0, 0, 0, 0]);
        if value == 0 {
            process::exit_now(0);
        }
        if value > 0 { "a-child".to_string() } else { answer(value) }
    };
    notes.note("handlers-without-memory", try_clone(libc::CLONE_SIGHAND));
    notes.note("thread-without-handlers", try_clone(libc::CLONE_THREAD | libc::CLONE_VM));
    notes.note("thread-without-memory", try_clone(libc::CLONE_THREAD | libc::CLONE_SIGHAND));
    notes.note("fork", try_clone(libc::SIGCHLD));
    notes.note("reaped", call(libc::SYS_wait4, &[ANY, 0, 0, 0]) > 0);
}
