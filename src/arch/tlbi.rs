//! Every barrier, invalidation and TTBR write of the running kernel: one function per sequence.
//!
//! The kernel's half only ever grows: stacks and device mappings are kept and used again, never unmapped. So it
//! needs no invalidation, only the promise that a new entry is seen before it is used.

use core::arch::asm;
use core::ops::Range;

use mm::{Sequence, Ttbr};

/// Makes new entries of the kernel's tables visible to this CPU's walker, and to every other's that learns of
/// the new address by an ordered store of ours (mm/litmus/kernel_entry.litmus, kernel_entry_elsewhere.litmus).
/// Nothing invalid is cached, so there is nothing to invalidate.
pub fn publish_kernel_entries() {
    // SAFETY: barriers only; no `nomem`, so that the stores to the tables stay before them.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// Leaves the identity map of the boot code for the empty root under ASID 0.
///
/// # Safety
///
/// `empty_root` is the physical address of a table that maps nothing and is never freed; the caller runs in the
/// upper half.
pub unsafe fn leave_identity_map(empty_root: u64) {
    // SAFETY: our caller promises that nothing below the upper half is needed. The first DSB: the walker finds the
    // zeroes that the root was just filled with. The ISB takes the root into force before the TLBI; the second DSB
    // ends walks that began under the old one.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {root}",
            "isb",
            "dsb nsh",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            root = in(reg) empty_root,
            options(nostack, preserves_flags),
        );
    }
}

macro_rules! instruction {
    (DsbIshst) => {
        "dsb ishst"
    };
    (DsbIsh) => {
        "dsb ish"
    };
    (DsbNshst) => {
        "dsb nshst"
    };
    (DsbNsh) => {
        "dsb nsh"
    };
    (Isb) => {
        "isb"
    };
    (MsrTtbr0) => {
        "msr ttbr0_el1, {operand}"
    };
    (TlbiVale1is) => {
        "tlbi vale1is, {operand}"
    };
    (TlbiVae1is) => {
        "tlbi vae1is, {operand}"
    };
    (TlbiVale1) => {
        "tlbi vale1, {operand}"
    };
    (TlbiVae1) => {
        "tlbi vae1, {operand}"
    };
    // The range operations as SYS, which needs no extension of the assembler (Arm ARM C5.5, op1 = 0).
    (TlbiRvale1is) => {
        "sys #0, c8, c2, #5, {operand}"
    };
    (TlbiRvae1is) => {
        "sys #0, c8, c2, #1, {operand}"
    };
    (TlbiRvale1) => {
        "sys #0, c8, c6, #5, {operand}"
    };
    (TlbiRvae1) => {
        "sys #0, c8, c6, #1, {operand}"
    };
    (TlbiAside1) => {
        "tlbi aside1, {operand}"
    };
    (TlbiAside1is) => {
        "tlbi aside1is, {operand}"
    };
    (TlbiVmalle1) => {
        "tlbi vmalle1"
    };
}

/// One block, so that nothing comes between two operations; no `nomem`, so that the compiler
/// moves no access across it: a barrier that the compiler may pass is none.
macro_rules! issue {
    (() $value:ident [$($op:ident)*]) => {
        // SAFETY: barriers, and invalidations of what can be walked again; no register changes
        // that the compiler knows of.
        unsafe { asm!($(instruction!($op)),*, options(nostack, preserves_flags)) }
    };
    (($operand:ident) $value:ident [$($op:ident)*]) => {
        // SAFETY: invalidations of what can be walked again, or a TTBR0 write: the kernel runs in
        // the upper half and touches the lower one only by the copy functions, so no Rust object
        // changes under its name. That the root outlives its use is the mm layer's promise.
        unsafe { asm!($(instruction!($op)),*, operand = in(reg) $value, options(nostack, preserves_flags)) }
    };
}

macro_rules! lower {
    ($($(#[$doc:meta])* $name:ident($($operand:ident)?): [$($op:ident)*];)*) => {
        /// Issues a sequence of the mm layer: the operations that the host model executes.
        ///
        /// Always inlined with a constant `sequence`, so that one block remains.
        #[inline(always)]
        pub fn run(sequence: Sequence, operand: u64) {
            match sequence {
                $(Sequence::$name => issue!(($($operand)?) operand [$($op)*]),)*
            }
        }
    };
}

mm::for_each_sequence!(lower);

/// What this CPU's `TTBR0_EL1` holds.
pub fn read_ttbr0() -> Ttbr {
    let value: u64;
    // SAFETY: reads a register. Not `pure`: a switch changes it.
    unsafe { asm!("mrs {}, ttbr0_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    Ttbr(value)
}

/// CTR_EL0.L1Ip: the instruction cache is looked up by physical addresses alone.
const L1IP_PIPT: u64 = 0b11;

/// Makes instructions that were written to these addresses of the linear map visible to every fetch
/// (Arm ARM B2.4.4): clean the data cache to the point of unification, then drop the old lines
/// of the instruction caches. Line by line if a line is found by any of its addresses; else all of them, since
/// programs fetch by other addresses than this one (mm/litmus/instructions.litmus).
pub fn sync_instructions(written: Range<u64>) {
    let ctr: u64;
    // SAFETY: reads a register that never changes.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags, pure)) };
    // CTR_EL0.DminLine and IminLine: log2 of the words in the smallest line.
    let (data, code) = (4 << (ctr >> 16 & 0xf), 4 << (ctr & 0xf));
    let lines = |size: usize| (written.start & !(size as u64 - 1)..written.end).step_by(size);
    for line in lines(data) {
        // SAFETY: cleaning a mapped line changes no value.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    if ctr >> 14 & 0b11 == L1IP_PIPT {
        for line in lines(code) {
            // SAFETY: dropping a mapped line of an instruction cache changes no value.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    } else {
        // SAFETY: dropping lines of instruction caches changes no value.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}
