//! The only doors between kernel and user memory: copies whose faults become an error.
//!
//! They use LDTR and STTR, which the MMU checks as accesses of EL0: a kernel address is refused by hardware even if
//! the range check were wrong, and PSTATE.PAN may stay set.

use core::arch::global_asm;

use super::exception::TrapFrame;
use super::fault_decode::Fault;
use crate::process;
use crate::sync::{mask_irqs, unmask_irqs};

/// A user address that could not be read or written: EFAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

/// User addresses end here: TTBR0's half of 48 bits.
const USER_END: u64 = 1 << 48;
/// PSTATE.I: interrupts are masked.
const PSTATE_I: u64 = 1 << 7;

// Both take (x0 to, x1 from, x2 length), return 0 in x0, and on a fault go on at `user_copy_fixup`, which returns 1.
// 32 bytes at a time, then 8, then what is left by 4, 2 and 1. LDTR and STTR need no alignment in Normal memory;
// where it is aligned, a word is copied in one access.
global_asm!(
    ".pushsection .text.user_copy, \"ax\"",
    ".global user_copy_in", // for who inlines a copy
    ".global user_copy_out",
    "user_copy_start:",
    "user_copy_in:",
    "1:  subs    x3, x2, #32",
    "    b.lo    2f",
    "    ldtr    x4, [x1]",
    "    ldtr    x5, [x1, #8]",
    "    ldtr    x6, [x1, #16]",
    "    ldtr    x7, [x1, #24]",
    "    stp     x4, x5, [x0], #16",
    "    stp     x6, x7, [x0], #16",
    "    add     x1, x1, #32",
    "    mov     x2, x3",
    "    b       1b",
    "2:  subs    x3, x2, #8",
    "    b.lo    3f",
    "    ldtr    x4, [x1]",
    "    str     x4, [x0], #8",
    "    add     x1, x1, #8",
    "    mov     x2, x3",
    "    b       2b",
    "3:  tbz     x2, #2, 4f",
    "    ldtr    w4, [x1]",
    "    str     w4, [x0], #4",
    "    add     x1, x1, #4",
    "4:  tbz     x2, #1, 5f",
    "    ldtrh   w4, [x1]",
    "    strh    w4, [x0], #2",
    "    add     x1, x1, #2",
    "5:  tbz     x2, #0, 6f",
    "    ldtrb   w4, [x1]",
    "    strb    w4, [x0]",
    "6:  mov     x0, #0",
    "    ret",
    "user_copy_out:",
    "1:  subs    x3, x2, #32",
    "    b.lo    2f",
    "    ldp     x4, x5, [x1], #16",
    "    ldp     x6, x7, [x1], #16",
    "    sttr    x4, [x0]",
    "    sttr    x5, [x0, #8]",
    "    sttr    x6, [x0, #16]",
    "    sttr    x7, [x0, #24]",
    "    add     x0, x0, #32",
    "    mov     x2, x3",
    "    b       1b",
    "2:  subs    x3, x2, #8",
    "    b.lo    3f",
    "    ldr     x4, [x1], #8",
    "    sttr    x4, [x0]",
    "    add     x0, x0, #8",
    "    mov     x2, x3",
    "    b       2b",
    "3:  tbz     x2, #2, 4f",
    "    ldr     w4, [x1], #4",
    "    sttr    w4, [x0]",
    "    add     x0, x0, #4",
    "4:  tbz     x2, #1, 5f",
    "    ldrh    w4, [x1], #2",
    "    sttrh   w4, [x0]",
    "    add     x0, x0, #2",
    "5:  tbz     x2, #0, 6f",
    "    ldrb    w4, [x1]",
    "    sttrb   w4, [x0]",
    "6:  mov     x0, #0",
    "    ret",
    "user_copy_end:",
    "user_copy_fixup:",
    "    mov     x0, #1",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn user_copy_in(to: *mut u8, from: u64, len: usize) -> u64;
    fn user_copy_out(to: u64, from: *const u8, len: usize) -> u64;
    safe fn user_copy_start();
    safe fn user_copy_end();
    safe fn user_copy_fixup();
}

