//! Futexes: wait, wake, requeue, bit sets and time-outs.

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::{
    Case, Notes,
    notes::{KERNEL, UNMAPPED, answer, at, call, must},
};
use crate::sys::{
    memory::{Mapping, SharedPage},
    process,
};

pub(super) const CASES: &[Case] = &[
    ("wait", wait),
    ("wait-arguments", wait_arguments),
    ("timeout", timeout),
    ("wake", wake),
    ("wake-arguments", wake_arguments),
    ("requeue", requeue),
    ("bitset", bitset),
    ("processes", processes),
    ("copied-page", copied_page),
    ("unmapped-page", unmapped_page),
];

const PRIVATE: u64 = libc::FUTEX_PRIVATE_FLAG as u64;
const WAIT: u64 = libc::FUTEX_WAIT as u64 | PRIVATE;
const WAKE: u64 = libc::FUTEX_WAKE as u64 | PRIVATE;
const REQUEUE: u64 = libc::FUTEX_REQUEUE as u64 | PRIVATE;
const CMP_REQUEUE: u64 = libc::FUTEX_CMP_REQUEUE as u64 | PRIVATE;
const WAIT_BITSET: u64 = libc::FUTEX_WAIT_BITSET as u64 | PRIVATE;
const WAKE_BITSET: u64 = libc::FUTEX_WAKE_BITSET as u64 | PRIVATE;
const MANY: u64 = i32::MAX as u64;

fn futex(word: &AtomicU32, operation: u64, value: u64, rest: &[u64]) -> i64 {
    call(libc::SYS_futex, &[&[at(word), operation, value], rest].concat())
}

/// Starts `count` waiters on `word` and runs `body` when all of them sleep. Gives the answers of the waiters.
///
/// That they sleep cannot be seen from outside: each tells that it is about to, and then gets plenty of time.
fn with_waiters(count: u32, waiter: impl Fn(u32) -> i64 + Sync, body: impl FnOnce()) -> String {
    let about_to = AtomicU32::new(0);
    thread::scope(|scope| {
        let waiter = &waiter;
        let about_to = &about_to;
        let start = |number| {
            scope.spawn(move || {
                about_to.fetch_add(1, SeqCst);
                waiter(number)
            })
        };
        let waiters: Vec<_> = (0..count).map(start).collect();
        while about_to.load(SeqCst) < count {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(200));
        body();
        let answers = waiters.into_iter().map(|waiter| answer(waiter.join().expect("a waiter")));
        answers.collect::<Vec<_>>().join(",")
    })
}

fn wait(notes: &mut Notes) {
    let word = AtomicU32::new(5);
    notes.note("other-value", answer(futex(&word, WAIT, 6, &[])));
    notes.note("other-value-with-timeout", answer(futex(&word, WAIT, 6, &[at(&[9i64, 0])])));
    let answers = with_waiters(1, |_| futex(&word, WAIT, 5, &[]), || assert_eq!(futex(&word, WAKE, 1, &[]), 1));
    notes.note("woken", answers);
}

fn wait_arguments(notes: &mut Notes) {
    let word = AtomicU32::new(0);
    let address = at(&word);
    let zero = [0i64, 0];
    notes.call("unaligned", libc::SYS_futex, &[address + 1, WAIT, 0, at(&zero)]);
    notes.call("kernel-pointer", libc::SYS_futex, &[KERNEL, WAIT, 0, at(&zero)]);
    notes.call("null", libc::SYS_futex, &[0, WAIT, 0, at(&zero)]);
    notes.call("unmapped", libc::SYS_futex, &[UNMAPPED, WAIT, 0, at(&zero)]);
    notes.call("unmapped-shared", libc::SYS_futex, &[UNMAPPED, libc::FUTEX_WAIT as u64, 0, at(&zero)]);
    notes.call("time-from-kernel-pointer", libc::SYS_futex, &[address, WAIT, 0, KERNEL]);
    notes.call("too-many-nanoseconds", libc::SYS_futex, &[address, WAIT, 0, at(&[0i64, 1_000_000_000])]);
    notes.call("negative-seconds", libc::SYS_futex, &[address, WAIT, 0, at(&[-1i64, 0])]);
    notes.call("unknown-operation", libc::SYS_futex, &[address, 77, 0, 0]);
    notes.call("empty-bitset", libc::SYS_futex, &[address, WAIT_BITSET, 0, at(&zero), 0, 0]);
}

fn timeout(notes: &mut Notes) {
    let word = AtomicU32::new(0);
    notes.note("zero", answer(futex(&word, WAIT, 0, &[at(&[0i64, 0])])));
    let start = Instant::now();
    notes.note("30-ms", answer(futex(&word, WAIT, 0, &[at(&[0i64, 30_000_000])])));
    notes.note("not-too-early", start.elapsed() >= Duration::from_millis(30));
    notes.note("bitset-in-the-past", answer(futex(&word, WAIT_BITSET, 0, &[at(&[0i64, 1]), 0, MANY])));
    let mut now = [0i64; 2];
    must(libc::SYS_clock_gettime, &[libc::CLOCK_MONOTONIC as u64, super::notes::into(&mut now)]);
    let soon = [now[0] + 1, now[1]];
    let start = Instant::now();
    notes.note("bitset-until-a-moment", answer(futex(&word, WAIT_BITSET, 0, &[at(&soon), 0, MANY])));
    notes.note("moment-is-absolute", (900..30_000).contains(&start.elapsed().as_millis()));
    let realtime = WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME as u64;
    notes.note("realtime-in-the-past", answer(futex(&word, realtime, 0, &[at(&[0i64, 1]), 0, MANY])));
}

