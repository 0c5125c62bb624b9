//! The signal frame: alternate stacks, and registers that a handler must not disturb.

use std::{
    arch::{asm, naked_asm},
    mem, ptr,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use super::{
    Case, Notes,
    notes::{KERNEL, answer, at, call, into, must},
};
use crate::{
    probe::{self, describe, handle},
    sys::memory::Mapping,
};

pub(super) const CASES: &[Case] = &[
    ("alternate", alternate),
    ("alternate-arguments", alternate_arguments),
    ("registers", registers),
    ("change-context", change_context),
    ("overflow", overflow),
];

const SIZE: usize = 64 * 1024;

// Written by the handler, read by the thread that it interrupted.
static STACK_POINTER: AtomicU64 = AtomicU64::new(0);
static ANSWER: AtomicI64 = AtomicI64::new(0);

extern "C" fn where_am_i(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0u8;
    STACK_POINTER.store(at(&here), Relaxed);
    let disable = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    ANSWER.store(call(libc::SYS_sigaltstack, &[at(&disable), 0]), Relaxed);
}

fn set_stack(memory: &Mapping) -> i64 {
    let stack = libc::stack_t { ss_sp: memory.start().cast(), ss_flags: 0, ss_size: memory.length() };
    call(libc::SYS_sigaltstack, &[at(&stack), 0])
}

fn on_it(memory: &Mapping) -> bool {
    let start = memory.start() as u64;
    (start..start + memory.length() as u64).contains(&STACK_POINTER.load(Relaxed))
}

fn raise(signal: i32) {
    must(libc::SYS_tkill, &[must(libc::SYS_gettid, &[]), signal as u64]);
}

fn alternate(notes: &mut Notes) {
    let memory = Mapping::private(SIZE).expect("a stack");
    notes.note("set", answer(set_stack(&memory)));
    handle(libc::SIGUSR1, 0, where_am_i);
    raise(libc::SIGUSR1);
    notes.note("not-without-onstack", on_it(&memory));
    notes.note("set-again", answer(set_stack(&memory)));
    handle(libc::SIGUSR1, libc::SA_ONSTACK, where_am_i);
    raise(libc::SIGUSR1);
    notes.note("with-onstack", on_it(&memory));
    notes.note("change-while-on-it", answer(ANSWER.load(Relaxed)));
    // SAFETY: plain data, for which all zeroes is a value.
    let mut old: libc::stack_t = unsafe { mem::zeroed() };
    notes.call("ask", libc::SYS_sigaltstack, &[0, into(&mut old)]);
    notes.note("same-stack", old.ss_sp == memory.start().cast() && old.ss_size == SIZE);
    notes.note("not-in-use", old.ss_flags);
}

fn alternate_arguments(notes: &mut Notes) {
    let memory = Mapping::private(SIZE).expect("a stack");
    let small = libc::stack_t { ss_sp: memory.start().cast(), ss_flags: 0, ss_size: 1000 };
    notes.call("too-small", libc::SYS_sigaltstack, &[at(&small), 0]);
    let odd = libc::stack_t { ss_sp: memory.start().cast(), ss_flags: 77, ss_size: SIZE };
    notes.call("bad-flags", libc::SYS_sigaltstack, &[at(&odd), 0]);
    notes.call("kernel-pointer", libc::SYS_sigaltstack, &[KERNEL, 0]);
    notes.call("old-to-kernel-pointer", libc::SYS_sigaltstack, &[0, KERNEL]);
    let disable = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    notes.call("disable", libc::SYS_sigaltstack, &[at(&disable), 0]);
}

/// Overwrites what a C function may overwrite, and the flags.
extern "C" fn clobber(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: only registers, each of them declared.
    unsafe {
        asm!(
            "mov x0, #-1",
            "mov x1, x0",
            "mov x2, x0",
            "mov x3, x0",
            "mov x9, x0",
            "mov x15, x0",
            "mov x17, x0",
            "movi v0.16b, #0xff",
            "movi v7.16b, #0xff",
            "movi v16.16b, #0xff",
            "movi v31.16b, #0xff",
            "msr fpsr, xzr",
            "subs xzr, x0, x0",
            clobber_abi("C"),
            options(nostack)
        );
    }
}

/// Fills registers and flags, sends itself a signal, and counts the registers that came back changed.
///
/// x0: process, x1: thread, x2: signal. Gives the number of differences.
#[unsafe(naked)]
extern "C" fn survive(_process: u64, _thread: u64, _signal: u64) -> u64 {
    naked_asm!(
        "sub sp, sp, #64",
        "stp d8, d9, [sp]",
        "mov x8, #131", // tgkill
        "mov x9, #9",
        "mov x15, #15",
        "mov x17, #17",
        "movi v0.16b, #1",
        "movi v7.16b, #7",
        "movi v8.16b, #8",
        "movi v16.16b, #16",
        "movi v31.16b, #31",
        "mov x10, #0x08000000", // FPSR: QC
        "orr x10, x10, #1",     // and IOC
        "msr fpsr, x10",
        "mov x11, #0xa0000000", // N and C
        "msr nzcv, x11",
        "svc #0",
        "mrs x12, nzcv",
        "mrs x13, fpsr",
        "cmp x12, x11",
        "cset x0, ne",
        "cmp x13, x10",
        "cinc x0, x0, ne",
        "cmp x9, #9",
        "cinc x0, x0, ne",
        "cmp x15, #15",
        "cinc x0, x0, ne",
        "cmp x17, #17",
        "cinc x0, x0, ne",
        "movi v1.16b, #1",
        "cmeq v1.16b, v1.16b, v0.16b",
        "movi v2.16b, #7",
        "cmeq v2.16b, v2.16b, v7.16b",
        "and v1.16b, v1.16b, v2.16b",
        "movi v2.16b, #8",
        "cmeq v2.16b, v2.16b, v8.16b",
        "and v1.16b, v1.16b, v2.16b",
        "movi v2.16b, #16",
        "cmeq v2.16b, v2.16b, v16.16b",
        "and v1.16b, v1.16b, v2.16b",
        "movi v2.16b, #31",
        "cmeq v2.16b, v2.16b, v31.16b",
        "and v1.16b, v1.16b, v2.16b",
        "uminv b1, v1.16b",
        "umov w14, v1.b[0]",
        "cmp w14, #0xff",
        "cinc x0, x0, ne",
        "ldp d8, d9, [sp]",
        "add sp, sp, #64",
        "ret",
    )
}

fn registers(notes: &mut Notes) {
    handle(libc::SIGUSR1, 0, clobber);
    let (process, thread) = (must(libc::SYS_getpid, &[]), must(libc::SYS_gettid, &[]));
    notes.note("changed-by-handler", survive(process, thread, libc::SIGUSR1 as u64));
}

/// The faulting instruction is skipped by a handler that moves the program counter: this is how the probes work.
fn change_context(notes: &mut Notes) {
    let before = must(libc::SYS_getpid, &[]);
    notes.note("fault", describe(probe::load(0)));
    notes.note("life-goes-on", must(libc::SYS_getpid, &[]) == before);
}

extern "C" fn leave(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo that lives until the handler returns.
    let near_the_stack = unsafe { (*info).si_addr() as u64 }.abs_diff(STACK_POINTER.load(Relaxed)) < 64 << 20;
    crate::sys::process::exit_now(if near_the_stack { 42 } else { 43 });
}

#[expect(unconditional_recursion, reason = "running out of stack is the point")]
fn recurse(depth: u64) -> u64 {
    let filler = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + filler[7]
}

/// A program that runs out of stack learns of it on its alternate stack, and dies of it without one.
fn overflow(notes: &mut Notes) {
    let end = |handled: bool| {
        let child = crate::sys::process::spawn(|| {
            let memory = Mapping::private(SIZE).expect("a stack");
            let here = 0u8;
            STACK_POINTER.store(at(&here), Relaxed);
            if handled {
                set_stack(&memory);
                handle(libc::SIGSEGV, libc::SA_ONSTACK, leave);
            } else {
                // SAFETY: SIG_DFL runs no code of ours.
                unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            }
            recurse(0) as i32
        });
        format!("{:?}", crate::sys::process::wait(child.expect("a child")).expect("the child").1)
    };
    notes.note("handled-on-alternate-stack", end(true));
    notes.note("default", end(false));
}
