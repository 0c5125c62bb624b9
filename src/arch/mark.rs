//! Marks for whoever observes the machine from outside: HINT instructions that mean nothing to any CPU (Arm ARM C6.2,
//! HINT: an unallocated one is a NOP), with the address of a root table in x0. docs/sanitizer.md says who reads them.

use core::arch::asm;

use mm::{Frame, Mark};

/// Tells it of a root table.
pub fn mark(mark: Mark, root: Frame) {
    match mark {
        Mark::RootMade => hint::<96>(root),
        Mark::NothingStale => hint::<97>(root),
        Mark::RootFreed => hint::<98>(root),
    }
}

fn hint<const NUMBER: u8>(root: Frame) {
    // SAFETY: does nothing. Not `nomem`, so that it stays after what it speaks of.
    unsafe {
        asm!("hint #{number}", number = const NUMBER, in("x0") root.address().0, options(nostack, preserves_flags));
    }
}
