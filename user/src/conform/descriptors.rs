//! Descriptors: dup, fcntl, close, lseek, read and write in one or many pieces, ioctl, ppoll.

use super::{
    Case, Notes,
    files::{EXECUTABLE, open},
    notes::{CLOSED, HERE, KERNEL, UNMAPPED, answer, at, call, into, must, pipe},
};

pub(super) const CASES: &[Case] = &[
    ("dup", dup),
    ("dup3", dup3),
    ("fcntl", fcntl),
    ("close", close),
    ("lseek", lseek),
    ("read-write", read_write),
    ("place", place),
    ("writev", writev),
    ("readv", readv),
    ("ioctl", ioctl),
    ("ppoll", ppoll),
    ("ppoll-arguments", ppoll_arguments),
];

const CLOEXEC: u64 = libc::O_CLOEXEC as u64;
const SET: u64 = 0;
const CURRENT: u64 = 1;
const END: u64 = 2;

fn flags(descriptor: u64) -> String {
    answer(call(libc::SYS_fcntl, &[descriptor, libc::F_GETFD as u64]))
}

fn dup(notes: &mut Notes) {
    let file = open(EXECUTABLE);
    must(libc::SYS_lseek, &[file, 100, SET]);
    let copy = must(libc::SYS_dup, &[file]);
    notes.note("takes-the-lowest", copy == file + 1);
    notes.call("shares-the-offset", libc::SYS_lseek, &[copy, 0, CURRENT]);
    must(libc::SYS_close, &[file]);
    notes.note("lowest-again", must(libc::SYS_dup, &[copy]) == file);
    notes.call("closed", libc::SYS_dup, &[CLOSED]);
    notes.call("negative", libc::SYS_dup, &[-1i64 as u64]);
}

fn dup3(notes: &mut Notes) {
    let file = open(EXECUTABLE);
    notes.call("to-100", libc::SYS_dup3, &[file, 100, 0]);
    notes.note("flags", flags(100));
    notes.call("to-100-close-on-exec", libc::SYS_dup3, &[file, 100, CLOEXEC]);
    notes.note("flags-close-on-exec", flags(100));
    notes.call("to-itself", libc::SYS_dup3, &[file, file, 0]);
    notes.call("bad-flags", libc::SYS_dup3, &[file, 101, 1]);
    notes.call("from-closed", libc::SYS_dup3, &[CLOSED, 101, 0]);
    notes.call("to-beyond-the-limit", libc::SYS_dup3, &[file, 1 << 30, 0]);
    notes.call("to-negative", libc::SYS_dup3, &[file, -1i64 as u64, 0]);
    let (reader, writer) = pipe(0);
    must(libc::SYS_dup3, &[file, writer, 0]);
    notes.call("closes-what-was-there", libc::SYS_read, &[reader, into(&mut [0u8]), 1]);
}

fn fcntl(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    notes.note("new-pipe", flags(reader));
    notes.call("set-close-on-exec", libc::SYS_fcntl, &[reader, libc::F_SETFD as u64, 1]);
    notes.note("close-on-exec", flags(reader));
    notes.call("get-status", libc::SYS_fcntl, &[writer, libc::F_GETFL as u64]);
    notes.call("set-nonblocking", libc::SYS_fcntl, &[reader, libc::F_SETFL as u64, libc::O_NONBLOCK as u64]);
    notes.call("get-nonblocking", libc::SYS_fcntl, &[reader, libc::F_GETFL as u64]);
    notes.call("read-nonblocking", libc::SYS_read, &[reader, into(&mut [0u8]), 1]);
    notes.call("duplicate-from-100", libc::SYS_fcntl, &[reader, libc::F_DUPFD as u64, 100]);
    notes.call("duplicate-again", libc::SYS_fcntl, &[reader, libc::F_DUPFD_CLOEXEC as u64, 100]);
    notes.note("duplicate-flags", flags(101));
    notes.call("duplicate-beyond-the-limit", libc::SYS_fcntl, &[reader, libc::F_DUPFD as u64, 1 << 30]);
    notes.call("bad-command", libc::SYS_fcntl, &[reader, 9999, 0]);
    notes.note("closed", flags(CLOSED));
}

fn close(notes: &mut Notes) {
    let file = open(EXECUTABLE);
    notes.call("call", libc::SYS_close, &[file]);
    notes.call("twice", libc::SYS_close, &[file]);
    notes.call("negative", libc::SYS_close, &[-1i64 as u64]);
}

