//! This CPU: its number plate, its features, and how it waits.

use aarch64_cpu::registers::{
    ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, MIDR_EL1, MPIDR_EL1, Readable,
};
use mm::Hardware;

use super::errata;

/// The affinity fields of MPIDR_EL1: Aff3, Aff2, Aff1, Aff0. The other bits say nothing about which CPU it is.
pub const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

/// The affinity of this CPU.
pub fn mpidr() -> u64 {
    MPIDR_EL1.get() & AFFINITY_MASK
}

/// True if this CPU can keep the kernel from user mappings (PSTATE.PAN).
pub fn has_pan() -> bool {
    ID_AA64MMFR1_EL1.read(ID_AA64MMFR1_EL1::PAN) != 0
}

/// How many bits of ASID this CPU has: 8 or 16. boot.s sets TCR_EL1.AS accordingly.
pub fn asid_bits() -> u32 {
    if ID_AA64MMFR0_EL1.matches_all(ID_AA64MMFR0_EL1::ASIDBits::Bits_16) { 16 } else { 8 }
}

/// What this CPU can do, as far as the mm layer uses it. Those of a machine are of one kind.
pub fn hardware() -> Hardware {
    // ID_AA64ISAR0_EL1.TLB, bits 59:56: 2 is FEAT_TLBIRANGE. ID_AA64MMFR2_EL1.TTL, bits 51:48 (Arm ARM D24.2).
    let field = |register: u64, shift: u32| register >> shift & 0xf;
    Hardware {
        asid_bits: asid_bits(),
        tlbi_range: field(ID_AA64ISAR0_EL1.get(), 56) >= 2,
        tlbi_ttl: field(ID_AA64MMFR2_EL1.get(), 48) >= 1,
        repeat_tlbi: errata::repeats_tlbi(MIDR_EL1.get()),
    }
}

/// False if this CPU does not take part in the coherency of caches and TLBs, as far as it can be read.
///
/// CPUECTLR_EL1.SMPEN (Cortex-A72 TRM, 4.3.67) must be set by firmware, since only EL3 may always write it. The register
/// never is 0 on a real CPU; in QEMU it always is.
pub fn is_coherent() -> bool {
    const CORTEX_A72: u64 = 0x41 << 24 | 0xd08 << 4;
    if MIDR_EL1.get() & 0xff00_fff0 != CORTEX_A72 {
        return true;
    }
    let control: u64;
    // SAFETY: this CPU has the register, and reading it has no effect.
    unsafe {
        core::arch::asm!("mrs {}, S3_1_C15_C2_1", out(reg) control, options(nomem, nostack, preserves_flags));
    }
    control == 0 || control & 1 << 6 != 0
}

/// Fetches the line of memory that `place` begins in, in order to write it (PRFM PSTL1KEEP).
///
/// For what another CPU is likely to have, and what is read before it is written, as an exclusive does: then the line comes
/// once, instead of once to read it and once more to own it.
#[inline(always)]
pub fn fetch_to_write<T>(place: &T) {
    // SAFETY: a hint. Not `nomem`, which would let accesses before it move behind.
    unsafe { core::arch::asm!("prfm pstl1keep, [{}]", in(reg) place, options(readonly, nostack, preserves_flags)) };
}

/// Lets this CPU take SErrors: they are reported, not kept.
pub(crate) fn unmask_serrors() {
    // SAFETY: the vectors stand, and whoever handles an SError does not come back. No `nomem`: what was stored may be its cause.
    unsafe { core::arch::asm!("msr daifclr, #4", options(nostack, preserves_flags)) };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        aarch64_cpu::asm::wfi();
    }
}
