//! ELF programs for AArch64 (ELF for the Arm 64-bit Architecture; System V ABI, chapters 4 and 5).

use alloc::vec::Vec;

const HEADER_LEN: u64 = 64;
const PROGRAM_HEADER_LEN: u16 = 56;
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const STACK: u32 = 0x6474_e551;

/// One program header: kind, rights, place in the file, address, lengths in the file and in memory.
type Segment = (u32, u32, u64, u64, u64, u64);

fn program(kind: u16, entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(kind.to_le_bytes().into_iter().chain(183u16.to_le_bytes()).chain(1u32.to_le_bytes()));
    file.extend([entry, HEADER_LEN, 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0u32.to_le_bytes());
    let sizes = [HEADER_LEN as u16, PROGRAM_HEADER_LEN, segments.len() as u16, 0, 0, 0];
    file.extend(sizes.into_iter().flat_map(u16::to_le_bytes));
    for &(kind, rights, offset, address, in_file, in_memory) in segments {
        file.extend([kind, rights].into_iter().flat_map(u32::to_le_bytes));
        file.extend([offset, address, address, in_file, in_memory, 0x1000].into_iter().flat_map(u64::to_le_bytes));
    }
    file.resize(0x300, 0);
    file
}

/// A program at fixed addresses: code, data with zeroes behind it.
pub fn fixed() -> Vec<u8> {
    let code = (LOAD, 5, 0, 0x40_0000, 0x200, 0x200);
    let data = (LOAD, 6, 0x200, 0x41_1200, 0x80, 0x3000);
    program(2, 0x40_0100, &[code, data, (STACK, 6, 0, 0, 0, 0)])
}

/// A position-independent program.
pub fn movable() -> Vec<u8> {
    program(3, 0x100, &[(LOAD, 5, 0, 0, 0x200, 0x200), (LOAD, 6, 0x210, 0x1210, 0x40, 0x40)])
}

/// One that wants a dynamic linker.
pub fn dynamic() -> Vec<u8> {
    let mut file = program(3, 0x100, &[(INTERPRETER, 4, 0x200, 0x200, 6, 6), (LOAD, 5, 0, 0, 0x300, 0x300)]);
    file[0x200..0x206].copy_from_slice(b"/lib/x");
    file
}