fn lseek(notes: &mut Notes) {
    let file = open(EXECUTABLE);
    let mut magic = [0u8; 4];
    notes.call("read", libc::SYS_read, &[file, into(&mut magic), 4]);
    notes.note("elf", magic == *b"\x7fELF");
    notes.call("current", libc::SYS_lseek, &[file, 0, CURRENT]);
    notes.call("back", libc::SYS_lseek, &[file, -3i64 as u64, CURRENT]);
    notes.call("read-again", libc::SYS_read, &[file, into(&mut magic), 3]);
    notes.note("letters", magic[..3] == *b"ELF");
    let end = must(libc::SYS_lseek, &[file, 0, END]);
    notes.call("read-at-end", libc::SYS_read, &[file, into(&mut magic), 4]);
    must(libc::SYS_lseek, &[file, end - 2, SET]);
    notes.call("read-near-end", libc::SYS_read, &[file, into(&mut magic), 4]);
    notes.note("beyond-end", must(libc::SYS_lseek, &[file, 10, END]) == end + 10);
    notes.call("read-beyond-end", libc::SYS_read, &[file, into(&mut magic), 4]);
    notes.call("negative", libc::SYS_lseek, &[file, -1i64 as u64, SET]);
    notes.call("bad-whence", libc::SYS_lseek, &[file, 0, 9]);
    notes.call("pipe", libc::SYS_lseek, &[pipe(0).0, 0, SET]);
    notes.call("pipe-to-a-hole", libc::SYS_lseek, &[pipe(0).0, 0, libc::SEEK_HOLE as u64]);
    notes.call("pipe-bad-whence", libc::SYS_lseek, &[pipe(0).0, 0, 5]);
    notes.call("closed", libc::SYS_lseek, &[CLOSED, 0, SET]);
}

fn read_write(notes: &mut Notes) {
    let mut byte = [0u8];
    notes.call("read-closed", libc::SYS_read, &[CLOSED, into(&mut byte), 1]);
    notes.call("write-closed", libc::SYS_write, &[CLOSED, at(&byte), 1]);
    notes.call("read-negative", libc::SYS_read, &[-1i64 as u64, into(&mut byte), 1]);
    notes.call("write-read-only-file", libc::SYS_write, &[open(EXECUTABLE), at(&byte), 1]);
    notes.call("read-directory", libc::SYS_read, &[open(b"/\0"), into(&mut byte), 1]);
    notes.call("read-no-bytes", libc::SYS_read, &[open(EXECUTABLE), into(&mut byte), 0]);
    notes.call("read-file-kernel-pointer", libc::SYS_read, &[open(EXECUTABLE), KERNEL, 8]);
    notes.call("read-file-unmapped", libc::SYS_read, &[open(EXECUTABLE), UNMAPPED, 8]);
}

/// Reads and writes that say where.
fn place(notes: &mut Notes) {
    const LAST: u64 = i64::MAX as u64;
    let mut bytes = [0u8; 4];
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    let file = open(EXECUTABLE);
    let flags = libc::O_CREAT | libc::O_RDWR;
    let _ = call(libc::SYS_mkdirat, &[HERE, at(b"/tmp\0"), 0o777]);
    let new = must(libc::SYS_openat, &[HERE, at(b"/tmp/conform-place\0"), flags as u64, 0o600]);
    notes.call("read-pipe", libc::SYS_pread64, &[reader, into(&mut bytes), 4, 0]);
    notes.call("read-write-end", libc::SYS_pread64, &[writer, into(&mut bytes), 4, 0]);
    notes.call("write-read-end", libc::SYS_pwrite64, &[reader, at(&bytes), 4, 0]);
    notes.call("write-read-only", libc::SYS_pwrite64, &[file, at(&bytes), 4, 0]);
    notes.call("write-read-only-too-far", libc::SYS_pwrite64, &[file, at(&bytes), 4, LAST]);
    notes.call("negative", libc::SYS_pread64, &[CLOSED, into(&mut bytes), 4, !0]);
    notes.call("read", libc::SYS_pread64, &[file, into(&mut bytes), 4, 0]);
    notes.call("read-up-to-the-last", libc::SYS_pread64, &[file, into(&mut bytes), 4, LAST - 4]);
    notes.call("read-too-far", libc::SYS_pread64, &[file, into(&mut bytes), 4, LAST - 3]);
    notes.call("read-nothing-at-the-last", libc::SYS_pread64, &[file, into(&mut bytes), 0, LAST]);
    notes.call("write-too-far", libc::SYS_pwrite64, &[new, at(&bytes), 4, LAST - 3]);
    notes.call("write", libc::SYS_pwrite64, &[new, at(&bytes), 4, 2]);
    notes.call("ends-at", libc::SYS_lseek, &[new, 0, END]);
    must(libc::SYS_unlinkat, &[HERE, at(b"/tmp/conform-place\0"), 0]);
}

fn piece(base: u64, length: u64) -> [u64; 2] {
    [base, length]
}

fn writev(notes: &mut Notes) {
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    let text = b"onetwothree";
    let pieces = [piece(at(text), 3), piece(0, 0), piece(at(text) + 6, 5)];
    notes.call("three-pieces", libc::SYS_writev, &[writer, at(&pieces), 3]);
    let mut got = [0u8; 16];
    let length = must(libc::SYS_read, &[reader, into(&mut got), 16]) as usize;
    notes.note("joined", String::from_utf8_lossy(&got[..length]));
    notes.call("no-pieces", libc::SYS_writev, &[writer, at(&pieces), 0]);
    notes.call("too-many-pieces", libc::SYS_writev, &[writer, at(&pieces), 1025]);
    notes.call("negative-count", libc::SYS_writev, &[writer, at(&pieces), -1i64 as u64]);
    notes.call("kernel-vector", libc::SYS_writev, &[writer, KERNEL, 1]);
    notes.call("unmapped-vector", libc::SYS_writev, &[writer, UNMAPPED, 1]);
    notes.call("kernel-piece", libc::SYS_writev, &[writer, at(&[piece(KERNEL, 3)]), 1]);
    notes.call("negative-piece", libc::SYS_writev, &[writer, at(&[piece(at(text), !0)]), 1]);
    notes.call("closed", libc::SYS_writev, &[CLOSED, at(&pieces), 3]);
}

