//! mmap, munmap, mprotect, madvise and brk.

use std::arch::asm;

use super::{
    Case, Notes,
    notes::{CLOSED, KERNEL, call, must},
};
use crate::{
    probe::{self, describe},
    sys::memory::PAGE as PAGE_SIZE,
};

pub(super) const CASES: &[Case] = &[
    ("mmap", mmap),
    ("mmap-fixed", mmap_fixed),
    ("munmap", munmap),
    ("munmap-hole", munmap_hole),
    ("mprotect", mprotect),
    ("mprotect-arguments", mprotect_arguments),
    ("execute", execute),
    ("madvise", madvise),
    ("brk", brk),
];

const PAGE: u64 = PAGE_SIZE as u64;
const NONE: u64 = libc::PROT_NONE as u64;
const READ: u64 = libc::PROT_READ as u64;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const FIXED: u64 = PRIVATE | libc::MAP_FIXED as u64;
const NOREPLACE: u64 = PRIVATE | libc::MAP_FIXED_NOREPLACE as u64;
const NO_FILE: u64 = -1i64 as u64;

fn map(pages: u64) -> u64 {
    must(libc::SYS_mmap, &[0, pages * PAGE, READ_WRITE, PRIVATE, NO_FILE, 0])
}

fn byte(address: u64) -> u8 {
    // SAFETY: the cases only ask for bytes of mappings that they made readable.
    unsafe { (address as *const u8).read_volatile() }
}

fn mmap(notes: &mut Notes) {
    let start = map(3);
    notes.note("aligned", start.is_multiple_of(PAGE));
    notes.note("zeroes", (0..3 * PAGE).all(|offset| byte(start + offset) == 0));
    notes.note("write", describe(probe::store(start + 3 * PAGE - 1)));
    notes.note("writes-stay", byte(start + 3 * PAGE - 1));
    let none = must(libc::SYS_mmap, &[0, PAGE, NONE, PRIVATE, NO_FILE, 0]);
    notes.note("touch-none", describe(probe::load(none)));
    notes.call("zero-length", libc::SYS_mmap, &[0, 0, READ_WRITE, PRIVATE, NO_FILE, 0]);
    notes.call("no-sharing", libc::SYS_mmap, &[0, PAGE, READ_WRITE, libc::MAP_ANONYMOUS as u64, NO_FILE, 0]);
    notes.call("no-descriptor", libc::SYS_mmap, &[0, PAGE, READ, libc::MAP_PRIVATE as u64, NO_FILE, 0]);
    notes.call("closed-descriptor", libc::SYS_mmap, &[0, PAGE, READ, libc::MAP_PRIVATE as u64, CLOSED, 0]);
    notes.call("unaligned-offset", libc::SYS_mmap, &[0, PAGE, READ_WRITE, PRIVATE, NO_FILE, 5]);
    notes.call("too-long", libc::SYS_mmap, &[0, 1 << 60, READ_WRITE, PRIVATE, NO_FILE, 0]);
    notes.call("length-overflows", libc::SYS_mmap, &[0, !0, READ_WRITE, PRIVATE, NO_FILE, 0]);
    let hinted = must(libc::SYS_mmap, &[0x20_0000_0123, PAGE, READ_WRITE, PRIVATE, NO_FILE, 0]);
    notes.note("hint-is-aligned-down", hinted == 0x20_0000_0000);
    let elsewhere = must(libc::SYS_mmap, &[hinted, PAGE, READ_WRITE, PRIVATE, NO_FILE, 0]);
    notes.note("taken-hint-goes-elsewhere", elsewhere != hinted);
    let one = must(libc::SYS_mmap, &[0, 1, READ_WRITE, PRIVATE, NO_FILE, 0]);
    notes.note("one-byte-is-one-page", describe(probe::store(one + PAGE - 1)));
}

