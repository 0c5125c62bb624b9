//! Pipes: ends, capacity, atomic writes, and what happens when one end goes.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
};

use super::{
    Case, Notes,
    notes::{KERNEL, answer, at, call, into, must, pipe},
};
use crate::{probe::handle, sys::process};

pub(super) const CASES: &[Case] = &[
    ("pipe2", pipe2),
    ("ends", ends),
    ("capacity", capacity),
    ("atomic", atomic),
    ("blocking", blocking),
    ("close-under-reader", close_under_reader),
    ("replace-under-writer", replace_under_writer),
    ("long-write", long_write),
    ("across-fork", across_fork),
];

/// Writes up to this length are not mixed with others and never partial: POSIX's PIPE_BUF, 4096 on Linux.
const ATOMIC: usize = libc::PIPE_BUF;

static SIGPIPES: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_sigpipe(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Read by the thread that the handler interrupted: program order is enough.
    SIGPIPES.fetch_add(1, Relaxed);
}

fn pipe2(notes: &mut Notes) {
    let mut ends = [0i32; 2];
    notes.call("call", libc::SYS_pipe2, &[into(&mut ends), 0]);
    notes.note("neighbours", ends[1] == ends[0] + 1);
    notes.call("bad-flags", libc::SYS_pipe2, &[into(&mut ends), 1]);
    notes.call("kernel-pointer", libc::SYS_pipe2, &[KERNEL, 0]);
    notes.call("null", libc::SYS_pipe2, &[0, 0]);
    let next = pipe(libc::O_CLOEXEC | libc::O_NONBLOCK);
    notes.note("a-failed-call-leaves-nothing-open", next.0 == ends[1] as u64 + 1);
    notes.call("close-on-exec", libc::SYS_fcntl, &[next.0, libc::F_GETFD as u64]);
    notes.call("status", libc::SYS_fcntl, &[next.1, libc::F_GETFL as u64]);
}

fn ends(notes: &mut Notes) {
    let mut byte = [0u8];
    let (reader, writer) = pipe(0);
    notes.call("read-from-write-end", libc::SYS_read, &[writer, into(&mut byte), 1]);
    notes.call("write-to-read-end", libc::SYS_write, &[reader, at(&byte), 1]);
    must(libc::SYS_write, &[writer, at(b"xy"), 2]);
    must(libc::SYS_close, &[writer]);
    notes.call("read-what-is-left", libc::SYS_read, &[reader, into(&mut [0u8; 9]), 9]);
    notes.call("end-of-file", libc::SYS_read, &[reader, into(&mut byte), 1]);
    let (reader, writer) = pipe(0);
    must(libc::SYS_close, &[reader]);
    handle(libc::SIGPIPE, 0, count_sigpipe);
    notes.call("write-to-closed", libc::SYS_write, &[writer, at(&byte), 1]);
    notes.note("sigpipes", SIGPIPES.load(Relaxed));
    // SAFETY: SIG_DFL and SIG_IGN run no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    notes.call("write-to-closed-ignored", libc::SYS_write, &[writer, at(&byte), 1]);
    let child = process::spawn(|| {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        call(libc::SYS_write, &[writer, at(&byte), 1]) as i32
    });
    notes.note("default-of-sigpipe", format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
}

fn capacity(notes: &mut Notes) {
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    let block = [5u8; ATOMIC];
    let mut total = 0;
    let refused = loop {
        match call(libc::SYS_write, &[writer, at(&block), ATOMIC as u64]) {
            written if written > 0 => total += written,
            refused => break answer(refused),
        }
    };
    notes.note("bytes", total);
    notes.note("then", refused);
    notes.call("one-more-byte", libc::SYS_write, &[writer, at(&block), 1]);
    let mut got = vec![0u8; 2 * ATOMIC];
    notes.call("drain-a-block", libc::SYS_read, &[reader, into(got.as_mut_slice()), ATOMIC as u64]);
    let long = vec![6u8; 3 * ATOMIC];
    notes.call("long-write-is-partial", libc::SYS_write, &[writer, at(long.as_slice()), 3 * ATOMIC as u64]);
    notes.call("read-two-blocks", libc::SYS_read, &[reader, into(got.as_mut_slice()), 2 * ATOMIC as u64]);
    notes.note("in-order", got.iter().all(|&byte| byte == 5));
    notes.call("read-empty", libc::SYS_read, &[pipe(libc::O_NONBLOCK).0, into(&mut [0u8]), 1]);
}

/// Two writers send records of one letter each; a reader must never see a record of both.
fn atomic(notes: &mut Notes) {
    const RECORD: usize = 512;
    const RECORDS: usize = 300;
    let (reader, writer) = pipe(0);
    let send = |letter: u8| {
        let record = [letter; RECORD];
        (0..RECORDS).all(|_| call(libc::SYS_write, &[writer, at(&record), RECORD as u64]) == RECORD as i64)
    };
    let mut torn = 0;
    let sent = thread::scope(|scope| {
        let writers = [b'a', b'b'].map(|letter| scope.spawn(move || send(letter)));
        let mut record = [0u8; RECORD];
        for _ in 0..2 * RECORDS {
            let mut filled = 0;
            while filled < RECORD {
                filled +=
                    must(libc::SYS_read, &[reader, into(&mut record[filled..]), (RECORD - filled) as u64]) as usize;
            }
            torn += u32::from(record.iter().any(|&byte| byte != record[0]));
        }
        writers.into_iter().all(|writer| writer.join().unwrap_or(false))
    });
    notes.note("all-sent", sent);
    notes.note("torn-records", torn);
}

fn blocking(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let got = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut byte = [0u8];
            (call(libc::SYS_read, &[reader, into(&mut byte), 1]), byte[0])
        });
        thread::sleep(std::time::Duration::from_millis(20));
        must(libc::SYS_write, &[writer, at(b"z"), 1]);
        waiting.join().expect("the reader")
    });
    notes.note("reader-wakes", format!("{}-{}", answer(got.0), got.1 as char));
    let last = thread::scope(|scope| {
        let waiting = scope.spawn(|| call(libc::SYS_read, &[reader, into(&mut [0u8]), 1]));
        thread::sleep(std::time::Duration::from_millis(20));
        must(libc::SYS_close, &[writer]);
        waiting.join().expect("the reader")
    });
    notes.note("closing-wakes-reader", answer(last));
}