fn readv(notes: &mut Notes) {
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    let (mut first, mut second) = ([0u8; 4], [0u8; 8]);
    let pieces = [piece(into(&mut first), 4), piece(into(&mut second), 8)];
    notes.call("empty", libc::SYS_readv, &[reader, at(&pieces), 2]);
    must(libc::SYS_write, &[writer, at(b"abcdefg"), 7]);
    notes.call("two-pieces", libc::SYS_readv, &[reader, at(&pieces), 2]);
    notes.note("first", String::from_utf8_lossy(&first));
    notes.note("second", String::from_utf8_lossy(&second[..3]));
    must(libc::SYS_write, &[writer, at(b"abcdefg"), 7]);
    notes.call("unmapped-piece", libc::SYS_readv, &[reader, at(&[piece(UNMAPPED, 3)]), 1]);
    notes.call("kernel-vector", libc::SYS_readv, &[reader, KERNEL, 2]);
    notes.call("write-end", libc::SYS_readv, &[writer, at(&pieces), 2]);
}

fn ioctl(notes: &mut Notes) {
    let mut size = [0u16; 4];
    let ask = libc::TIOCGWINSZ as u64;
    notes.call("window-of-pipe", libc::SYS_ioctl, &[pipe(0).0, ask, into(&mut size)]);
    notes.call("window-of-file", libc::SYS_ioctl, &[open(EXECUTABLE), ask, into(&mut size)]);
    notes.call("window-of-null", libc::SYS_ioctl, &[open(b"/dev/null\0"), ask, into(&mut size)]);
    notes.call("window-of-closed", libc::SYS_ioctl, &[CLOSED, ask, into(&mut size)]);
}

fn poll_one(descriptor: u64, events: i16, milliseconds: i64) -> String {
    let mut wanted = libc::pollfd { fd: descriptor as i32, events, revents: 0 };
    let time = [0i64, milliseconds * 1_000_000];
    let count = call(libc::SYS_ppoll, &[into(&mut wanted), 1, at(&time), 0, 8]);
    format!("{}-{:#x}", answer(count), wanted.revents)
}

fn ppoll(notes: &mut Notes) {
    let (reader, writer) = pipe(0);
    notes.note("empty-pipe", poll_one(reader, libc::POLLIN, 0));
    notes.note("empty-pipe-times-out", poll_one(reader, libc::POLLIN, 20));
    notes.note("room-to-write", poll_one(writer, libc::POLLOUT, 900));
    must(libc::SYS_write, &[writer, at(b"x"), 1]);
    notes.note("something-to-read", poll_one(reader, libc::POLLIN, 900));
    notes.note("nothing-wanted", poll_one(reader, 0, 0));
    notes.note("file", poll_one(open(EXECUTABLE), libc::POLLIN | libc::POLLOUT, 900));
    must(libc::SYS_close, &[writer]);
    notes.note("writer-gone", poll_one(reader, libc::POLLIN, 900));
    must(libc::SYS_read, &[reader, into(&mut [0u8; 8]), 8]);
    notes.note("writer-gone-and-empty", poll_one(reader, libc::POLLIN, 900));
    let (reader, writer) = pipe(0);
    must(libc::SYS_close, &[reader]);
    notes.note("reader-gone", poll_one(writer, libc::POLLOUT, 900));
    notes.note("closed", poll_one(CLOSED, libc::POLLIN, 900));
    notes.note("negative-is-ignored", poll_one(-1i64 as u64, libc::POLLIN, 0));
}

fn ppoll_arguments(notes: &mut Notes) {
    let mut wanted = libc::pollfd { fd: 0, events: 0, revents: 0 };
    let zero = [0i64, 0];
    notes.call("nobody", libc::SYS_ppoll, &[0, 0, at(&zero), 0, 8]);
    notes.call("too-many", libc::SYS_ppoll, &[into(&mut wanted), 1 << 30, at(&zero), 0, 8]);
    notes.call("kernel-pointer", libc::SYS_ppoll, &[KERNEL, 1, at(&zero), 0, 8]);
    notes.call("bad-time", libc::SYS_ppoll, &[into(&mut wanted), 1, at(&[0i64, 1_000_000_000]), 0, 8]);
    notes.call("negative-time", libc::SYS_ppoll, &[into(&mut wanted), 1, at(&[-1i64, 0]), 0, 8]);
    notes.call("time-from-kernel-pointer", libc::SYS_ppoll, &[into(&mut wanted), 1, KERNEL, 0, 8]);
    notes.call("bad-mask-size", libc::SYS_ppoll, &[into(&mut wanted), 1, at(&zero), at(&[0u64]), 4]);
}