fn mmap_fixed(notes: &mut Notes) {
    let start = map(3);
    probe::store(start + PAGE);
    notes.note("place", must(libc::SYS_mmap, &[start + PAGE, PAGE, READ_WRITE, FIXED, NO_FILE, 0]) == start + PAGE);
    notes.note("replaces", byte(start + PAGE));
    notes.call("noreplace", libc::SYS_mmap, &[start, PAGE, READ_WRITE, NOREPLACE, NO_FILE, 0]);
    must(libc::SYS_munmap, &[start + PAGE, PAGE]);
    let back = must(libc::SYS_mmap, &[start + PAGE, PAGE, READ_WRITE, NOREPLACE, NO_FILE, 0]);
    notes.note("noreplace-in-a-hole", back == start + PAGE);
    notes.call("unaligned", libc::SYS_mmap, &[start + 1, PAGE, READ_WRITE, FIXED, NO_FILE, 0]);
    notes.call("kernel-half", libc::SYS_mmap, &[KERNEL, PAGE, READ_WRITE, FIXED, NO_FILE, 0]);
    notes.call("across-the-end", libc::SYS_mmap, &[(1 << 48) - PAGE, 2 * PAGE, READ_WRITE, FIXED, NO_FILE, 0]);
}

fn munmap(notes: &mut Notes) {
    let start = map(1);
    notes.call("unaligned", libc::SYS_munmap, &[start + 8, PAGE]);
    notes.call("zero-length", libc::SYS_munmap, &[start, 0]);
    notes.call("kernel-half", libc::SYS_munmap, &[KERNEL, PAGE]);
    notes.call("length-overflows", libc::SYS_munmap, &[start, !0]);
    probe::store(start);
    notes.call("call", libc::SYS_munmap, &[start, PAGE]);
    let fault = probe::store(start + 5);
    notes.note("touch-after", describe(fault));
    notes.note("address-of-fault", fault.is_some_and(|fault| fault.address == start + 5));
    notes.call("nothing-there", libc::SYS_munmap, &[start, PAGE]);
}

fn munmap_hole(notes: &mut Notes) {
    let start = map(5);
    for page in 0..5 {
        probe::store(start + page * PAGE);
    }
    notes.call("middle", libc::SYS_munmap, &[start + 2 * PAGE, PAGE]);
    notes.note("touch-middle", describe(probe::load(start + 2 * PAGE)));
    notes.note("neighbours-stay", byte(start + PAGE) == 7 && byte(start + 3 * PAGE) == 7);
    notes.call("range-with-a-hole", libc::SYS_munmap, &[start + PAGE, 3 * PAGE]);
    notes.note("ends-stay", byte(start) == 7 && byte(start + 4 * PAGE) == 7);
    notes.note("touch-before-hole", describe(probe::load(start + PAGE)));
    notes.note("touch-after-hole", describe(probe::load(start + 3 * PAGE)));
}

fn mprotect(notes: &mut Notes) {
    let start = map(3);
    let middle = start + PAGE;
    probe::store(middle);
    notes.call("read-only", libc::SYS_mprotect, &[middle, PAGE, READ]);
    notes.note("load", describe(probe::load(middle)));
    let fault = probe::store(middle + 9);
    notes.note("store", describe(fault));
    notes.note("address-of-fault", fault.is_some_and(|fault| fault.address == middle + 9));
    notes.note("neighbours-stay", describe(probe::store(start).or(probe::store(start + 2 * PAGE))));
    notes.call("none", libc::SYS_mprotect, &[middle, PAGE, NONE]);
    notes.note("load-from-none", describe(probe::load(middle)));
    notes.call("read-write", libc::SYS_mprotect, &[middle, PAGE, READ_WRITE]);
    notes.note("content-stays", byte(middle));
    notes.note("store-again", describe(probe::store(middle)));
    notes.call("untouched-read-only", libc::SYS_mprotect, &[start, 3 * PAGE, READ]);
    notes.note("store-to-untouched", describe(probe::store(start + 2 * PAGE + 100)));
}

