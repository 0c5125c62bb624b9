//! Whole pages of memory: zeroing and copying, through the linear map.

use core::arch::asm;
use core::ptr;

use super::mmu::PAGE;

/// How many blocks one turn of a loop takes.
const UNROLLED: u64 = 16;

/// Fills a page with zeroes.
///
/// # Safety
/// `page` is the address of a mapped page that nothing else uses meanwhile.
pub unsafe fn zero(page: u64) {
    let dczid: u64;
    // SAFETY: reads a register that never changes.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) dczid, options(pure, nomem, nostack, preserves_flags)) };
    // DCZID_EL0 (Arm ARM D24.2.44): bit 4 forbids DC ZVA, bits 3:0 are log2 of the words it zeroes.
    let block = 4u64 << (dczid & 0xf);
    if dczid & 1 << 4 != 0 || block > PAGE / UNROLLED {
        // SAFETY: our caller promises a page that is ours.
        return unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(page as usize), 0, PAGE as usize) };
    }
    // SAFETY: each DC ZVA zeroes one aligned block of the page, which is ours and a whole number of so many blocks.
    unsafe {
        asm!(
            "2:",
            ".rept {unrolled}",
            "dc zva, {at}",
            "add {at}, {at}, {block}",
            ".endr",
            "cmp {at}, {end}",
            "b.lo 2b",
            at = inout(reg) page => _,
            block = in(reg) block,
            end = in(reg) page + PAGE,
            unrolled = const UNROLLED,
            options(nostack),
        );
    }
}

/// Copies a page.
///
/// # Safety
/// Both are addresses of mapped pages, different ones; nothing else uses `to` meanwhile.
pub unsafe fn copy(from: u64, to: u64) {
    // SAFETY: two different mapped pages; our caller promises it. User code may write to `from` at the same time on
    // another CPU, as it may during any copy; the assembly reads whatever is there.
    unsafe {
        asm!(
            "2:",
            ".rept {unrolled}",
            "ldp {a}, {b}, [{from}], #16",
            "ldp {c}, {d}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "stp {c}, {d}, [{to}], #16",
            ".endr",
            "cmp {to}, {end}",
            "b.lo 2b",
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            end = in(reg) to + PAGE,
            unrolled = const UNROLLED,
            options(nostack),
        );
    }
}

/// Copies bytes to the start of a page and fills the rest with zeroes.
///
/// # Panics
/// If there are more bytes than fit.
///
/// # Safety
/// As for [`zero`].
pub unsafe fn fill(page: u64, source: &[u8]) {
    if source.len() == PAGE as usize {
        // SAFETY: a page of ours, and a source that is none.
        return unsafe { copy(source.as_ptr().addr() as u64, page) };
    }
    // SAFETY: a page of ours; `store` checks that the bytes fit. To zero all of it takes less than to zero most of it byte
    // by byte.
    unsafe {
        zero(page);
        store(page, 0, source);
    }
}

/// Copies bytes to a place in a page, the rest of which stays.
///
/// # Panics
/// If they do not fit.
///
/// # Safety
/// `page` is the address of a mapped page, which a program may use meanwhile, and the kernel does not.
pub unsafe fn store(page: u64, offset: usize, source: &[u8]) {
    assert!(offset + source.len() <= PAGE as usize, "{} bytes at {offset} of a page", source.len());
    let to = ptr::with_exposed_provenance_mut::<u8>(page as usize);
    // SAFETY: it lies within the page, by the line above, and our caller promises that the page is there.
    unsafe { ptr::copy_nonoverlapping(source.as_ptr(), to.add(offset), source.len()) };
}
