//! The bootable file: a raw arm64 Image, alone or with its program and command line inside.
//!
//! The kernel keeps a descriptor among its read-only data: [`MAGIC`], then the offset and length of an archive, of a
//! command line and of a device tree, all zero in a plain kernel. Bundling appends them behind the memory the image claims for
//! itself (its bss included, so that zeroing bss cannot wipe them), fills the descriptor in and enlarges that claim.

use anyhow::{Context, Result, bail, ensure};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// What the descriptor starts with. The kernel aligns it to 32 bytes.
pub(crate) const MAGIC: [u8; 16] = *b"LAZULI-BUNDLE\0\0\0";
const MAGIC_ALIGN: usize = 32;
/// The bytes of the descriptor's fields: three offsets, each with a length.
const FIELDS_LEN: usize = 48;
/// Offsets in the arm64 Image header (Linux Documentation/arch/arm64/booting.rst).
const IMAGE_SIZE: usize = 16;
const IMAGE_MAGIC: usize = 56;
const PAGE: usize = 4096;

/// Turns an ELF kernel into the raw bytes that a boot loader copies to memory. A raw Image passes unchanged.
pub(crate) fn raw(file: &[u8]) -> Result<Vec<u8>> {
    let image = if file.starts_with(b"\x7fELF") { flatten(file)? } else { file.to_vec() };
    ensure!(
        image.get(IMAGE_MAGIC..IMAGE_MAGIC + 4) == Some(b"ARM\x64"),
        "not an arm64 kernel: the Image header's magic `ARM\\x64` is missing at byte {IMAGE_MAGIC}"
    );
    Ok(image)
}

/// Lays the loadable segments out by physical address, the lowest first; memory without file content stays out.
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<object::Endianness>::parse(elf).context("not a 64-bit ELF")?;
    let endian = header.endian()?;
    let loaded = |p: &&object::elf::ProgramHeader64<_>| p.p_type(endian) == PT_LOAD && p.p_filesz(endian) > 0;
    let segments: Vec<_> = header.program_headers(endian, elf)?.iter().filter(loaded).collect();
    let base = segments.iter().map(|s| s.p_paddr(endian)).min().context("the ELF loads nothing")?;
    let mut image = Vec::new();
    for segment in segments {
        let start = usize::try_from(segment.p_paddr(endian) - base)?;
        ensure!(start < 1 << 30, "the ELF's segments lie more than 1 GiB apart");
        let Ok(data) = segment.data(endian, elf) else { bail!("the ELF is cut short") };
        image.resize(image.len().max(start + data.len()), 0);
        image[start..start + data.len()].copy_from_slice(data);
    }
    Ok(image)
}

/// Joins a raw image, an archive, a command line and a device tree (or none: empty) into one bootable file.
pub(crate) fn bundle(image: &[u8], archive: &[u8], command_line: &str, tree: &[u8]) -> Result<Vec<u8>> {
    let descriptor = find_descriptor(image)?;
    let claimed = usize::try_from(read_u64(image, IMAGE_SIZE))?;
    ensure!(claimed >= image.len(), "the Image header claims {claimed} bytes, fewer than the file has");
    let mut out = image.to_vec();
    let mut fields = Vec::new();
    out.resize(claimed, 0);
    for part in [archive, command_line.as_bytes(), tree] {
        out.resize(out.len().next_multiple_of(PAGE), 0);
        fields.extend([out.len() as u64, part.len() as u64]);
        out.extend_from_slice(part);
    }
    out.resize(out.len().next_multiple_of(PAGE), 0);
    for (index, value) in fields.into_iter().enumerate() {
        write_u64(&mut out, descriptor + MAGIC.len() + 8 * index, value);
    }
    let total = out.len() as u64;
    write_u64(&mut out, IMAGE_SIZE, total);
    Ok(out)
}

