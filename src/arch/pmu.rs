//! The cycle counter, which counts this CPU's clock at EL0 and EL1 (Arm ARM D13, "The Performance Monitors Extension").

use core::arch::asm;

use aarch64_cpu::registers::{ID_AA64DFR0_EL1, Readable};

/// PMCR_EL0: enable; reset the cycle counter; let it be 64 bits long.
const PMCR: u64 = 1 | 1 << 2 | 1 << 6;
/// The cycle counter's bit in the enable and overflow registers.
const CYCLES: u64 = 1 << 31;
/// PMUSERENR_EL0: EL0 may read the cycle counter, and nothing else.
const READ_CYCLES: u64 = 1 << 2;

/// Whether this CPU has one.
pub fn has_cycle_counter() -> bool {
    // PMUVer: 0 means none, 15 one that is not Arm's.
    !matches!(ID_AA64DFR0_EL1.get() >> 8 & 0xf, 0 | 0xf)
}

/// Starts this CPU's cycle counter, and lets EL0 read it.
pub(crate) fn init_cpu() {
    if !has_cycle_counter() {
        return;
    }
    // SAFETY: the registers are there. Counting disturbs nothing, and no counter may interrupt.
    unsafe {
        asm!(
            "msr pmintenclr_el1, {all}",
            "msr pmcntenclr_el0, {all}",
            "msr pmovsclr_el0, {all}",
            "msr pmccfiltr_el0, xzr",
            "msr pmcr_el0, {control}",
            "msr pmcntenset_el0, {cycles}",
            "msr pmuserenr_el0, {user}",
            "isb",
            all = in(reg) 0xffff_ffffu64,
            control = in(reg) PMCR,
            cycles = in(reg) CYCLES,
            user = in(reg) READ_CYCLES,
            options(nomem, nostack, preserves_flags),
        );
    }
}
