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

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        aarch64_cpu::asm::wfi();
    }
}