fn mprotect_arguments(notes: &mut Notes) {
    let start = map(3);
    notes.call("unaligned", libc::SYS_mprotect, &[start + 1, PAGE, READ]);
    notes.call("zero-length", libc::SYS_mprotect, &[start, 0, READ]);
    notes.call("bad-protection", libc::SYS_mprotect, &[start, PAGE, 0x8000]);
    notes.call("kernel-half", libc::SYS_mprotect, &[KERNEL, PAGE, READ]);
    must(libc::SYS_munmap, &[start + PAGE, PAGE]);
    notes.call("hole", libc::SYS_mprotect, &[start, 3 * PAGE, READ]);
    notes.note("before-the-hole-changed", describe(probe::store(start)));
    notes.note("behind-the-hole-did-not", describe(probe::store(start + 2 * PAGE)));
}

fn execute(notes: &mut Notes) {
    let start = map(1);
    // mov w0, #42; ret
    let code = [0x5280_0540u32, 0xd65f_03c0];
    // SAFETY: the page was just mapped for this. The maintenance makes the code visible to the fetch (Arm ARM B2.7.4).
    unsafe {
        (start as *mut [u32; 2]).write_volatile(code);
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) start, options(nostack));
    }
    let (_, fault) = probe::jump(start);
    notes.note("jump-into-data", describe(fault));
    notes.note("address-of-fault", fault.is_some_and(|fault| fault.address == start));
    notes.call("make-executable", libc::SYS_mprotect, &[start, PAGE, READ | libc::PROT_EXEC as u64]);
    let (value, fault) = probe::jump(start);
    notes.note("jump", describe(fault));
    notes.note("value", value);
    notes.note("store", describe(probe::store(start)));
    notes.note("jump-to-nothing", describe(probe::jump(8).1));
}

fn madvise(notes: &mut Notes) {
    let start = map(3);
    probe::store(start + PAGE);
    notes.call("dontneed", libc::SYS_madvise, &[start, 3 * PAGE, libc::MADV_DONTNEED as u64]);
    notes.note("zero-again", byte(start + PAGE));
    notes.call("unaligned", libc::SYS_madvise, &[start + 1, PAGE, libc::MADV_DONTNEED as u64]);
    notes.call("bad-advice", libc::SYS_madvise, &[start, PAGE, 9999]);
    notes.call("zero-length", libc::SYS_madvise, &[start, 0, libc::MADV_DONTNEED as u64]);
    must(libc::SYS_munmap, &[start + PAGE, PAGE]);
    notes.call("hole", libc::SYS_madvise, &[start, 3 * PAGE, libc::MADV_DONTNEED as u64]);
}

fn brk(notes: &mut Notes) {
    let old = must(libc::SYS_brk, &[0]);
    let start = old.next_multiple_of(PAGE);
    notes.note("grow", must(libc::SYS_brk, &[start + 4 * PAGE]) == start + 4 * PAGE);
    notes.note("zeroes", (0..4 * PAGE).all(|offset| byte(start + offset) == 0));
    notes.note("store", describe(probe::store(start + 4 * PAGE - 1)));
    notes.note("shrink", must(libc::SYS_brk, &[start + PAGE]) == start + PAGE);
    notes.note("touch-behind", describe(probe::load(start + 2 * PAGE)));
    notes.note("grow-again-is-zero", {
        must(libc::SYS_brk, &[start + 4 * PAGE]);
        byte(start + 4 * PAGE - 1)
    });
    notes.note("below-start-changes-nothing", must(libc::SYS_brk, &[PAGE]) == start + 4 * PAGE);
    notes.note("kernel-half-changes-nothing", must(libc::SYS_brk, &[KERNEL]) == start + 4 * PAGE);
    notes.note("back", call(libc::SYS_brk, &[old]) as u64 == old);
}
