//! What programs may know about the CPU: `AT_HWCAP` and /proc/cpuinfo.

use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1, Readable};
use spin::once::Once;

use crate::sync::Relax;

/// The registers that the features are read from.
#[derive(Clone, Copy)]
enum Register {
    Isar0,
    Isar1,
    Pfr0,
}

/// A feature: its bit in `AT_HWCAP` and its name (Linux: Documentation/arch/arm64/elf_hwcaps.rst),
/// and the least value of an identification field that means it is there.
struct Feature {
    bit: u32,
    name: &'static str,
    register: Register,
    shift: u32,
    least: i8,
}

const fn feature(bit: u32, name: &'static str, register: Register, shift: u32, least: i8) -> Feature {
    Feature { bit, name, register, shift, least }
}

/// What needs no help of the kernel. Missing are features whose state the kernel would have to
/// keep (SVE, pointer authentication) and `cpuid`, which emulates reads of these registers.
const FEATURES: &[Feature] = &[
    feature(0, "fp", Register::Pfr0, 16, 0),
    feature(1, "asimd", Register::Pfr0, 20, 0),
    feature(3, "aes", Register::Isar0, 4, 1),
    feature(4, "pmull", Register::Isar0, 4, 2),
    feature(5, "sha1", Register::Isar0, 8, 1),
    feature(6, "sha2", Register::Isar0, 12, 1),
    feature(7, "crc32", Register::Isar0, 16, 1),
    feature(8, "atomics", Register::Isar0, 20, 2),
    feature(9, "fphp", Register::Pfr0, 16, 1),
    feature(10, "asimdhp", Register::Pfr0, 20, 1),
    feature(12, "asimdrdm", Register::Isar0, 28, 1),
    feature(13, "jscvt", Register::Isar1, 12, 1),
    feature(14, "fcma", Register::Isar1, 16, 1),
    feature(15, "lrcpc", Register::Isar1, 20, 1),
    feature(16, "dcpop", Register::Isar1, 0, 1),
    feature(17, "sha3", Register::Isar0, 32, 1),
    feature(18, "sm3", Register::Isar0, 36, 1),
    feature(19, "sm4", Register::Isar0, 40, 1),
    feature(20, "asimddp", Register::Isar0, 44, 1),
    feature(21, "sha512", Register::Isar0, 12, 2),
    feature(23, "asimdfhm", Register::Isar0, 48, 1),
    feature(24, "dit", Register::Pfr0, 48, 1),
    feature(26, "ilrcpc", Register::Isar1, 20, 2),
    feature(27, "flagm", Register::Isar0, 52, 1),
    feature(29, "sb", Register::Isar1, 36, 1),
];

impl Feature {
    fn is_there(&self) -> bool {
        let register = match self.register {
            Register::Isar0 => ID_AA64ISAR0_EL1.get(),
            Register::Isar1 => ID_AA64ISAR1_EL1.get(),
            Register::Pfr0 => ID_AA64PFR0_EL1.get(),
        };
        // Four bits, signed in the FP and SIMD fields (-1: not there). The others stay small.
        let field = (register >> self.shift << 60) as i64 >> 60;
        field >= i64::from(self.least)
    }
}

/// The names of the features that are there.
pub fn names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().filter(|feature| feature.is_there()).map(|feature| feature.name)
}

/// `AT_HWCAP`. Asked for by each program that starts, and the same for all.
pub fn hwcap() -> u64 {
    static HWCAP: Once<u64, Relax> = Once::new();
    *HWCAP.call_once(find_hwcap)
}

fn find_hwcap() -> u64 {
    FEATURES.iter().filter(|feature| feature.is_there()).fold(0, |bits, feature| bits | 1 << feature.bit)
}
