//! Every barrier, invalidation and TTBR write of the running kernel: one function per sequence.
//!
//! The kernel's half only ever grows: stacks and device mappings are kept and used again, never unmapped. So it
//! needs no invalidation, only the promise that a new entry is seen before it is used.

use core::arch::asm;

/// Makes new entries of the kernel's tables visible to this CPU's walker, and to every other's that learns of
/// the new address by an ordered store of ours. Nothing invalid is cached, so there is nothing to invalidate.
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
    // SAFETY: our caller promises that nothing below the upper half is needed. The ISB takes the root into
    // force before the TLBI; the first DSB ends walks that began under the old one.
    unsafe {
        asm!(
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
