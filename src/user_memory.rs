//! User memory, typed: the kernel touches it through these functions only.
//!
//! Everything here ends in `arch::user_copy`, whose faults become `EFAULT`.

use alloc::vec::Vec;

use linux_raw_sys::general as linux;

pub use crate::arch::user_copy::UserRange;

use crate::arch::user_copy::{copy_from_user, copy_to_user};
use crate::errno::Errno;
use crate::heap;
use crate::sched;

/// Types that may be copied to and from user memory byte by byte.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding: a copy out shows no kernel memory.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty)*) => {
        // SAFETY: integers, and structures of Linux's ABI that are made of integers (and of
        // pointers that are never followed) without implicit padding.
        $(unsafe impl Plain for $type {})*
    };
}

plain! {
    u8 u16 u32 u64 i32 i64 usize
    linux::stat linux::iovec linux::pollfd linux::winsize linux::rlimit64
    linux::__kernel_timespec linux::__kernel_old_timeval linux::__kernel_old_itimerval
}

// SAFETY: an array has no padding between its elements.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` promises that all bytes of the value are initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The values as they lie in memory.
pub fn bytes_of_all<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: as above, and a slice has no padding between its elements.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: `Plain` promises that any bytes make a value.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Reads a value.
pub fn read<T: Plain>(address: u64) -> Result<T, Errno> {
    // SAFETY: `Plain` promises that any bytes, zeroes too, make a value.
    let mut value: T = unsafe { core::mem::zeroed() };
    copy_from_user(bytes_of_mut(&mut value), address).map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// Writes a value.
pub fn write<T: Plain>(address: u64, value: &T) -> Result<(), Errno> {
    copy_to_user(address, bytes_of(value)).map_err(|_| Errno::EFAULT)
}

/// Writes a value unless the pointer is null.
pub fn write_unless_null<T: Plain>(address: u64, value: &T) -> Result<(), Errno> {
    if address == 0 { Ok(()) } else { write(address, value) }
}

/// Writes bytes.
pub fn write_bytes(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    copy_to_user(address, bytes).map_err(|_| Errno::EFAULT)
}

/// Reads as many bytes as there is room for.
pub fn read_bytes(bytes: &mut [u8], address: u64) -> Result<(), Errno> {
    copy_from_user(bytes, address).map_err(|_| Errno::EFAULT)
}

/// Reads a string that ends in a zero byte, which is left out. One that has no zero among its
/// first `limit` bytes fails with `too_long`.
pub fn read_string(address: u64, limit: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
    const CHUNK: usize = 64;
    let mut string = Vec::new();
    while string.len() < limit {
        let at = address.checked_add(string.len() as u64).ok_or(Errno::EFAULT)?;
        // Never past an aligned chunk, so never into a page that the string does not reach.
        let length = CHUNK - at as usize % CHUNK;
        let mut chunk = [0; CHUNK];
        read_bytes(&mut chunk[..length], at)?;
        heap::reserve(&mut string, length)?;
        if let Some(end) = chunk[..length].iter().position(|&byte| byte == 0) {
            string.extend_from_slice(&chunk[..end]);
            return if string.len() < limit { Ok(string) } else { Err(too_long) };
        }
        string.extend_from_slice(&chunk[..length]);
    }
    Err(too_long)
}

/// Ranges of user memory that a call reads from or writes to one after another, and how far it has come.
pub struct UserBuffer<'a> {
    /// What is left of the range that it has come to.
    now: UserRange,
    /// Those behind it.
    rest: &'a [UserRange],
    /// How many bytes those have.
    behind: usize,
}

impl<'a> UserBuffer<'a> {
    /// The ranges, whose lengths add up to less than `usize::MAX`.
    pub fn new(ranges: &'a [UserRange]) -> Self {
        Self { now: UserRange::EMPTY, rest: ranges, behind: ranges.iter().map(|range| range.len()).sum() }
    }

    /// One range.
    #[inline]
    pub fn of(range: UserRange) -> Self {
        Self { now: range, rest: &[], behind: 0 }
    }

    /// How many bytes are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.now.len() + self.behind
    }

    /// The address of the next byte; if there is none, of the end.
    pub fn address(&self) -> u64 {
        let next = core::iter::once(&self.now).chain(self.rest).find(|range| !range.is_empty());
        next.unwrap_or(&self.now).start()
    }

    /// Writes as much of `bytes` as there is room for, and says how much that was. A fault after
    /// the first byte ends it early.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.advance(bytes.len(), |to, range| to.write(&bytes[range]).is_ok())
    }

    /// Fills `bytes` as far as there is something left, and says how far. A fault after the first
    /// byte ends it early.
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.advance(bytes.len(), |from, range| from.read(&mut bytes[range]).is_ok())
    }

    /// Writes zeroes.
    pub fn put_zeroes(&mut self) -> Result<usize, Errno> {
        const ZEROES: [u8; 256] = [0; 256];
        let mut total = 0;
        while self.remaining() > 0 && !(total > 0 && sched::is_interrupted()) {
            match self.put(&ZEROES) {
                Ok(count) => total += count,
                Err(error) if total == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    /// Leaves out what is left.
    pub fn skip_all(&mut self) -> usize {
        let left = self.remaining();
        *self = Self::of(UserRange::EMPTY);
        left
    }

    /// Moves up to `limit` bytes by `copy`, which gets where and which of the bytes, and says how that went.
    #[inline]
    fn advance(
        &mut self,
        limit: usize,
        mut copy: impl FnMut(UserRange, core::ops::Range<usize>) -> bool,
    ) -> Result<usize, Errno> {
        if limit > self.now.len() {
            return self.advance_in_pieces(limit, copy);
        }
        // As most do: all of it is in one range.
        if !copy(self.now, 0..limit) {
            return Err(Errno::EFAULT);
        }
        self.now = self.now.behind(limit);
        Ok(limit)
    }

    #[inline(never)]
    fn advance_in_pieces(
        &mut self,
        limit: usize,
        mut copy: impl FnMut(UserRange, core::ops::Range<usize>) -> bool,
    ) -> Result<usize, Errno> {
        let mut total = 0;
        while total < limit {
            let count = self.now.len().min(limit - total);
            if !copy(self.now, total..total + count) {
                return if total > 0 { Ok(total) } else { Err(Errno::EFAULT) };
            }
            total += count;
            self.now = self.now.behind(count);
            if self.now.is_empty() {
                let [next, rest @ ..] = self.rest else { break };
                (self.now, self.rest) = (*next, rest);
                self.behind -= next.len();
            }
        }
        Ok(total)
    }
}
