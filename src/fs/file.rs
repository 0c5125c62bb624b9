//! What is open: a file, the position in it and how it was opened.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;
use linux_raw_sys::general as linux;

use crate::errno::Errno;
use crate::fs::node::{Content, Node, status};
use crate::fs::proc;
use crate::fs::regular::{Directory, Image, MemoryFile};
use crate::heap;
use crate::sync::SpinLock;
use crate::user_memory::UserBuffer;

bitflags! {
    /// What a file is ready for, in the words of `poll`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ready: u16 {
        /// A read would not wait.
        const READ = linux::POLLIN as u16 | linux::POLLRDNORM as u16;
        /// A write would not wait.
        const WRITE = linux::POLLOUT as u16 | linux::POLLWRNORM as u16;
        /// A write would fail: nobody can read.
        const ERROR = linux::POLLERR as u16;
        /// Nothing more will come: nobody can write.
        const HANG_UP = linux::POLLHUP as u16;
    }
}

/// Whether a call may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It may wait for data or space.
    Allowed,
    /// It fails with `EAGAIN` instead (`O_NONBLOCK`).
    Refused,
}

/// What an open file can do. What a type cannot do is answered as Linux answers it.
pub trait File: Send + Sync {
    /// Reads at `position`, which means nothing to files that cannot seek.
    fn read(&self, position: u64, to: &mut UserBuffer<'_>, waiting: Waiting) -> Result<usize, Errno> {
        let _ = (position, to, waiting);
        Err(Errno::EINVAL)
    }

    /// Writes at `position`.
    fn write(&self, position: u64, from: &mut UserBuffer<'_>, waiting: Waiting) -> Result<usize, Errno> {
        let _ = (position, from, waiting);
        Err(Errno::EINVAL)
    }

    /// Writes at the end, wherever that is by then, and says where that was.
    fn append(&self, from: &mut UserBuffer<'_>) -> Result<(u64, usize), Errno> {
        let end = self.seek_end().unwrap_or(0);
        Ok((end, self.write(end, from, Waiting::Refused)?))
    }

    /// What it is ready for now.
    fn ready(&self) -> Ready {
        Ready::READ | Ready::WRITE
    }

    /// What `fstat` says.
    fn stat(&self) -> linux::stat;

    /// How long it is, if one can seek in it.
    fn seek_end(&self) -> Option<u64> {
        None
    }

    /// Device-specific requests.
    fn control(&self, request: u32, argument: u64) -> Result<usize, Errno> {
        let _ = (request, argument);
        Err(Errno::ENOTTY)
    }

    /// Makes it this long.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let _ = size;
        Err(Errno::EINVAL)
    }

    /// The node that was opened, if it has one.
    fn node(&self) -> Option<&Arc<Node>> {
        None
    }
}

/// An open file description: what `dup` and `fork` share.
pub struct OpenFile {
    file: Box<dyn File>,
    /// Whether it was opened for reading.
    readable: bool,
    /// Whether it was opened for writing.
    writable: bool,
    /// Whether one can seek in it: then it never waits. As `File::seek_end` says.
    seekable: bool,
    /// Status flags: `O_APPEND`, `O_NONBLOCK`.
    status: AtomicU32,
    position: SpinLock<u64>,
}

/// The status flags that `fcntl` can change.
const CHANGEABLE: u32 = linux::O_APPEND | linux::O_NONBLOCK;

impl OpenFile {
    /// Opens `file` with the `open` flags `flags`.
    pub fn new(file: Box<dyn File>, flags: u32) -> Arc<OpenFile> {
        let access = flags & linux::O_ACCMODE;
        Arc::new(OpenFile {
            seekable: file.seek_end().is_some(),
            file,
            readable: access != linux::O_WRONLY,
            writable: access != linux::O_RDONLY,
            status: AtomicU32::new(flags & CHANGEABLE),
            position: SpinLock::new(0),
        })
    }

    /// What is open.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether it was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Access mode and status flags, for `F_GETFL`.
    pub fn flags(&self) -> u32 {
        let access = match (self.readable, self.writable) {
            (true, true) => linux::O_RDWR,
            (false, true) => linux::O_WRONLY,
            _ => linux::O_RDONLY,
        };
        // Relaxed: a flag of its own; it orders nothing.
        access | self.status.load(Ordering::Relaxed)
    }