fn wake(notes: &mut Notes) {
    let word = AtomicU32::new(0);
    notes.note("nobody", answer(futex(&word, WAKE, 1, &[])));
    let mut woken = Vec::new();
    let answers = with_waiters(
        3,
        |_| futex(&word, WAIT, 0, &[]),
        || woken = [2, 5, 1].map(|count| futex(&word, WAKE, count, &[])).to_vec(),
    );
    notes.note("counts-for-2-5-1-of-three", format!("{woken:?}").replace(' ', ""));
    notes.note("waiters", answers);
}

fn wake_arguments(notes: &mut Notes) {
    let word = AtomicU32::new(0);
    notes.call("unaligned", libc::SYS_futex, &[at(&word) + 2, WAKE, 1]);
    notes.call("kernel-pointer", libc::SYS_futex, &[KERNEL, WAKE, 1]);
    notes.call("unmapped-private", libc::SYS_futex, &[UNMAPPED & !3, WAKE, 1]);
    notes.call("empty-bitset", libc::SYS_futex, &[at(&word), WAKE_BITSET, 1, 0, 0, 0]);
    notes.call("requeue-unaligned-target", libc::SYS_futex, &[at(&word), REQUEUE, 1, 1, at(&word) + 1]);
    notes.call("requeue-negative-wakes", libc::SYS_futex, &[at(&word), REQUEUE, -1i32 as u64, 1, at(&word)]);
}

fn requeue(notes: &mut Notes) {
    let (first, second) = (AtomicU32::new(3), AtomicU32::new(0));
    notes.note("compare-fails", answer(futex(&first, CMP_REQUEUE, 1, &[MANY, at(&second), 4])));
    let mut steps = Vec::new();
    let answers = with_waiters(
        4,
        |_| futex(&first, WAIT, 3, &[]),
        || {
            steps.push(futex(&first, CMP_REQUEUE, 1, &[2, at(&second), 3]));
            steps.push(futex(&second, WAKE, MANY, &[]));
            steps.push(futex(&first, WAKE, MANY, &[]));
        },
    );
    notes.note("wake-1-move-2-of-four", format!("{steps:?}").replace(' ', ""));
    notes.note("waiters", answers);
    let mut steps = Vec::new();
    with_waiters(
        3,
        |_| futex(&first, WAIT, 3, &[]),
        || {
            steps.push(futex(&first, REQUEUE, 0, &[MANY, at(&second)]));
            steps.push(futex(&first, WAKE, MANY, &[]));
            steps.push(futex(&second, WAKE, MANY, &[]));
        },
    );
    notes.note("move-all", format!("{steps:?}").replace(' ', ""));
}

fn bitset(notes: &mut Notes) {
    let word = AtomicU32::new(0);
    let mut steps = Vec::new();
    let answers = with_waiters(
        2,
        |number| futex(&word, WAIT_BITSET, 0, &[0, 0, 1 << number]),
        || {
            for bits in [4, 2, 2, 3] {
                steps.push(futex(&word, WAKE_BITSET, MANY, &[0, 0, bits]));
            }
        },
    );
    notes.note("wakes-for-4-2-2-3", format!("{steps:?}").replace(' ', ""));
    notes.note("waiters", answers);
    let mut woken = 0;
    with_waiters(1, |_| futex(&word, WAIT_BITSET, 0, &[0, 0, 1 << 7]), || woken = futex(&word, WAKE, 1, &[]));
    notes.note("plain-wake-matches-all", woken);
}

/// Without the private flag, a futex is a place in a shared page, whoever maps it.
fn processes(notes: &mut Notes) {
    let page = SharedPage::new().expect("a page");
    let child = process::spawn(|| {
        let result = futex(&page[0], libc::FUTEX_WAIT as u64, 0, &[at(&[20i64, 0])]);
        i32::from(result == 0)
    });
    thread::sleep(Duration::from_millis(100));
    let mut woken = 0;
    for _ in 0..1000 {
        woken = futex(&page[0], libc::FUTEX_WAKE as u64, 1, &[]);
        if woken != 0 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    notes.note("woken", woken);
    notes.note("child", format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
}

/// After a fork, parent and child have the same address but not the same futex.
fn copied_page(notes: &mut Notes) {
    let memory = Mapping::private(4096).expect("memory");
    memory.touch(0);
    // SAFETY: an aligned word in a mapping that lives to the end of the function.
    let word = unsafe { &*memory.start().cast::<AtomicU32>() };
    word.store(0, SeqCst);
    let child = process::spawn(|| {
        let result = futex(word, libc::FUTEX_WAIT as u64, 0, &[at(&[0i64, 300_000_000])]);
        i32::from(result == -i64::from(libc::ETIMEDOUT))
    });
    thread::sleep(Duration::from_millis(100));
    notes.note("wake", answer(futex(word, libc::FUTEX_WAKE as u64, 1, &[])));
    notes.note("child-times-out", format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
}

/// A waiter's page is unmapped and the next page is shared: perhaps in the same frame, but it is another futex.
fn unmapped_page(notes: &mut Notes) {
    let old = SharedPage::new().expect("a page");
    let word = at(&old[0]);
    let mut wake = String::new();
    let wait = |_| call(libc::SYS_futex, &[word, libc::FUTEX_WAIT as u64, 0, at(&[0i64, 600_000_000])]);
    let waiter = with_waiters(1, wait, || {
        drop(old);
        let pages = [const { SharedPage::new }; 8].map(|new| new().expect("a page"));
        wake = pages.each_ref().map(|new| answer(futex(&new[0], libc::FUTEX_WAKE as u64, 1, &[]))).join(",");
    });
    notes.note("wakes-on-new-pages", wake);
    notes.note("waiter", waiter);
}