/// A call that waits keeps what it reads from open, whoever closes the descriptor.
fn close_under_reader(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let (written, read) = thread::scope(|scope| {
        let waiting = scope.spawn(|| call(libc::SYS_read, &[reader, into(&mut [0u8]), 1]));
        thread::sleep(std::time::Duration::from_millis(20));
        must(libc::SYS_close, &[reader]);
        let written = call(libc::SYS_write, &[writer, at(b"z"), 1]);
        (written, waiting.join().expect("the reader"))
    });
    notes.note("written", answer(written));
    notes.note("read", answer(read));
}

/// A descriptor is given one pipe after another while a thread writes to it: what was written arrives in one of them, and
/// each ends once the write is over that was under way when it was replaced.
fn replace_under_writer(notes: &mut Notes) {
    const PIPES: u32 = 2000;
    let (mut reader, target) = pipe(libc::O_NONBLOCK);
    let done = AtomicBool::new(false);
    let mut arrived = 0;
    let written = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Relaxed) {
                written += u64::from(call(libc::SYS_write, &[target, at(b"z"), 1]) == 1);
            }
            written
        });
        for _ in 0..PIPES {
            let (next, writer) = pipe(libc::O_NONBLOCK);
            must(libc::SYS_dup3, &[writer, target, 0]);
            must(libc::SYS_close, &[writer]);
            arrived += drain(reader);
            reader = next;
        }
        done.store(true, Relaxed);
        writing.join().expect("the writer")
    });
    must(libc::SYS_close, &[target]);
    notes.note("all-arrived", arrived + drain(reader) == written);
}

/// Reads from a pipe that does not wait, until its end, and closes it; says how many bytes there were.
fn drain(reader: u64) -> u64 {
    let mut chunk = [0u8; 4096];
    let mut total = 0;
    loop {
        match call(libc::SYS_read, &[reader, into(&mut chunk), chunk.len() as u64]) {
            0 => break,
            count @ 1.. => total += count as u64,
            _ => thread::yield_now(),
        }
    }
    must(libc::SYS_close, &[reader]);
    total
}

fn long_write(notes: &mut Notes) {
    const LONG: usize = 200_000;
    let (reader, writer) = pipe(0);
    let bytes: Vec<u8> = (0..LONG).map(|index| (index % 251) as u8).collect();
    let (written, good) = thread::scope(|scope| {
        let writing = scope.spawn(|| call(libc::SYS_write, &[writer, at(bytes.as_slice()), LONG as u64]));
        let mut chunk = vec![0u8; 7777];
        let (mut seen, mut good) = (0, true);
        while seen < LONG {
            let count = must(libc::SYS_read, &[reader, into(chunk.as_mut_slice()), 7777]) as usize;
            good &= chunk[..count] == bytes[seen..seen + count];
            seen += count;
        }
        (writing.join().expect("the writer"), good)
    });
    notes.note("written", answer(written));
    notes.note("content", good);
}

fn across_fork(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    let child = process::spawn(|| (call(libc::SYS_write, &[writer, at(b"from child"), 10]) != 10).into());
    must(libc::SYS_close, &[writer]);
    let mut text = [0u8; 20];
    let mut length = 0;
    // Only the child holds the writing end now, so its exit ends the reading.
    while let count @ 1.. = must(libc::SYS_read, &[reader, into(&mut text[length..]), 10]) as usize {
        length += count;
    }
    notes.note("text", String::from_utf8_lossy(&text[..length]).replace(' ', "_"));
    notes.note("child", format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
}
