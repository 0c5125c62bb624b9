//! Programs and device trees that are wrong in exactly one way, made from one that is right.

use anyhow::{Context, Result, ensure};

/// Offsets in an ELF-64 header and in its program headers.
const MACHINE: usize = 18;
const PROGRAM_HEADERS: usize = 32;
const PROGRAM_HEADER_COUNT: usize = 56;
const PROGRAM_HEADER_SIZE: usize = 56;
const VIRTUAL_ADDRESS: usize = 16;
const MEMORY_SIZE: usize = 40;
const LOAD: u8 = 1;
const X86_64: u8 = 62;

/// For another architecture.
pub(crate) fn wrong_machine(program: &[u8]) -> Result<Vec<u8>> {
    let mut wrong = program.to_vec();
    *wrong.get_mut(MACHINE).context("no ELF header")? = X86_64;
    Ok(wrong)
}

/// Cut in the middle: the headers promise more than the file has.
pub(crate) fn truncated(program: &[u8]) -> Result<Vec<u8>> {
    Ok(program[..program.len() / 2].to_vec())
}

/// The second segment lies where the first does.
pub(crate) fn overlapping(program: &[u8]) -> Result<Vec<u8>> {
    let (first, second) = first_two_segments(program)?;
    let mut wrong = program.to_vec();
    let (from, to) = (first + VIRTUAL_ADDRESS, second + VIRTUAL_ADDRESS);
    // The offset within the page must stay, or the file is wrong in a second way.
    let page = read(program, from) & !0xfff;
    let within = read(program, to) & 0xfff;
    write(&mut wrong, to, page | within);
    Ok(wrong)
}

/// The first segment asks for addresses of the kernel.
pub(crate) fn in_kernel_half(program: &[u8]) -> Result<Vec<u8>> {
    let (first, _) = first_two_segments(program)?;
    let mut wrong = program.to_vec();
    let at = first + VIRTUAL_ADDRESS;
    let address = read(program, at);
    write(&mut wrong, at, address | 0xffff_8000_0000_0000);
    Ok(wrong)
}

/// The last byte of the second segment lies behind all that a user can address.
pub(crate) fn too_big(program: &[u8]) -> Result<Vec<u8>> {
    let (_, second) = first_two_segments(program)?;
    let mut wrong = program.to_vec();
    write(&mut wrong, second + MEMORY_SIZE, 1 << 60);
    Ok(wrong)
}

/// The second to last letter of each `word` becomes an `X`, so that nobody finds it: for device trees.
pub(crate) fn rename(tree: &[u8], word: &str) -> Result<Vec<u8>> {
    let mut wrong = tree.to_vec();
    let found = |start: &usize| tree[*start..].starts_with(word.as_bytes());
    let places: Vec<usize> = (0..tree.len()).filter(found).collect();
    ensure!(!places.is_empty(), "the device tree has no `{}`", word.escape_default());
    places.iter().for_each(|place| wrong[place + word.len() - 2] = b'X');
    Ok(wrong)
}

/// A device tree without the room at its end that QEMU leaves for additions, and doubles whenever it reads one.
pub(crate) fn packed(tree: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| tree.get(at..at + 4).map(|b| b.iter().fold(0, |word, byte| word << 8 | usize::from(*byte)));
    // Offsets and sizes of the structure and the strings (Devicetree Specification 0.4, section 5.2).
    let end = |offset, size| Some(word(offset)? + word(size)?);
    let used = end(8, 36).max(end(12, 32)).context("no device tree header")?;
    let mut packed = tree.get(..used).context("the device tree is cut short")?.to_vec();
    packed[4..8].copy_from_slice(&u32::try_from(used)?.to_be_bytes());
    Ok(packed)
}

/// A device tree whose header says this of one thing, named by its offset (Devicetree Specification 0.4, section 5.2).
pub(crate) fn with_header_word(tree: &[u8], offset: usize, value: u32) -> Vec<u8> {
    let mut wrong = tree.to_vec();
    wrong[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    wrong
}

/// Offsets of the program headers of the first two loadable segments.
fn first_two_segments(program: &[u8]) -> Result<(usize, usize)> {
    ensure!(program.len() > 64 && program.starts_with(b"\x7fELF"), "the program is no ELF");
    let table = usize::try_from(read(program, PROGRAM_HEADERS))?;
    let count = usize::from(program[PROGRAM_HEADER_COUNT]);
    let headers = (0..count).map(|index| table + index * PROGRAM_HEADER_SIZE);
    let mut loads = headers.filter(|&at| program.get(at) == Some(&LOAD));
    loads.next().zip(loads.next()).context("the program has fewer than two segments")
}

fn read(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn write(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two loadable segments behind one of another type, at 0x20_0000 and 0x21_1234.
    fn program() -> Vec<u8> {
        let mut elf = vec![0; 64 + 3 * 56];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[MACHINE] = 183;
        write(&mut elf, PROGRAM_HEADERS, 64);
        elf[PROGRAM_HEADER_COUNT] = 3;
        elf[64] = 6;
        for (index, address) in [(1, 0x20_0000u64), (2, 0x21_1234)] {
            elf[64 + index * 56] = LOAD;
            write(&mut elf, 64 + index * 56 + VIRTUAL_ADDRESS, address);
        }
        elf
    }

    #[test]
    fn each_is_wrong_in_one_place() {
        let good = program();
        let differing = |wrong: Vec<u8>| {
            let words = good.chunks(8).zip(wrong.chunks(8)).enumerate().filter(|(_, (a, b))| a != b);
            words.map(|(index, _)| index * 8).collect::<Vec<_>>()
        };
        assert_eq!(differing(wrong_machine(&good).unwrap()), [16]);
        assert_eq!(differing(overlapping(&good).unwrap()), [64 + 112 + 16]);
        assert_eq!(differing(in_kernel_half(&good).unwrap()), [64 + 56 + 16]);
        assert_eq!(differing(too_big(&good).unwrap()), [64 + 112 + 40]);
        assert_eq!(truncated(&good).unwrap(), good[..good.len() / 2]);
    }

    #[test]
    fn an_overlap_keeps_the_place_within_the_page() {
        let wrong = overlapping(&program()).unwrap();
        assert_eq!(read(&wrong, 64 + 112 + VIRTUAL_ADDRESS), 0x20_0234);
    }

    #[test]
    fn renaming_keeps_the_size_and_touches_nothing_else() {
        assert_eq!(rename(b"..gic\0..gic-v3\0gic\0", "gic\0").unwrap(), b"..giX\0..gic-v3\0giX\0");
        assert!(rename(b"tree", "gic\0").is_err());
    }

    #[test]
    fn a_packed_tree_ends_with_what_comes_last() {
        let mut tree = vec![0xee; 200];
        for (at, value) in [(0, 0xd00d_feed_u32), (4, 200), (8, 60), (12, 100), (32, 9), (36, 40)] {
            tree[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let small = packed(&tree).unwrap();
        assert_eq!((small.len(), &small[4..8]), (109, [0, 0, 0, 109].as_slice()));
        assert_eq!((&small[..4], &small[8..]), (&tree[..4], &tree[8..109]));
        assert!(packed(&tree[..108]).is_err());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(overlapping(b"hello").is_err());
        assert!(too_big(&program()[..64 + 56]).is_err());
    }
}