/// User memory that is within the user half; whether the program may use it shows when it is used.
///
/// The half that an address is in is bit 55's; the check in [`UserRange::new`] keeps an honest error from depending on it.
#[derive(Clone, Copy, Debug)]
pub struct UserRange {
    start: u64,
    len: usize,
}

impl UserRange {
    /// No memory.
    pub const EMPTY: Self = Self { start: 0, len: 0 };

    /// These bytes.
    ///
    /// # Errors
    ///
    /// If they reach out of the user half.
    #[inline]
    pub fn new(start: u64, len: usize) -> Result<Self, BadAddress> {
        match start.checked_add(len as u64) {
            Some(end) if end <= USER_END => Ok(Self { start, len }),
            _ => Err(BadAddress),
        }
    }

    /// Where it starts.
    #[inline]
    pub fn start(self) -> u64 {
        self.start
    }

    /// How many bytes it has.
    #[inline]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// What is behind the first `len` bytes, of which there are as many.
    #[inline]
    pub fn behind(self, len: usize) -> Self {
        debug_assert!(len <= self.len);
        Self { start: self.start + len as u64, len: self.len - len }
    }

    /// Reads the first bytes, as many as `to` has; on an error a part of them may be read.
    ///
    /// # Errors
    ///
    /// If the program may not read all of them.
    #[inline]
    pub fn read(self, to: &mut [u8]) -> Result<(), BadAddress> {
        debug_assert!(to.len() <= self.len);
        // SAFETY: `to` is ours to write; the source is read with the rights of EL0, and a fault ends in the fix-up.
        to_result(unsafe { user_copy_in(to.as_mut_ptr(), self.start, to.len()) })
    }

    /// Writes the first bytes, as many as `from` has; on an error a part of them may be written.
    ///
    /// # Errors
    ///
    /// If the program may not write all of them.
    #[inline]
    pub fn write(self, from: &[u8]) -> Result<(), BadAddress> {
        debug_assert!(from.len() <= self.len);
        // SAFETY: `from` is ours to read; the target is written with the rights of EL0, which has none in the kernel's
        // half, and a fault ends in the fix-up.
        to_result(unsafe { user_copy_out(self.start, from.as_ptr(), from.len()) })
    }
}

/// Reads user memory. On an error the buffer may be filled in part.
///
/// # Errors
///
/// If the program may not read all of it.
pub fn copy_from_user(to: &mut [u8], from: u64) -> Result<(), BadAddress> {
    UserRange::new(from, to.len())?.read(to)
}

/// Writes user memory. On an error a part may be written.
///
/// # Errors
///
/// If the program may not write all of it.
pub fn copy_to_user(to: u64, from: &[u8]) -> Result<(), BadAddress> {
    UserRange::new(to, from.len())?.write(from)
}

/// Reads an aligned word in one access, as a futex needs it.
///
/// # Errors
///
/// If it is not aligned or the program may not read it.
pub fn read_user_u32(from: u64) -> Result<u32, BadAddress> {
    if !from.is_multiple_of(4) {
        return Err(BadAddress);
    }
    let mut word = [0; 4];
    copy_from_user(&mut word, from)?;
    Ok(u32::from_le_bytes(word))
}

fn to_result(failed: u64) -> Result<(), BadAddress> {
    if failed == 0 { Ok(()) } else { Err(BadAddress) }
}

/// If `fault` interrupted a copy on the user's side, makes the copy go on, or return its error.
pub(super) fn fix_up(frame: &mut TrapFrame, fault: &Fault) -> bool {
    let range = user_copy_start as *const () as u64..user_copy_end as *const () as u64;
    let Some(address) = fault.address.filter(|&address| address < USER_END) else { return false };
    if !fault.is_abort() || !range.contains(&frame.pc) {
        return false;
    }
    if !make_accessible(frame, fault, address) {
        frame.pc = user_copy_fixup as *const () as u64;
    }
    true
}

/// Lets the address space bring the page in. A copy under masked interrupts does without: what a page fault needs
/// may wait.
fn make_accessible(frame: &TrapFrame, fault: &Fault, address: u64) -> bool {
    if frame.pstate & PSTATE_I != 0 {
        return false;
    }
    unmask_irqs();
    let accessible = process::fault::from_copy(fault, address);
    mask_irqs();
    accessible
}