fn find_descriptor(image: &[u8]) -> Result<usize> {
    let at = |start: &usize| image[*start..].starts_with(&MAGIC);
    let mut places = (0..image.len()).step_by(MAGIC_ALIGN).filter(at);
    let place = places.next().context("this kernel has no bundle descriptor; build it from this tree")?;
    ensure!(places.next().is_none(), "this kernel has two bundle descriptors");
    ensure!(place + MAGIC.len() + FIELDS_LEN <= image.len(), "the bundle descriptor is cut short");
    let fields = &image[place + MAGIC.len()..place + MAGIC.len() + FIELDS_LEN];
    ensure!(fields.iter().all(|b| *b == 0), "this image is a bundle already; start from the plain kernel");
    Ok(place)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn write_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Reads a size such as `512K`, `8M` or `1000`.
pub(crate) fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => bail!("`{text}` is not a size; write it as 512K"),
    };
    let number: u64 = digits.parse().with_context(|| format!("`{text}` is not a size; write it as 512K"))?;
    Ok(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMED: u64 = 0x3000;

    /// A plain kernel of 0x1800 bytes that claims 0x3000 of memory, with its descriptor at 0x1020.
    fn kernel() -> Vec<u8> {
        let mut image = vec![0x55; 0x1800];
        image[IMAGE_MAGIC..IMAGE_MAGIC + 4].copy_from_slice(b"ARM\x64");
        write_u64(&mut image, IMAGE_SIZE, CLAIMED);
        image[0x1020..0x1030].copy_from_slice(&MAGIC);
        image[0x1030..0x1060].fill(0);
        image
    }

    #[test]
    fn a_bundle_is_found_through_the_descriptor() {
        let out = bundle(&kernel(), b"the archive", "init=/app", b"the tree").unwrap();
        let field = |n: usize| read_u64(&out, 0x1030 + 8 * n) as usize;
        assert_eq!(&out[field(0)..field(0) + field(1)], b"the archive");
        assert_eq!(&out[field(2)..field(2) + field(3)], b"init=/app");
        assert_eq!(&out[field(4)..field(4) + field(5)], b"the tree");
        assert!(field(0) as u64 >= CLAIMED, "inside the kernel's own memory");
        assert_eq!([0, 2, 4].map(|n| field(n) % PAGE), [0; 3]);
        assert_eq!(read_u64(&out, IMAGE_SIZE), out.len() as u64);
        assert!(out[0x1800..CLAIMED as usize].iter().all(|b| *b == 0), "bss must read as zero");
        assert_eq!(out[0x1060..0x1800], kernel()[0x1060..], "the kernel itself must not change");
    }

    #[test]
    fn an_unaligned_magic_is_a_coincidence() {
        let mut image = kernel();
        image[0x808..0x818].copy_from_slice(&MAGIC);
        assert!(bundle(&image, b"a", "", b"").is_ok());
    }

    #[test]
    fn refuses_two_descriptors_none_and_a_bundle() {
        let mut two = kernel();
        two[0x400..0x410].copy_from_slice(&MAGIC);
        let mut none = kernel();
        none[0x1020] = b'-';
        let bundled = bundle(&kernel(), b"a", "b", b"").unwrap();
        for (image, word) in [(two, "two"), (none, "no bundle"), (bundled, "already")] {
            let error = bundle(&image, b"a", "", b"").unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    /// A little-endian AArch64 ELF with two segments: the second lies 0x100 above the first, and has bss.
    fn elf() -> Vec<u8> {
        let mut file = vec![0u8; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[6] = 1;
        file[16..20].copy_from_slice(&[2, 0, 183, 0]);
        file[20] = 1;
        write_u64(&mut file, 32, 64);
        file[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
        let payload = file.len() as u64;
        for (n, (pa, size, memory)) in [(0x4020_0000u64, 0x80u64, 0x80u64), (0x4020_0100, 8, 0x4000)].iter().enumerate()
        {
            let at = 64 + 56 * n;
            file[at] = 1;
            write_u64(&mut file, at + 8, payload + 0x80 * n as u64);
            write_u64(&mut file, at + 16, 0xffff_0000_0000_0000 + pa);
            write_u64(&mut file, at + 24, *pa);
            write_u64(&mut file, at + 32, *size);
            write_u64(&mut file, at + 40, *memory);
        }
        let mut first = vec![1; 0x80];
        first[IMAGE_MAGIC..IMAGE_MAGIC + 4].copy_from_slice(b"ARM\x64");
        file.extend(first);
        file.extend([2; 8]);
        file
    }

    #[test]
    fn an_elf_is_laid_out_by_physical_address() {
        let image = raw(&elf()).unwrap();
        assert_eq!(image.len(), 0x108, "bss takes no room in the file");
        assert_eq!((image[0], image[0x7f], image[0x80], image[0xff], image[0x100]), (1, 1, 0, 0, 2));
        assert_eq!(raw(&image).unwrap(), image, "a raw Image passes unchanged");
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert!(raw(b"hello").is_err());
        assert!(raw(&elf()[..100]).is_err());
        let mut short = elf();
        short.truncate(short.len() - 4);
        assert!(raw(&short).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn sizes_have_units() {
        let read = |t| parse_size(t).ok();
        assert_eq!(
            [read("512K"), read("1M"), read("7"), read("K"), read("5T")],
            [Some(524_288), Some(1 << 20), Some(7), None, None]
        );
    }
}
