//! System calls on open files.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::{general as linux, ioctl};

use super::Call;
use crate::errno::Errno;
use crate::fs::descriptor::{self, Descriptors};
use crate::fs::file::OpenFile;
use crate::fs::in_use::InUse;
use crate::fs::pipe;
use crate::heap;
use crate::process::signal::send;
use crate::process::thread;
use crate::user_memory::{self, UserBuffer, UserRange};

/// The most bytes that one call moves, as in Linux.
const MAX_COUNT: usize = 0x7fff_f000;
/// The most ranges that `readv` and `writev` take (`UIO_MAXIOV`).
const MAX_RANGES: usize = 1024;

/// The running thread's descriptors.
#[inline]
pub(super) fn descriptors() -> &'static Descriptors {
    &thread::current().process.files
}

/// The open file that an argument numbers.
#[inline]
pub(super) fn file(call: &Call<'_>, index: usize) -> Result<Arc<OpenFile>, Errno> {
    descriptors().get(call.arg(index))
}

/// The same for a call that does nothing but read, write or seek.
#[inline(always)]
fn in_use(call: &Call<'_>, index: usize) -> Result<InUse<'static>, Errno> {
    let thread = thread::current();
    // SAFETY: the running thread's own, and the calls below use one file and neither change descriptors nor make threads.
    unsafe { thread.process.files.use_file(call.arg(index), &thread.using) }
}

/// The memory that the second and third arguments of a call give.
#[inline]
fn buffer(call: &Call<'_>) -> Result<UserBuffer<'static>, Errno> {
    let range = UserRange::new(call.arg(1), (call.arg(2) as usize).min(MAX_COUNT));
    range.map(UserBuffer::of).map_err(|_| Errno::EFAULT)
}

/// The ranges that an `iovec` array lists. One that reaches out of the user half is refused before anything is moved, and
/// after all whose lengths are wrong, as in Linux.
fn ranges(call: &Call<'_>) -> Result<Vec<UserRange>, Errno> {
    let count = call.arg(2) as usize;
    if count > MAX_RANGES {
        return Err(Errno::EINVAL);
    }
    let mut left = MAX_COUNT;
    let mut ranges = Vec::new();
    heap::reserve(&mut ranges, count)?;
    for index in 0..count as u64 {
        let [address, length]: [u64; 2] = user_memory::read(call.arg(1).wrapping_add(16 * index))?;
        if length > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let length = (length as usize).min(left);
        left -= length;
        ranges.extend(UserRange::new(address, length));
    }
    if ranges.len() == count { Ok(ranges) } else { Err(Errno::EFAULT) }
}

/// Sends SIGPIPE if the caller wrote where nobody reads.
#[inline]
fn tell_of_broken_pipe(error: &Errno) {
    if *error == Errno::EPIPE {
        send::broken_pipe();
    }
}

pub(super) fn read(call: Call<'_>) -> Result<usize, Errno> {
    in_use(&call, 0)?.read(&mut buffer(&call)?)
}

pub(super) fn write(call: Call<'_>) -> Result<usize, Errno> {
    in_use(&call, 0)?.write(&mut buffer(&call)?).inspect_err(tell_of_broken_pipe)
}

pub(super) fn readv(call: Call<'_>) -> Result<usize, Errno> {
    in_use(&call, 0)?.read(&mut UserBuffer::new(&ranges(&call)?))
}

pub(super) fn writev(call: Call<'_>) -> Result<usize, Errno> {
    in_use(&call, 0)?.write(&mut UserBuffer::new(&ranges(&call)?)).inspect_err(tell_of_broken_pipe)
}

pub(super) fn pread64(call: Call<'_>) -> Result<usize, Errno> {
    let position = size(call.arg(3))?;
    in_use(&call, 0)?.read_at(position, &mut buffer(&call)?)
}

pub(super) fn pwrite64(call: Call<'_>) -> Result<usize, Errno> {
    let position = size(call.arg(3))?;
    in_use(&call, 0)?.write_at(position, &mut buffer(&call)?)
}

/// An argument of type `loff_t` that must not be negative.
fn size(argument: u64) -> Result<u64, Errno> {
    if argument > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(argument) }
}

pub(super) fn lseek(call: Call<'_>) -> Result<usize, Errno> {
    in_use(&call, 0)?.seek(call.arg(1) as i64, call.arg32(2))
}

/// Frees a descriptor of the running thread's process; the file is closed when the caller drops it.
fn close_number(number: u64) -> Result<Arc<OpenFile>, Errno> {
    let process = &thread::current().process;
    process.files.remove(number, &**process)
}

pub(super) fn close(call: Call<'_>) -> Result<usize, Errno> {
    close_number(call.arg(0)).map(|_| 0)
}

pub(super) fn close_range(call: Call<'_>) -> Result<usize, Errno> {
    let (first, last) = (call.arg32(0) as usize, call.arg32(1) as usize);
    if first > last || call.arg32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let process = &thread::current().process;
    process.files.close_range(first, last, &**process);
    Ok(0)
}

pub(super) fn dup(call: Call<'_>) -> Result<usize, Errno> {
    descriptors().add(file(&call, 0)?, 0, false)
}

pub(super) fn dup3(call: Call<'_>) -> Result<usize, Errno> {
    let (old, new, flags) = (call.arg32(0), call.arg32(1), call.arg32(2));
    if old == new || flags & !linux::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let process = &thread::current().process;
    let before = process.files.set(new as usize, file(&call, 0)?, flags & linux::O_CLOEXEC != 0, &**process)?;
    drop(before);
    Ok(new as usize)
}

pub(super) fn fcntl(call: Call<'_>) -> Result<usize, Errno> {
    let descriptors = descriptors();
    let (number, request, argument) = (call.arg(0), call.arg32(1), call.arg32(2));
    let file = descriptors.get(number)?;
    match request {
        linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
            if argument as usize >= descriptor::LIMIT {
                return Err(Errno::EINVAL);
            }
            descriptors.add(file, argument as usize, request == linux::F_DUPFD_CLOEXEC)
        }
        linux::F_GETFD => Ok(usize::from(descriptors.closes_on_exec(number)?)),
        linux::F_SETFD => {
            descriptors.set_close_on_exec(number, argument & linux::FD_CLOEXEC != 0)?;
            Ok(0)
        }
        linux::F_GETFL => Ok(file.flags() as usize),
        linux::F_SETFL => {
            file.set_flags(argument);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn ioctl(call: Call<'_>) -> Result<usize, Errno> {
    let (number, argument) = (call.arg(0), call.arg(2));
    match call.arg32(1) {
        ioctl::FIOCLEX => descriptors().set_close_on_exec(number, true)?,
        ioctl::FIONCLEX => descriptors().set_close_on_exec(number, false)?,
        ioctl::FIONBIO => {
            let file = file(&call, 0)?;
            let other = file.flags() & !linux::O_NONBLOCK;
            let set = user_memory::read::<u32>(argument)? != 0;
            file.set_flags(if set { other | linux::O_NONBLOCK } else { other });
        }
        request => return file(&call, 0)?.file().control(request, argument),
    }
    Ok(0)
}

pub(super) fn pipe2(call: Call<'_>) -> Result<usize, Errno> {
    let flags = call.arg32(1);
    if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let close_on_exec = flags & linux::O_CLOEXEC != 0;
    let (reader, writer) = pipe::pipe(flags & linux::O_NONBLOCK)?;
    let descriptors = descriptors();
    let first = descriptors.add(reader, 0, close_on_exec)?;
    let second = match descriptors.add(writer, 0, close_on_exec) {
        Ok(second) => second,
        Err(error) => {
            let _ = close_number(first as u64);
            return Err(error);
        }
    };
    if let Err(error) = user_memory::write(call.arg(0), &[first as u32, second as u32]) {
        let _ = (close_number(first as u64), close_number(second as u64));
        return Err(error);
    }
    Ok(0)
}

pub(super) fn ftruncate(call: Call<'_>) -> Result<usize, Errno> {
    let size = size(call.arg(1))?;
    let file = file(&call, 0)?;
    if !file.is_writable() {
        return Err(Errno::EINVAL);
    }
    file.file().truncate(size)?;
    Ok(0)
}

/// Nothing here outlives the power: there is nothing to make safe.
pub(super) fn sync(call: Call<'_>) -> Result<usize, Errno> {
    file(&call, 0)?.file().seek_end().map(|_| 0).ok_or(Errno::EINVAL)
}

/// Where the name stands in `struct linux_dirent64`.
const ENTRY_NAME: usize = 19;

pub(super) fn getdents64(call: Call<'_>) -> Result<usize, Errno> {
    let file = file(&call, 0)?;
    let directory = file.file().node().ok_or(Errno::ENOTDIR)?;
    directory.as_directory()?;
    let (start, room) = (call.arg(1), call.arg32(2) as usize);
    let mut used = 0;
    file.each_entry(|index| {
        let Some((name, node)) = directory.entry(index)? else { return Ok(false) };
        let length = (ENTRY_NAME + name.len() + 1).next_multiple_of(8);
        if used + length > room {
            // Not even one fits: the caller must hear of it.
            return if used == 0 { Err(Errno::EINVAL) } else { Ok(false) };
        }
        let mut entry = Vec::with_capacity(length);
        entry.extend_from_slice(&node.number.to_le_bytes());
        entry.extend_from_slice(&(index as u64 + 1).to_le_bytes());
        entry.extend_from_slice(&(length as u16).to_le_bytes());
        entry.push(node.entry_type());
        entry.extend_from_slice(&name);
        entry.resize(length, 0);
        user_memory::write_bytes(start.wrapping_add(used as u64), &entry)?;
        used += length;
        Ok(true)
    })?;
    Ok(used)
}

/// It saves a copy where files live in a page cache, which these do not: programs that are told
/// `EINVAL` read and write instead.
pub(super) fn sendfile(call: Call<'_>) -> Result<usize, Errno> {
    file(&call, 0)?;
    file(&call, 1)?;
    Err(Errno::EINVAL)
}
