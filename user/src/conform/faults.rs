//! What becomes of a program that faults.

use std::{arch::asm, mem, ptr};

use super::{
    Case, Notes,
    notes::{KERNEL, at, must},
};
use crate::{
    probe::{self, describe, watch},
    sys::{memory::Mapping, process},
};

pub(super) const CASES: &[Case] = &[("caught", caught), ("deadly", deadly), ("blocked", blocked)];

fn undefined() {
    // SAFETY: the permanently undefined instruction; a handler or death follows, and no register changes.
    unsafe { asm!("udf #0", options(nostack)) };
}

fn breakpoint() {
    // SAFETY: as above.
    unsafe { asm!("brk #0", options(nostack)) };
}

/// Eight bytes from here cross a 16-byte line: not even FEAT_LSE2 lets an exclusive do that (Arm ARM B2.2.1.1).
const ACROSS: u64 = 13;

fn exclusive(address: u64) {
    // SAFETY: an exclusive load changes nothing.
    unsafe { asm!("ldxr {0}, [{0}]", inout(reg) address => _, options(nostack)) };
}

/// Reads a register of EL1. (Linux emulates reads of id registers; this is not one.)
fn privileged() {
    // SAFETY: at EL0 the instruction is undefined and changes nothing.
    unsafe { asm!("mrs {}, ttbr0_el1", out(reg) _, options(nostack)) };
}

fn caught(notes: &mut Notes) {
    notes.note("load-null", describe(probe::load(0)));
    let fault = probe::load(0x123);
    notes.note("address-of-load", fault.map_or(0, |fault| fault.address));
    notes.note("store-null", describe(probe::store(0)));
    notes.note("load-kernel-half", describe(probe::load(KERNEL)));
    notes.note("store-kernel-half", describe(probe::store(KERNEL)));
    notes.note("load-not-canonical", describe(probe::load(0x0100_0000_0000_0000 >> 4)));
    notes.note("jump-null", describe(probe::jump(0).1));
    notes.note("jump-kernel-half", describe(probe::jump(KERNEL).1));
    notes.note("undefined", describe(watch(undefined)));
    notes.note("breakpoint", describe(watch(breakpoint)));
    notes.note("privileged", describe(watch(privileged)));
    let memory = Mapping::private(4096).expect("memory");
    notes.note("unaligned-exclusive", describe(watch(|| exclusive(memory.start() as u64 + ACROSS))));
    notes.note(
        "unaligned-load",
        describe(watch(|| {
            // SAFETY: eight bytes in the middle of a readable page; plain loads need no alignment.
            unsafe { asm!("ldr {0}, [{0}]", inout(reg) memory.start() as u64 + 3 => _, options(nostack)) };
        })),
    );
}

fn end_of(body: impl FnOnce()) -> String {
    let child = process::spawn(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        body();
        0
    });
    format!("{:?}", process::wait(child.expect("a child")).expect("the child").1)
}

fn read_byte(address: u64) {
    // SAFETY: a load changes nothing; the process dies of it.
    unsafe { asm!("ldrb {0:w}, [{0}]", inout(reg) address => _, options(nostack)) };
}

fn call_address(address: u64) {
    // SAFETY: nothing can be fetched there; the process dies of it.
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) };
}

fn deadly(notes: &mut Notes) {
    notes.note("null", end_of(|| read_byte(0)));
    notes.note("kernel-half", end_of(|| read_byte(KERNEL)));
    notes.note("wild-jump", end_of(|| call_address(0x1234_5678)));
    notes.note("unaligned-jump", end_of(|| call_address(deadly as *const () as u64 + 1)));
    notes.note("undefined", end_of(undefined));
    notes.note("breakpoint", end_of(breakpoint));
    let memory = Mapping::private(4096).expect("memory");
    notes.note("unaligned-exclusive", end_of(|| exclusive(memory.start() as u64 + ACROSS)));
}

/// A fault cannot be put off: while its signal is blocked, it kills in spite of a handler.
fn blocked(notes: &mut Notes) {
    notes.note(
        "kills",
        end_of(|| {
            let mut mask: u64 = 1 << (libc::SIGSEGV - 1);
            must(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as u64, at(&mask), 0, 8]);
            mask = 0;
            probe::load(mask);
        }),
    );
    notes.note(
        "ignored-kills-too",
        end_of(|| {
            // SAFETY: plain data, for which all zeroes is a value; SIG_IGN runs no code of ours.
            unsafe {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = libc::SIG_IGN;
                libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
            }
            read_byte(0);
        }),
    );
}
