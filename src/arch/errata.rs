//! Errors of CPUs that software must work around, by what MIDR_EL1 says.

/// CPUs of one kind: implementer and part number, and the last revision that has the error
/// (variant in the upper four bits, revision in the lower).
struct Affected {
    model: u64,
    until: u64,
}

const fn affected(part: u64, until: u64) -> Affected {
    const ARM: u64 = 0x41;
    Affected { model: ARM << 24 | part << 4, until }
}

/// A broadcast TLBI may be complete before another CPU has stopped using the entry; issuing it and
/// its DSB once more makes sure (Arm's software developer errata notices).
const REPEAT_TLBI: [Affected; 3] = [
    // Cortex-A55, erratum 2441007: all revisions.
    affected(0xd05, 0xff),
    // Cortex-A76, erratum 1286807: up to r3p0.
    affected(0xd0b, 0x30),
    // Cortex-A510, erratum 2441009: up to r1p1.
    affected(0xd46, 0x11),
];

/// Whether a CPU with this MIDR_EL1 needs each broadcast TLBI and its DSB twice.
pub fn repeats_tlbi(midr: u64) -> bool {
    // Implementer in 31:24, variant in 23:20, architecture in 19:16, part in 15:4, revision in 3:0.
    let (model, revision) = (midr & 0xff00_fff0, midr >> 16 & 0xf0 | midr & 0xf);
    REPEAT_TLBI.iter().any(|affected| affected.model == model && revision <= affected.until)
}
