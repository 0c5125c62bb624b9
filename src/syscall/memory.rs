//! System calls on memory.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use mm::pte::Protection;
use mm::region::{Attributes, Backing, Regions, Sharing};
use mm::space::{MapError, Placement};
use mm::{PAGE_SIZE, Page, USER_END};

use super::Call;
use super::files::file;
use crate::errno::Errno;
use crate::fs::device::Device;
use crate::fs::file::OpenFile;
use crate::fs::node::Content;
use crate::process::memory::current;

/// The rights that `PROT_…` bits name. What a page may be written it may be read.
fn protection(bits: u32) -> Protection {
    let write = bits & linux::PROT_WRITE != 0;
    let execute = bits & linux::PROT_EXEC != 0;
    Protection { read: write || execute || bits & linux::PROT_READ != 0, write, execute }
}

pub(super) fn brk(call: Call<'_>) -> Result<usize, Errno> {
    let mm = current();
    Ok(mm.space().brk(mm, call.arg(0)) as usize)
}

pub(super) fn mmap(call: Call<'_>) -> Result<usize, Errno> {
    let (address, length, flags, offset) = (call.arg(0), call.arg(1), call.arg32(3), call.arg(5));
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let protection = protection(call.arg32(2));
    let source = match flags & linux::MAP_ANONYMOUS {
        0 => source(&call, protection, flags)?,
        _ => Source::Zeroes,
    };
    let sharing = match flags & linux::MAP_TYPE {
        linux::MAP_PRIVATE => Sharing::Private,
        linux::MAP_SHARED | linux::MAP_SHARED_VALIDATE => Sharing::Shared,
        _ => return Err(Errno::EINVAL),
    };
    let placement = match address {
        _ if flags & linux::MAP_FIXED_NOREPLACE != 0 => Placement::AtFree(address),
        _ if flags & linux::MAP_FIXED != 0 => Placement::At(address),
        0 => Placement::Anywhere,
        _ => Placement::Near(address),
    };
    let anonymous = Attributes { sharing, ..Attributes::anonymous(protection) };
    let start = match source {
        Source::Zeroes => map(placement, length, anonymous)?,
        Source::Image(bytes) => {
            let offset = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
            let backing = Backing::Image { bytes, offset };
            // Nobody can write to the file: to share it is to have a copy.
            map(placement, length, Attributes { backing, sharing: Sharing::Private, ..anonymous })?
        }
        Source::Copy(file) => {
            let Some(Content::Memory(memory)) = file.file().node().map(|node| &node.content) else {
                return Err(Errno::ENODEV);
            };
            memory.show(offset, length as usize, |contents| map_copy(placement, length, anonymous, contents))?
        }
    };
    Ok(start as usize)
}

/// What a new mapping holds.
enum Source {
    Zeroes,
    Image(&'static [u8]),
    /// A copy of what the file holds now.
    Copy(Arc<OpenFile>),
}

/// What the file of an `mmap` call offers.
fn source(call: &Call<'_>, protection: Protection, flags: u32) -> Result<Source, Errno> {
    let file = file(call, 4)?;
    let shares = flags & linux::MAP_TYPE != linux::MAP_PRIVATE;
    if !file.is_readable() || shares && protection.write && !file.is_writable() {
        return Err(Errno::EACCES);
    }
    match file.file().node().map(|node| &node.content) {
        Some(Content::Image(bytes)) => Ok(Source::Image(bytes)),
        Some(Content::Device(Device::Zero)) => Ok(Source::Zeroes),
        Some(Content::Memory(_)) if !shares => Ok(Source::Copy(file)),
        _ => Err(Errno::ENODEV),
    }
}

fn map(placement: Placement, length: u64, attributes: Attributes) -> Result<u64, Errno> {
    let mm = current();
    Ok(mm.space().map(mm, placement, length, attributes)?)
}

/// Maps a private copy. It is filled before it gets its rights, which may not allow that.
fn map_copy(placement: Placement, length: u64, attributes: Attributes, contents: &[u8]) -> Result<u64, Errno> {
    let mm = current();
    let mut space = mm.space();
    let writable = Attributes { protection: Protection::READ_WRITE, ..attributes };
    let start = space.map(mm, placement, length, writable)?;
    let filled = space.write_bytes(mm, start, contents);
    if filled.is_err() || space.protect(mm, start, length, attributes.protection).is_err() {
        let _ = space.unmap(mm, start, length);
        return Err(Errno::ENOMEM);
    }
    Ok(start)
}

pub(super) fn munmap(call: Call<'_>) -> Result<usize, Errno> {
    let mm = current();
    match mm.space().unmap(mm, call.arg(0), call.arg(1)) {
        Ok(()) => Ok(0),
        Err(MapError::Beyond) => Err(Errno::EINVAL),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn mprotect(call: Call<'_>) -> Result<usize, Errno> {
    let (address, length, bits) = (call.arg(0), call.arg(1), call.arg32(2));
    let known = linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC | linux::PROT_SEM;
    if bits & !known != 0 || !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let mm = current();
    let mut space = mm.space();
    let result = space.protect(mm, address, length, protection(bits));
    if result == Err(MapError::Unmapped) {
        // As in Linux, what is mapped before the hole changes.
        let before_hole = mapped_prefix(space.regions(), address, length);
        space.protect(mm, address, before_hole, protection(bits))?;
    }
    result?;
    Ok(0)
}

/// How many bytes of a range are mapped before the first that is not.
fn mapped_prefix(regions: &Regions, address: u64, length: u64) -> u64 {
    let mut end = address;
    while let Some(region) = Page::containing(end).and_then(|page| regions.find(page)) {
        end = region.pages.end.address();
    }
    length.min(end - address)
}

/// Advice that may be left unheeded.
const HINTS: &[u32] = &[
    linux::MADV_NORMAL,
    linux::MADV_RANDOM,
    linux::MADV_SEQUENTIAL,
    linux::MADV_WILLNEED,
    linux::MADV_FREE,
    linux::MADV_HUGEPAGE,
    linux::MADV_NOHUGEPAGE,
    linux::MADV_DONTDUMP,
    linux::MADV_DODUMP,
    linux::MADV_COLD,
    linux::MADV_PAGEOUT,
];

pub(super) fn madvise(call: Call<'_>) -> Result<usize, Errno> {
    let (address, length, advice) = (call.arg(0), call.arg(1), call.arg32(2));
    let forgets = advice == linux::MADV_DONTNEED;
    if !forgets && !HINTS.contains(&advice) {
        return Err(Errno::EINVAL);
    }
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let mm = current();
    if forgets {
        mm.space().advise_dont_need(mm, address, length)?;
    } else {
        check_mapped(address, length)?;
    }
    Ok(0)
}

/// Whether all of a range is mapped.
fn check_mapped(address: u64, length: u64) -> Result<(), Errno> {
    let end = address.checked_add(length).filter(|&end| end <= USER_END).ok_or(Errno::ENOMEM)?;
    let pages = Page::from_number(address / PAGE_SIZE)..Page::from_number(end.div_ceil(PAGE_SIZE));
    if length == 0 || current().space().regions().covers(&pages) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// Shared memory is nowhere but in memory: it is always in step.
pub(super) fn msync(call: Call<'_>) -> Result<usize, Errno> {
    let known = linux::MS_ASYNC | linux::MS_INVALIDATE | linux::MS_SYNC;
    let both = linux::MS_ASYNC | linux::MS_SYNC;
    let flags = call.arg32(2);
    if flags & !known != 0 || flags & both == both || !call.arg(0).is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    check_mapped(call.arg(0), call.arg(1))?;
    Ok(0)
}
