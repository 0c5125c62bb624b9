//! Dies of one fault, named by its argument, so that others can see by which signal.

use std::{arch::asm, hint::black_box, process::ExitCode};

use lazuli_user::sys::memory::{Mapping, PAGE};

/// A name, the signal that it ends with, and what it does.
type Fault = (&'static str, &'static str, fn());

const FAULTS: &[Fault] = &[
    ("null-read", "SIGSEGV", || load(0)),
    ("null-write", "SIGSEGV", || store(0)),
    ("null-jump", "SIGSEGV", || jump(0)),
    ("kernel-read", "SIGSEGV", || load(KERNEL)),
    ("kernel-write", "SIGSEGV", || store(KERNEL)),
    ("kernel-jump", "SIGSEGV", || jump(KERNEL)),
    ("wild-jump", "SIGSEGV", || jump(0x1234_5678)),
    ("data-jump", "SIGSEGV", || jump(black_box([0u32; 4]).as_ptr() as u64)),
    ("text-write", "SIGSEGV", || store(main as *const () as u64)),
    ("stack-overflow", "SIGSEGV", overflow),
    ("more-memory", "SIGBUS", more_memory),
    ("undefined", "SIGILL", undefined),
    ("privileged", "SIGILL", privileged),
    ("breakpoint", "SIGTRAP", breakpoint),
    ("unaligned-jump", "SIGBUS", || jump(main as *const () as u64 + 1)),
    ("unaligned-exclusive", "SIGBUS", unaligned),
];

const KERNEL: u64 = 0xffff_8000_0000_0000;

fn load(address: u64) {
    // SAFETY: faults, which is the point; a load changes nothing.
    unsafe { asm!("ldrb {0:w}, [{0}]", inout(reg) address => _, options(nostack)) };
}

fn store(address: u64) {
    // SAFETY: faults, which is the point: no address in the table may be written.
    unsafe { asm!("strb wzr, [{}]", in(reg) address, options(nostack)) };
}

fn jump(address: u64) {
    // SAFETY: faults, which is the point: no address in the table may be executed.
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) };
}

fn undefined() {
    // SAFETY: the permanently undefined instruction faults, which is the point.
    unsafe { asm!("udf #0", options(nostack)) };
}

fn privileged() {
    // SAFETY: undefined at EL0, which is the point.
    unsafe { asm!("msr ttbr0_el1, xzr", options(nostack)) };
}

fn breakpoint() {
    // SAFETY: raises a debug exception, which is the point.
    unsafe { asm!("brk #0", options(nostack)) };
}

fn unaligned() {
    #[repr(align(16))]
    struct Words([u64; 3]);
    let words = black_box(Words([0; 3]));
    // SAFETY: inside the array, but an exclusive load across the end of 16 bytes faults, which is the point.
    unsafe { asm!("ldxr {0}, [{0}]", inout(reg) words.0.as_ptr() as u64 + 9 => _, options(nostack)) };
}

fn overflow() {
    #[expect(unconditional_recursion, reason = "running out of stack is the point")]
    fn deeper(depth: u64) -> u64 {
        let filler = black_box([depth; 64]);
        deeper(depth + 1) + filler[7]
    }
    black_box(deeper(0));
}

/// Touches more memory than there is. Linux would kill it outright.
fn more_memory() {
    const TOO_MUCH: usize = 1 << 40;
    let all = Mapping::private(TOO_MUCH).expect("addresses");
    (0..TOO_MUCH / PAGE).for_each(|page| all.touch(page));
}

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let Some((name, signal, fault)) = FAULTS.iter().find(|(name, ..)| *name == wanted) else {
        let names: Vec<_> = FAULTS.iter().map(|(name, ..)| *name).collect();
        eprintln!("usage: faulter KIND; kinds are: {}", names.join(" "));
        return ExitCode::from(2);
    };
    // The standard library catches some of these signals to say more; here the kernel's own way is wanted.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    println!("faulter: {name}, which should end with {signal}");
    fault();
    println!("faulter: still alive");
    ExitCode::FAILURE
}
