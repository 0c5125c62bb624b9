//! Reads a program file: what to map where, or why it cannot run.

use alloc::vec::Vec;
use core::fmt;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::ProgramHeader;

use mm::PAGE_SIZE;
use mm::pte::Protection;

/// Programs lie between these: nothing near null, and room for stacks and mappings above.
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x8000_0000_0000;
/// Where a position-independent program is put.
const BASE: u64 = 0x5555_5555_0000;
/// The most program headers that are read, as in Linux (64 KiB of them).
const MAX_HEADERS: u16 = (65536 / HEADER_SIZE) as u16;
const HEADER_SIZE: usize = 56;

/// Why a program file cannot run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfError<'a> {
    /// It does not start as an ELF file does.
    NotElf,
    /// It is for 32-bit or big-endian machines.
    WrongClass,
    /// It is for another machine, by the number in the file.
    WrongMachine(u16),
    /// It is an object file or a core, by the number in the file.
    WrongType(u16),
    /// It ends before something it describes.
    Truncated,
    /// It has nothing to load, or more than can be read.
    BadHeaders,
    /// It needs a dynamic linker.
    Interpreter(&'a str),
    /// A segment's address and its place in the file do not agree within a page, or its alignment
    /// is no power of two.
    BadAlignment,
    /// A segment is larger in the file than in memory.
    BadSize,
    /// Two segments share a page.
    Overlap,
    /// A segment lies outside of the addresses for programs.
    OutOfRange,
    /// The first instruction is not in an executable segment.
    BadEntry,
}

impl fmt::Display for ElfError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::WrongClass => write!(f, "not a 64-bit little-endian ELF file"),
            Self::WrongMachine(machine) => {
                write!(f, "for the wrong machine: ELF machine {machine}, and this is AArch64 ({})", abi::EM_AARCH64)
            }
            Self::WrongType(kind) => write!(f, "ELF type {kind}, which is not a program"),
            Self::Truncated => write!(f, "truncated: it ends before something it describes"),
            Self::BadHeaders => write!(f, "its program headers describe nothing that can be loaded"),
            Self::Interpreter(path) => {
                write!(f, "needs the dynamic linker {path}, and only static programs run here: link it statically")
            }
            Self::BadAlignment => write!(f, "a segment is not aligned as its header says"),
            Self::BadSize => write!(f, "a segment is larger in the file than in memory"),
            Self::Overlap => write!(f, "two segments overlap"),
            Self::OutOfRange => {
                write!(f, "a segment lies outside of the user memory for programs, {LOWEST:#x} to {HIGHEST:#x}")
            }
            Self::BadEntry => write!(f, "its entry point is in no executable segment"),
        }
    }
}

/// One run of pages to map.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The address of its first page.
    pub start: u64,
    /// The end of its last page.
    pub end: u64,
    /// Where in the file its first page begins.
    pub file_start: usize,
    /// Where in the file its contents end; the rest is zeroes.
    pub file_end: usize,
    /// Its rights.
    pub protection: Protection,
}

/// What to map, and what the program is told about it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The segments, lowest first.
    pub segments: Vec<Segment>,
    /// Its first instruction.
    pub entry: u64,
    /// Where its program headers lie in memory; 0 if they do not.
    pub headers: u64,
    /// How many there are.
    pub header_count: u16,
    /// The end of the highest segment: where the heap starts.
    pub heap: u64,
}

/// Reads a program file.
pub fn plan(file: &[u8]) -> Result<Plan, ElfError<'_>> {
    let header = read_header(file)?;
    let base = if header.e_type == abi::ET_DYN { BASE } else { 0 };
    let headers: Vec<ProgramHeader> = headers(file, &header)?.iter().filter_map(program_header).collect();
    if let Some(interpreter) = headers.iter().find(|header| header.p_type == abi::PT_INTERP) {
        return Err(ElfError::Interpreter(text(file, interpreter)?));
    }
    let mut segments = Vec::new();
    for header in headers.iter().filter(|header| header.p_type == abi::PT_LOAD && header.p_memsz > 0) {
        segments.push(segment(file, header, base)?);
    }
    segments.sort_unstable_by_key(|segment| segment.start);
    if segments.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(ElfError::Overlap);
    }
    let heap = segments.last().ok_or(ElfError::BadHeaders)?.end;
    let entry = base.checked_add(header.e_entry).ok_or(ElfError::BadEntry)?;
    let executable = |segment: &&Segment| segment.protection.execute && (segment.start..segment.end).contains(&entry);
    if entry % 4 != 0 || segments.iter().find(executable).is_none() {
        return Err(ElfError::BadEntry);
    }
    let headers = header_address(&headers, &header, base);
    Ok(Plan { segments, entry, headers, header_count: header.e_phnum, heap })
}