    /// Sets the status flags, for `F_SETFL`.
    pub fn set_flags(&self, flags: u32) {
        // Relaxed: see `flags`.
        self.status.store(flags & CHANGEABLE, Ordering::Relaxed);
    }

    fn waiting(&self) -> Waiting {
        if self.flags() & linux::O_NONBLOCK != 0 { Waiting::Refused } else { Waiting::Allowed }
    }

    /// Reads at the position, and moves it.
    #[inline]
    pub fn read(&self, to: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        if !self.readable {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.read(0, to, self.waiting());
        }
        let mut position = self.position.lock();
        let count = self.file.read(*position, to, Waiting::Refused)?;
        *position += count as u64;
        Ok(count)
    }

    /// Writes at the position, or at the end with `O_APPEND`, and moves it.
    #[inline]
    pub fn write(&self, from: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        if !self.writable {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.write(0, from, self.waiting());
        }
        let mut position = self.position.lock();
        let (start, count) = match self.flags() & linux::O_APPEND {
            0 => (*position, self.file.write(*position, from, Waiting::Refused)?),
            _ => self.file.append(from)?,
        };
        *position = start + count as u64;
        Ok(count)
    }

    /// Reads at a place of its own.
    pub fn read_at(&self, position: u64, to: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        self.check_place(position, to, self.readable)?;
        self.file.read(position, to, Waiting::Refused)
    }

    /// Writes at a place of its own.
    pub fn write_at(&self, position: u64, from: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        self.check_place(position, from, self.writable)?;
        self.file.write(position, from, Waiting::Refused)
    }

    /// Whether a call that was told the place may move these bytes, in Linux's order (ksys_pread64, rw_verify_area).
    fn check_place(&self, position: u64, bytes: &UserBuffer<'_>, allowed: bool) -> Result<(), Errno> {
        match () {
            () if !self.seekable => Err(Errno::ESPIPE),
            () if !allowed => Err(Errno::EBADF),
            () if position.saturating_add(bytes.remaining() as u64) > i64::MAX as u64 => Err(Errno::EINVAL),
            () => Ok(()),
        }
    }

    /// Moves the position as `lseek` does.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<usize, Errno> {
        let Some(end) = self.file.seek_end() else {
            // As in Linux, where no file knows such a number.
            return Err(if whence > linux::SEEK_HOLE { Errno::EINVAL } else { Errno::ESPIPE });
        };
        let mut position = self.position.lock();
        let base = match whence {
            linux::SEEK_SET => 0,
            linux::SEEK_CUR => *position,
            linux::SEEK_END => end,
            _ => return Err(Errno::EINVAL),
        };
        let target = base.checked_add_signed(offset).filter(|&target| target <= i64::MAX as u64);
        *position = target.ok_or(Errno::EINVAL)?;
        Ok(*position as usize)
    }

    /// Gives the next directory entry's number to `visit`, again and again, until it says stop or
    /// there are no more. Each entry that `visit` took moves the position on.
    pub fn each_entry(&self, mut visit: impl FnMut(usize) -> Result<bool, Errno>) -> Result<(), Errno> {
        let mut position = self.position.lock();
        while visit(*position as usize)? {
            *position += 1;
        }
        Ok(())
    }
}

/// Opens a node with the `open` flags `flags`.
pub fn open(node: &Arc<Node>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    heap::admit()?;
    let writes = flags & linux::O_ACCMODE != linux::O_RDONLY;
    let file: Box<dyn File> = match &node.content {
        Content::Directory(_) if writes => return Err(Errno::EISDIR),
        Content::Image(_) if writes => return Err(Errno::EROFS),
        Content::Link(_) | Content::Executable => return Err(Errno::ELOOP),
        Content::Directory(_) => Box::new(Directory(node.clone())),
        Content::Image(bytes) => Box::new(Image { node: node.clone(), bytes }),
        Content::Memory(memory) => {
            if flags & linux::O_TRUNC != 0 {
                memory.truncate(0)?;
            }
            Box::new(MemoryFile(node.clone()))
        }
        Content::Device(device) => device.open(node),
        Content::Report(report) => proc::open(*report, node)?,
        Content::Attribute(attribute) => attribute.open(node, writes)?,
    };
    Ok(OpenFile::new(file, flags))
}

/// The `stat` of a file that has no node.
pub fn anonymous_status(mode: u32) -> linux::stat {
    status(0, mode, 1, 0, 0, 0)
}
