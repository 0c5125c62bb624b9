//! `memcpy`, `memmove` and `memset`, which the compiler calls: sixteen bytes by two instructions, where those that come with it
//! take eight by four. A program that starts is copied from its file, and a page is copied for each that a fork shares.

use core::arch::naked_asm;

/// Copies `len` bytes; gives `to` back.
///
/// # Safety
///
/// As C says: both are `len` valid bytes, which do not overlap.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        "subs x2, x2, #64",
        "b.lo 3f",
        "2:",
        ".rept 4",
        "ldp x4, x5, [x1], #16",
        "stp x4, x5, [x3], #16",
        ".endr",
        "subs x2, x2, #64",
        "b.hs 2b",
        // Fewer than 64 are left: by the lowest bits of their number, which 64 more or less does not change.
        "3: tbz x2, #5, 4f",
        ".rept 2",
        "ldp x4, x5, [x1], #16",
        "stp x4, x5, [x3], #16",
        ".endr",
        "4: tbz x2, #4, 5f",
        "ldp x4, x5, [x1], #16",
        "stp x4, x5, [x3], #16",
        "5: tbz x2, #3, 6f",
        "ldr x4, [x1], #8",
        "str x4, [x3], #8",
        "6: tbz x2, #2, 7f",
        "ldr w4, [x1], #4",
        "str w4, [x3], #4",
        "7: tbz x2, #1, 8f",
        "ldrh w4, [x1], #2",
        "strh w4, [x3], #2",
        "8: tbz x2, #0, 9f",
        "ldrb w4, [x1]",
        "strb w4, [x3]",
        "9: ret",
    )
}

/// Copies `len` bytes that may overlap; gives `to` back.
///
/// # Safety
///
/// As C says: both are `len` valid bytes.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        // Upwards, unless `to` begins inside of `from`: each load comes before the stores that could reach it.
        "sub x3, x0, x1",
        "cmp x3, x2",
        "b.hs {memcpy}",
        "add x1, x1, x2",
        "add x3, x0, x2",
        "subs x2, x2, #16",
        "b.lo 3f",
        "2: ldp x4, x5, [x1, #-16]!",
        "stp x4, x5, [x3, #-16]!",
        "subs x2, x2, #16",
        "b.hs 2b",
        // As in `memcpy`.
        "3: tbz x2, #3, 4f",
        "ldr x4, [x1, #-8]!",
        "str x4, [x3, #-8]!",
        "4: tbz x2, #2, 5f",
        "ldr w4, [x1, #-4]!",
        "str w4, [x3, #-4]!",
        "5: tbz x2, #1, 6f",
        "ldrh w4, [x1, #-2]!",
        "strh w4, [x3, #-2]!",
        "6: tbz x2, #0, 7f",
        "ldrb w4, [x1, #-1]",
        "strb w4, [x3, #-1]",
        "7: ret",
        memcpy = sym memcpy,
    )
}

/// Sets `len` bytes to the lowest byte of `value`; gives `to` back.
///
/// # Safety
///
/// As C says: `to` is `len` valid bytes.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        // The byte, eight times.
        "and x4, x1, #0xff",
        "orr x4, x4, x4, lsl #8",
        "orr x4, x4, x4, lsl #16",
        "orr x4, x4, x4, lsl #32",
        "subs x2, x2, #64",
        "b.lo 3f",
        "2:",
        ".rept 4",
        "stp x4, x4, [x3], #16",
        ".endr",
        "subs x2, x2, #64",
        "b.hs 2b",
        // As in `memcpy`.
        "3: tbz x2, #5, 4f",
        ".rept 2",
        "stp x4, x4, [x3], #16",
        ".endr",
        "4: tbz x2, #4, 5f",
        "stp x4, x4, [x3], #16",
        "5: tbz x2, #3, 6f",
        "str x4, [x3], #8",
        "6: tbz x2, #2, 7f",
        "str w4, [x3], #4",
        "7: tbz x2, #1, 8f",
        "strh w4, [x3], #2",
        "8: tbz x2, #0, 9f",
        "strb w4, [x3]",
        "9: ret",
    )
}