fn read_header(file: &[u8]) -> Result<FileHeader<LittleEndian>, ElfError<'_>> {
    if !file.starts_with(&abi::ELFMAGIC) {
        return Err(ElfError::NotElf);
    }
    let ident = file.get(..abi::EI_NIDENT).ok_or(ElfError::Truncated)?;
    let ident = parse_ident::<LittleEndian>(ident).map_err(|_| ElfError::WrongClass)?;
    if ident.1 != Class::ELF64 {
        return Err(ElfError::WrongClass);
    }
    let rest = file.get(abi::EI_NIDENT..).ok_or(ElfError::Truncated)?;
    let header = FileHeader::parse_tail(ident, rest).map_err(|_| ElfError::Truncated)?;
    match header {
        _ if header.e_machine != abi::EM_AARCH64 => Err(ElfError::WrongMachine(header.e_machine)),
        _ if !matches!(header.e_type, abi::ET_EXEC | abi::ET_DYN) => Err(ElfError::WrongType(header.e_type)),
        _ => Ok(header),
    }
}

fn headers<'a>(file: &'a [u8], header: &FileHeader<LittleEndian>) -> Result<&'a [[u8; HEADER_SIZE]], ElfError<'a>> {
    let sane = usize::from(header.e_phentsize) == HEADER_SIZE && (1..=MAX_HEADERS).contains(&header.e_phnum);
    if !sane {
        return Err(ElfError::BadHeaders);
    }
    let size = HEADER_SIZE * usize::from(header.e_phnum);
    Ok(range(file, header.e_phoff, size as u64)?.as_chunks().0)
}

/// A program header, if it is of a kind that matters: of the dozen that a program has, half are for others. Not read by
/// the library, which checks for each field whether it is there.
fn program_header(bytes: &[u8; HEADER_SIZE]) -> Option<ProgramHeader> {
    let (words, _) = bytes.as_chunks();
    let word = |index: usize| u64::from_le_bytes(words[index]);
    let (p_type, p_flags) = (word(0) as u32, (word(0) >> 32) as u32);
    matches!(p_type, abi::PT_LOAD | abi::PT_INTERP | abi::PT_PHDR).then(|| ProgramHeader {
        p_type,
        p_flags,
        p_offset: word(1),
        p_vaddr: word(2),
        p_paddr: word(3),
        p_filesz: word(4),
        p_memsz: word(5),
        p_align: word(6),
    })
}

fn range(file: &[u8], start: u64, size: u64) -> Result<&[u8], ElfError<'_>> {
    let end = start.checked_add(size).ok_or(ElfError::Truncated)?;
    file.get(start as usize..end as usize).ok_or(ElfError::Truncated)
}

/// The path that a PT_INTERP header gives.
fn text<'a>(file: &'a [u8], header: &ProgramHeader) -> Result<&'a str, ElfError<'a>> {
    let bytes = range(file, header.p_offset, header.p_filesz)?;
    let path = bytes.split(|&byte| byte == 0).next().unwrap_or(bytes);
    Ok(core::str::from_utf8(path).unwrap_or("of an unreadable name"))
}

fn segment<'a>(file: &'a [u8], header: &ProgramHeader, base: u64) -> Result<Segment, ElfError<'a>> {
    let alignment_ok = header.p_align <= 1 || header.p_align.is_power_of_two();
    if !alignment_ok || header.p_vaddr % PAGE_SIZE != header.p_offset % PAGE_SIZE {
        return Err(ElfError::BadAlignment);
    }
    if header.p_filesz > header.p_memsz {
        return Err(ElfError::BadSize);
    }
    range(file, header.p_offset, header.p_filesz)?;
    let address = base.checked_add(header.p_vaddr).ok_or(ElfError::OutOfRange)?;
    let end = address.checked_add(header.p_memsz).ok_or(ElfError::OutOfRange)?;
    if address < LOWEST || end > HIGHEST {
        return Err(ElfError::OutOfRange);
    }
    let before = address % PAGE_SIZE;
    let has_contents = header.p_filesz > 0;
    // Where nothing must read as zero and nobody writes, the file goes on to the end of the last page, as in Linux: then
    // that page, too, can be mapped where it lies.
    let goes_on = header.p_flags & abi::PF_W == 0 && header.p_filesz == header.p_memsz;
    let file_end = header.p_offset + header.p_filesz;
    let file_end = if goes_on { file_end.next_multiple_of(PAGE_SIZE).min(file.len() as u64) } else { file_end };
    Ok(Segment {
        start: address - before,
        end: end.next_multiple_of(PAGE_SIZE),
        file_start: if has_contents { (header.p_offset - before) as usize } else { 0 },
        file_end: if has_contents { file_end as usize } else { 0 },
        protection: Protection {
            read: header.p_flags & abi::PF_R != 0,
            write: header.p_flags & abi::PF_W != 0,
            execute: header.p_flags & abi::PF_X != 0,
        },
    })
}

/// Where the program headers lie in memory: in the segment that holds their place in the file.
fn header_address(headers: &[ProgramHeader], header: &FileHeader<LittleEndian>, base: u64) -> u64 {
    if let Some(own) = headers.iter().find(|header| header.p_type == abi::PT_PHDR) {
        return base.wrapping_add(own.p_vaddr);
    }
    // One that takes no memory was not judged, and nothing of it is there.
    let holds = |segment: &&ProgramHeader| {
        segment.p_type == abi::PT_LOAD
            && segment.p_memsz > 0
            && segment.p_offset <= header.e_phoff
            && header.e_phoff - segment.p_offset < segment.p_filesz
    };
    headers.iter().find(holds).map_or(0, |segment| base + segment.p_vaddr + (header.e_phoff - segment.p_offset))
}
