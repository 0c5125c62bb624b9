//! Program files: what sound ones come to, and what is refused.

use formats::elf::{ElfError, plan};
use formats::samples::program::{dynamic, fixed, movable};

/// Of the file header and of a program header (System V ABI, chapters 4 and 5).
const FILE_HEADER: usize = 64;
const HEADER: usize = 56;

fn set(file: &mut [u8], header: usize, field: usize, value: u64) {
    file[FILE_HEADER + HEADER * header + field..][..8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_sound_program_is_planned() {
    let fixed = fixed();
    let plan = plan(&fixed).expect("it is sound");
    let places: Vec<_> = plan.segments.iter().map(|segment| (segment.start, segment.end)).collect();
    assert_eq!(places, [(0x40_0000, 0x40_1000), (0x41_1000, 0x41_5000)]);
    assert_eq!((plan.entry, plan.headers, plan.header_count, plan.heap), (0x40_0100, 0x40_0040, 3, 0x41_5000));
}

#[test]
fn a_movable_program_is_moved() {
    let movable = movable();
    let plan = plan(&movable).expect("it is sound");
    assert_eq!((plan.segments[0].start, plan.entry), (0x5555_5555_0000, 0x5555_5555_0100));
}

#[test]
fn a_dynamic_program_names_its_linker() {
    assert_eq!(plan(&dynamic()).err(), Some(ElfError::Interpreter("/lib/x")));
}

/// A header to load that takes no memory is no segment: it says nothing about where the program headers lie.
#[test]
fn headers_are_not_looked_for_where_nothing_is_loaded() {
    let mut file = fixed();
    let code = file[FILE_HEADER..][..HEADER].to_vec();
    file[FILE_HEADER + 2 * HEADER..][..HEADER].copy_from_slice(&code);
    set(&mut file, 0, 16, u64::MAX - 0xfff);
    set(&mut file, 0, 40, 0);
    let plan = plan(&file).expect("an empty segment is none");
    assert_eq!((plan.segments.len(), plan.headers), (2, 0x40_0040));
}
