//! Directories and regular files: those of the initramfs, and those that programs make.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use crate::errno::Errno;
use crate::fs::file::{File, Waiting};
use crate::fs::node::{Content, Node};
use crate::heap;
use crate::sync::SpinLock;
use crate::user_memory::UserBuffer;

/// The most bytes that one file can hold: all of them stand in the kernel's heap.
const MAX_SIZE: usize = 16 << 20;

/// The contents of a file that a program made.
pub struct Memory(SpinLock<Vec<u8>>);

impl Memory {
    /// No contents yet.
    pub fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// How long the file is.
    pub fn size(&self) -> u64 {
        self.0.lock().len() as u64
    }

    /// Cuts it off, or makes it longer by zeroes.
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        resize(&mut self.0.lock(), size)
    }

    /// Shows `look` what stands at `position`, at most `length` bytes.
    pub fn show<T>(&self, position: u64, length: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        let bytes = self.0.lock();
        let tail = tail(&bytes, position);
        look(&tail[..tail.len().min(length)])
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

fn resize(bytes: &mut Vec<u8>, size: u64) -> Result<(), Errno> {
    let size = usize::try_from(size).ok().filter(|&size| size <= MAX_SIZE).ok_or(Errno::EFBIG)?;
    if size > bytes.len() {
        heap::admit().map_err(|_| Errno::ENOSPC)?;
    }
    bytes.try_reserve(size.saturating_sub(bytes.len())).map_err(|_| Errno::ENOSPC)?;
    bytes.resize(size, 0);
    Ok(())
}

/// The bytes from `position` on; none past the end.
fn tail(bytes: &[u8], position: u64) -> &[u8] {
    usize::try_from(position).ok().and_then(|start| bytes.get(start..)).unwrap_or(&[])
}

/// An open file of the initramfs.
pub struct Image {
    /// The file.
    pub node: Arc<Node>,
    /// Its contents.
    pub bytes: &'static [u8],
}

impl File for Image {
    fn read(&self, position: u64, to: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        to.put(tail(self.bytes, position))
    }

    fn stat(&self) -> linux::stat {
        self.node.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.node)
    }
}

fn write(bytes: &mut Vec<u8>, position: u64, from: &mut UserBuffer<'_>) -> Result<usize, Errno> {
    if from.remaining() == 0 {
        return Ok(0);
    }
    let end = position.checked_add(from.remaining() as u64).ok_or(Errno::EFBIG)?;
    let before = bytes.len();
    if end > before as u64 {
        resize(bytes, end)?;
    }
    let taken = from.take(&mut bytes[position as usize..end as usize]);
    // A fault may have ended it early: the file ends where the last byte came to stand.
    let reached = taken.map_or(0, |count| position as usize + count);
    bytes.truncate(before.max(reached));
    taken
}

/// An open file that a program made.
pub struct MemoryFile(pub Arc<Node>);

impl MemoryFile {
    fn memory(&self) -> Result<&Memory, Errno> {
        match &self.0.content {
            Content::Memory(memory) => Ok(memory),
            _ => Err(Errno::EIO),
        }
    }
}

impl File for MemoryFile {
    fn read(&self, position: u64, to: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        to.put(tail(&self.memory()?.0.lock(), position))
    }

    fn write(&self, position: u64, from: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        write(&mut self.memory()?.0.lock(), position, from)
    }

    fn append(&self, from: &mut UserBuffer<'_>) -> Result<(u64, usize), Errno> {
        // Under the lock, or two who append at once would find the same end.
        let mut bytes = self.memory()?.0.lock();
        let end = bytes.len() as u64;
        Ok((end, write(&mut bytes, end, from)?))
    }

    fn stat(&self) -> linux::stat {
        self.0.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some(self.0.size())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.memory()?.truncate(size)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.0)
    }
}

/// An open directory.
pub struct Directory(pub Arc<Node>);

impl File for Directory {
    fn read(&self, _: u64, _: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn stat(&self) -> linux::stat {
        self.0.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some(0)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.0)
    }
}
