//! What parent and child share after a fork, and what they do not; user memory as the kernel sees it.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{
    Case, Notes,
    notes::{KERNEL, PageEnd, UNMAPPED, answer, at, call, into, must, pipe},
};
use crate::sys::{
    memory::{Mapping, PAGE, SharedPage},
    process,
};

pub(super) const CASES: &[Case] = &[
    ("private", private),
    ("shared", shared),
    ("grandchild", grandchild),
    ("kernel-breaks-copy", kernel_breaks_copy),
    ("read-into", read_into),
    ("write-from", write_from),
];

fn peek(mapping: &Mapping, offset: usize) -> u8 {
    assert!(offset < mapping.length());
    // SAFETY: inside a readable mapping, as just checked.
    unsafe { mapping.start().add(offset).read_volatile() }
}

fn poke(mapping: &Mapping, offset: usize, value: u8) {
    assert!(offset < mapping.length());
    // SAFETY: inside a writable mapping, as just checked.
    unsafe { mapping.start().add(offset).write_volatile(value) };
}

fn child_says(body: impl FnOnce() -> u8) -> String {
    let child = process::spawn(|| body().into()).expect("a child");
    format!("{:?}", process::wait(child).expect("the child").1)
}

fn private(notes: &mut Notes) {
    let memory = Mapping::private(4 * PAGE).expect("memory");
    poke(&memory, 0, 1);
    let (ready, done) = (pipe(0), pipe(0));
    let mut byte = [0u8];
    let child = process::spawn(|| {
        poke(&memory, PAGE, 9);
        must(libc::SYS_write, &[ready.1, at(&[1u8]), 1]);
        must(libc::SYS_read, &[done.0, into(&mut byte), 1]);
        i32::from(peek(&memory, 0)) * 10 + i32::from(peek(&memory, PAGE))
    });
    let child = child.expect("a child");
    must(libc::SYS_read, &[ready.0, into(&mut byte), 1]);
    poke(&memory, 0, 5);
    must(libc::SYS_write, &[done.1, at(&byte), 1]);
    notes.note("child-keeps-1-and-has-9", format!("{:?}", process::wait(child).expect("the child").1));
    notes.note("parent-has-5", peek(&memory, 0));
    notes.note("parent-keeps-0", peek(&memory, PAGE));
    notes.note("read-only-after-fork", child_says(|| memory.protect(libc::PROT_READ).map_or(99, |()| 0)));
    poke(&memory, 2 * PAGE, 3);
    notes.note("parent-still-writes", peek(&memory, 2 * PAGE));
}

fn shared(notes: &mut Notes) {
    let page = SharedPage::new().expect("a page");
    page[0].store(1, SeqCst);
    notes.note("child-sees-parent", child_says(|| page[0].load(SeqCst) as u8));
    child_says(|| page[1].swap(7, SeqCst) as u8);
    notes.note("parent-sees-child", page[1].load(SeqCst));
    let add = |word: &AtomicU32| {
        for _ in 0..1000 {
            word.fetch_add(1, SeqCst);
        }
    };
    let children: Vec<_> = (0..4)
        .map(|_| {
            process::spawn(|| {
                add(&page[2]);
                0
            })
            .expect("a child")
        })
        .collect();
    children.into_iter().for_each(|child| drop(process::wait(child)));
    notes.note("four-children-add", page[2].load(SeqCst));
}

fn grandchild(notes: &mut Notes) {
    let memory = Mapping::private(PAGE).expect("memory");
    poke(&memory, 0, 1);
    let seen = child_says(|| {
        poke(&memory, 0, 2);
        let inner = child_says(|| {
            poke(&memory, 1, 3);
            peek(&memory, 0) * 10 + peek(&memory, 1)
        });
        if inner == "Exited(23)" { peek(&memory, 0) * 10 + peek(&memory, 1) } else { 99 }
    });
    notes.note("child-keeps-its-own", seen);
    notes.note("parent-keeps-its-own", peek(&memory, 0) * 10 + peek(&memory, 1));
}

/// A copy to the user must break a shared page as a store by the user does.
fn kernel_breaks_copy(notes: &mut Notes) {
    let memory = Mapping::private(PAGE).expect("memory");
    poke(&memory, 0, 1);
    let (reader, writer) = pipe(0);
    must(libc::SYS_write, &[writer, at(&[8u8]), 1]);
    let seen = child_says(|| {
        must(libc::SYS_read, &[reader, memory.start() as u64, 1]);
        peek(&memory, 0)
    });
    notes.note("child-reads", seen);
    notes.note("parent-keeps", peek(&memory, 0));
    let untouched = Mapping::private(PAGE).expect("memory");
    must(libc::SYS_write, &[writer, untouched.start() as u64, 4]);
    must(libc::SYS_read, &[reader, untouched.start() as u64 + 8, 4]);
    notes.note("untouched-page-is-zero", peek(&untouched, 8));
}

fn fill(writer: u64, bytes: usize) {
    must(libc::SYS_write, &[writer, at(vec![1u8; bytes].as_slice()), bytes as u64]);
}

fn read_into(notes: &mut Notes) {
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    fill(writer, 100);
    notes.call("kernel-half", libc::SYS_read, &[reader, KERNEL, 10]);
    notes.call("null", libc::SYS_read, &[reader, 0, 10]);
    notes.call("unmapped", libc::SYS_read, &[reader, UNMAPPED, 10]);
    let read_only = Mapping::private(PAGE).expect("memory");
    read_only.protect(libc::PROT_READ).expect("read-only");
    notes.call("read-only", libc::SYS_read, &[reader, read_only.start() as u64, 10]);
    notes.call("length-overflows", libc::SYS_read, &[reader, UNMAPPED, !0]);
    let end = PageEnd::new();
    notes.call("up-to-page-end", libc::SYS_read, &[reader, end.before_end(10), 10]);
    notes.call("across-page-end", libc::SYS_read, &[reader, end.before_end(10), 20]);
    let mut rest = [0u8; 200];
    notes.note("something-is-left", call(libc::SYS_read, &[reader, into(&mut rest), 200]) > 0);
}

fn write_from(notes: &mut Notes) {
    let (_reader, writer) = pipe(libc::O_NONBLOCK);
    notes.call("kernel-half", libc::SYS_write, &[writer, KERNEL, 10]);
    notes.call("null", libc::SYS_write, &[writer, 0, 10]);
    notes.call("null-no-bytes", libc::SYS_write, &[writer, 0, 0]);
    notes.call("none", libc::SYS_write, &[writer, PageEnd::new().before_end(0), 1]);
    let end = PageEnd::new();
    notes.call("up-to-page-end", libc::SYS_write, &[writer, end.before_end(10), 10]);
    notes.note("across-page-end", answer(call(libc::SYS_write, &[writer, end.before_end(10), 20])));
}
