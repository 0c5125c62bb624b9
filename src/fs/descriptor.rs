//! File descriptors: the numbers that a process has for what it opened.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use crate::fs::file::OpenFile;
use crate::heap;
use crate::sync::SpinLock;

/// One past the highest descriptor: `RLIMIT_NOFILE`.
pub const LIMIT: usize = 1024;

/// A descriptor's entry.
#[derive(Clone)]
struct Entry {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// The descriptors of a process.
pub struct Descriptors {
    entries: SpinLock<Vec<Option<Entry>>>,
    /// The process has, or had, more than one thread. Relaxed: set by its only thread, before there is another.
    shared: AtomicBool,
}

/// An open file, for as long as one system call uses it.
pub enum InUse<'a> {
    /// The caller's process has no other thread that could close it meanwhile.
    Borrowed(&'a OpenFile),
    /// It may be closed at any time.
    Counted(Arc<OpenFile>),
}

impl Deref for InUse<'_> {
    type Target = OpenFile;

    #[inline]
    fn deref(&self) -> &OpenFile {
        match self {
            InUse::Borrowed(file) => file,
            InUse::Counted(file) => file,
        }
    }
}

impl Descriptors {
    fn new(entries: Vec<Option<Entry>>) -> Self {
        Self { entries: SpinLock::new(entries), shared: AtomicBool::new(false) }
    }

    /// Says that the process gets another thread. The caller is its only one until then, if this is the first time.
    pub fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    /// Descriptors 0, 1 and 2 for `file`.
    pub fn with_standard(file: &Arc<OpenFile>) -> Self {
        let entry = Some(Entry { file: file.clone(), close_on_exec: false });
        Self::new(alloc::vec![entry; 3])
    }

    /// A copy: the same open files under the same numbers.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let entries = self.entries.lock();
        let mut copy = Vec::new();
        heap::reserve(&mut copy, entries.len())?;
        copy.extend_from_slice(&entries);
        Ok(Self::new(copy))
    }

    /// What is open under this number.
    #[inline]
    pub fn get(&self, number: u64) -> Result<Arc<OpenFile>, Errno> {
        // Descriptors are ints: the upper half of the register means nothing.
        let entries = self.entries.lock();
        let entry = entries.get(number as u32 as usize).and_then(Option::as_ref);
        entry.map(|entry| entry.file.clone()).ok_or(Errno::EBADF)
    }

    /// The same for a call that uses the file and changes no descriptor meanwhile: without the lock and a reference where
    /// no other thread can change one.
    ///
    /// # Safety
    ///
    /// The caller is a thread of the process, and drops what it gets before it changes a descriptor or makes a thread.
    #[inline(always)]
    pub unsafe fn use_file(&self, number: u64) -> Result<InUse<'_>, Errno> {
        if self.shared.load(Ordering::Relaxed) {
            return self.get(number).map(InUse::Counted);
        }
        // SAFETY: only a thread of the process changes the entries, and this is the only one.
        let entries = unsafe { self.entries.peek() };
        let entry = entries.get(number as u32 as usize).and_then(Option::as_ref);
        entry.map(|entry| InUse::Borrowed(&entry.file)).ok_or(Errno::EBADF)
    }

    /// Gives `file` the lowest free number from `least` on.
    pub fn add(&self, file: Arc<OpenFile>, least: usize, close_on_exec: bool) -> Result<usize, Errno> {
        let mut entries = self.entries.lock();
        let free = (least..entries.len()).find(|&number| entries[number].is_none());
        let number = free.unwrap_or(entries.len().max(least));
        if number >= LIMIT {
            return Err(Errno::EMFILE);
        }
        extend_to(&mut entries, number)?;
        entries[number] = Some(Entry { file, close_on_exec });
        Ok(number)
    }

    /// Gives `file` exactly this number. What had it is returned, to be closed without the lock.
    pub fn set(&self, number: usize, file: Arc<OpenFile>, close_on_exec: bool) -> Result<Option<Arc<OpenFile>>, Errno> {
        if number >= LIMIT {
            return Err(Errno::EBADF);
        }
        let mut entries = self.entries.lock();
        extend_to(&mut entries, number)?;
        let before = entries[number].replace(Entry { file, close_on_exec });
        Ok(before.map(|entry| entry.file))
    }

    /// Frees a number. The file is returned, to be closed without the lock.
    pub fn remove(&self, number: u64) -> Result<Arc<OpenFile>, Errno> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(number as u32 as usize).and_then(Option::take);
        entry.map(|entry| entry.file).ok_or(Errno::EBADF)
    }

    /// Whether the number is closed by `execve`.
    pub fn closes_on_exec(&self, number: u64) -> Result<bool, Errno> {
        let entries = self.entries.lock();
        let entry = entries.get(number as u32 as usize).and_then(Option::as_ref);
        entry.map(|entry| entry.close_on_exec).ok_or(Errno::EBADF)
    }

    /// Says whether the number is closed by `execve`.
    pub fn set_close_on_exec(&self, number: u64, close: bool) -> Result<(), Errno> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(number as u32 as usize).and_then(Option::as_mut);
        entry.map(|entry| entry.close_on_exec = close).ok_or(Errno::EBADF)
    }

    /// Closes what `execve` closes.
    pub fn close_for_exec(&self) {
        self.take_all(|_, entry| entry.close_on_exec);
    }

    /// Closes everything.
    pub fn close_all(&self) {
        let closed = core::mem::take(&mut *self.entries.lock());
        drop(closed);
    }

    /// Closes the numbers from `first` to `last`.
    pub fn close_range(&self, first: usize, last: usize) {
        self.take_all(|number, _| (first..=last).contains(&number));
    }

    /// Closes what matches, each once the lock is free: the last close of a pipe's end wakes threads. One by one,
    /// because to gather them first would take memory.
    fn take_all(&self, matches: impl Fn(usize, &Entry) -> bool) {
        let mut from = 0;
        while let Some((number, entry)) = self.take_next(from, &matches) {
            from = number + 1;
            drop(entry);
        }
    }

    fn take_next(&self, from: usize, matches: impl Fn(usize, &Entry) -> bool) -> Option<(usize, Entry)> {
        let mut entries = self.entries.lock();
        let numbered = entries.iter_mut().enumerate().skip(from);
        let (number, entry) =
            numbered.into_iter().find(|(number, entry)| entry.as_ref().is_some_and(|entry| matches(*number, entry)))?;
        Some((number, entry.take()?))
    }
}

/// Makes room for the entry of this number.
fn extend_to(entries: &mut Vec<Option<Entry>>, number: usize) -> Result<(), Errno> {
    let missing = (number + 1).saturating_sub(entries.len());
    if missing > 0 {
        heap::admit()?;
        heap::reserve(entries, missing)?;
        entries.resize(number + 1, None);
    }
    Ok(())
}
