//! A loader that hands the kernel whatever it is told to: QEMU's own makes a sound device tree and passes no other.
//!
//! QEMU boots a stub of four instructions instead of a kernel; two generic loaders put the image and the tree into RAM,
//! and the stub enters the image with the tree's address in x0.

use std::path::Path;

/// Where the image goes: 2 MiB-aligned, and not next to the tree that QEMU makes.
const IMAGE_AT: u64 = 0x4420_0000;
/// Where the tree goes: behind the image, and aligned as a tree must be.
pub(crate) const TREE_AT: u64 = 0x4c00_0000;

/// The stub, a raw kernel for QEMU, that enters the image with this value in x0.
pub(crate) fn stub(x0: u64) -> Vec<u8> {
    const CODE: [u32; 4] = [
        0x5800_0080, // ldr x0, 1f
        0x5800_00a4, // ldr x4, 2f
        0xd61f_0080, // br x4
        0xd503_201f, // nop, for the alignment of what follows: 1 and 2
    ];
    let words = CODE.iter().flat_map(|word| word.to_le_bytes());
    words.chain([x0, IMAGE_AT].into_iter().flat_map(u64::to_le_bytes)).collect()
}

/// QEMU's options that put `image` and, at `tree_at`, `tree` into RAM.
pub(crate) fn options(image: &Path, tree: &Path, tree_at: u64) -> Vec<String> {
    let load = |file: &Path, at: u64| {
        ["-device".to_owned(), format!("loader,file={},addr={at:#x},force-raw=on", file.display())]
    };
    load(image, IMAGE_AT).into_iter().chain(load(tree, tree_at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_ends_with_what_it_loads() {
        let stub = stub(0x1234);
        assert_eq!(stub.len(), 32);
        // Each literal load counts from itself in words: bits 23 to 5.
        let offset = |at: usize| (u32::from_le_bytes(stub[at..at + 4].try_into().unwrap()) >> 5 & 0x7ffff) as usize * 4;
        let value = |at: usize| u64::from_le_bytes(stub[at..at + 8].try_into().unwrap());
        assert_eq!((value(offset(0)), value(4 + offset(4))), (0x1234, IMAGE_AT));
    }

    #[test]
    fn the_options_name_file_and_place() {
        let options = options("k.img".as_ref(), "t.dtb".as_ref(), TREE_AT);
        assert_eq!(options[1], "loader,file=k.img,addr=0x44200000,force-raw=on");
        assert_eq!(options[3], "loader,file=t.dtb,addr=0x4c000000,force-raw=on");
    }
}
