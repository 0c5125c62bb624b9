//! File descriptors: the numbers that a process has for what it opened.
//!
//! Any thread finds a file by its number without a lock; who opens and closes takes one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::errno::Errno;
use crate::fs::file::OpenFile;
use crate::fs::in_use::{InUse, Users, Using, hand_over};
use crate::heap;
use crate::sync::{SpinLock, SpinLockGuard};

/// One past the highest descriptor: `RLIMIT_NOFILE`.
pub const LIMIT: usize = 1024;

/// How many numbers a chunk has: a bit of a word for each.
const CHUNK: usize = 32;

/// The descriptors of a process.
pub struct Descriptors {
    /// What was made for these numbers, which stays until the end: so it may be read at any time. Behind the last one null.
    chunks: [AtomicPtr<Chunk>; LIMIT / CHUNK],
    /// Held by who changes something.
    changes: SpinLock<()>,
    /// The process has, or had, more than one thread. Relaxed: set by its only thread, before there is another.
    shared: AtomicBool,
}

/// Numbers that follow one another. The sets are Relaxed: read and written with `changes` held.
struct Chunk {
    /// A reference to what is open under each; null for nothing. Written with `changes` held.
    files: [AtomicPtr<OpenFile>; CHUNK],
    /// Which are open.
    open: AtomicU32,
    /// Which are closed by `execve`.
    close_on_exec: AtomicU32,
}

const _: () = assert!(size_of::<Chunk>() <= heap::SMALL);

impl Chunk {
    fn new() -> Self {
        Self {
            files: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNK],
            open: AtomicU32::new(0),
            close_on_exec: AtomicU32::new(0),
        }
    }

    /// Opens a number for a file, and gives what was open under it.
    fn put(&self, index: usize, file: Arc<OpenFile>, close_on_exec: bool) -> Option<Arc<OpenFile>> {
        let open = self.open.load(Ordering::Relaxed);
        self.open.store(open | 1 << index, Ordering::Relaxed);
        self.set_close_on_exec(index, close_on_exec);
        self.exchange(index, Arc::into_raw(file).cast_mut())
    }

    /// Takes out what is open under a number.
    fn take(&self, index: usize) -> Option<Arc<OpenFile>> {
        let open = self.open.load(Ordering::Relaxed);
        self.open.store(open & !(1 << index), Ordering::Relaxed);
        self.exchange(index, ptr::null_mut())
    }

    fn exchange(&self, index: usize, new: *mut OpenFile) -> Option<Arc<OpenFile>> {
        // A load and a store: `changes` is held. Release: pairs with the Acquire of `Using::begin`.
        let old = self.files[index].load(Ordering::Relaxed);
        self.files[index].store(new, Ordering::Release);
        // SAFETY: not null, so it is a reference that was put here, and it is ours now.
        (!old.is_null()).then(|| unsafe { Arc::from_raw(old) })
    }

    /// Another reference to what is open under a number.
    fn get(&self, index: usize) -> Option<Arc<OpenFile>> {
        let file = self.files[index].load(Ordering::Relaxed);
        if file.is_null() {
            return None;
        }
        // SAFETY: `changes` is held, so the reference that is in the place stays there meanwhile.
        unsafe {
            Arc::increment_strong_count(file);
            Some(Arc::from_raw(file))
        }
    }

    fn set_close_on_exec(&self, index: usize, close: bool) {
        let others = self.close_on_exec.load(Ordering::Relaxed) & !(1 << index);
        self.close_on_exec.store(others | u32::from(close) << index, Ordering::Relaxed);
    }

    /// The open numbers of a set.
    fn open_of(&self, set: u32) -> impl Iterator<Item = usize> + use<> {
        let mut left = self.open.load(Ordering::Relaxed) & set;
        core::iter::from_fn(move || {
            let index = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (index < CHUNK).then_some(index)
        })
    }
}

impl Descriptors {
    fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; LIMIT / CHUNK],
            changes: SpinLock::new(()),
            shared: AtomicBool::new(false),
        }
    }

    /// Says whether the process has, from now on, other threads than the caller, which is its only one now.
    pub fn share(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// Descriptors 0, 1 and 2 for `file`.
    pub fn with_standard(file: &Arc<OpenFile>) -> Result<Self, Errno> {
        let descriptors = Self::new();
        let held = descriptors.changes.lock();
        let chunk = descriptors.chunk_for(0, &held)?;
        for index in 0..3 {
            chunk.put(index, file.clone(), false);
        }
        drop(held);
        Ok(descriptors)
    }

    /// A copy: the same open files under the same numbers.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let copy = Self::new();
        let (_held, held) = (self.changes.lock(), copy.changes.lock());
        for (which, chunk) in self.chunks().enumerate() {
            let copied = copy.chunk_for(which, &held)?;
            for index in chunk.open_of(!0) {
                let close = chunk.close_on_exec.load(Ordering::Relaxed) >> index & 1 != 0;
                chunk.get(index).map(|file| copied.put(index, file, close));
            }
        }
        drop(held);
        Ok(copy)
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        // Acquire: pairs with the Release of who made it.
        // SAFETY: null, or a chunk, which lives as long as this.
        self.chunks.iter().map_while(|chunk| unsafe { chunk.load(Ordering::Acquire).as_ref() })
    }

    /// Where a number stands; `None` where nothing is open. Descriptors are ints: the upper half of the register means nothing.
    #[inline]
    fn find(&self, number: u64) -> Option<(&Chunk, usize)> {
        let number = number as u32 as usize;
        // Acquire: as in `chunks`.
        let chunk = self.chunks.get(number / CHUNK)?.load(Ordering::Acquire);
        // SAFETY: as in `chunks`.
        Some((unsafe { chunk.as_ref() }?, number % CHUNK))
    }

    /// A chunk by its place; it and those before it are made if they are missing.
    fn chunk_for(&self, which: usize, _held: &SpinLockGuard<'_, ()>) -> Result<&Chunk, Errno> {
        for place in &self.chunks[..=which] {
            if place.load(Ordering::Relaxed).is_null() {
                heap::admit()?;
                // Release: pairs with the Acquire in `chunks`.
                place.store(Box::into_raw(Box::new(Chunk::new())), Ordering::Release);
            }
        }
        // SAFETY: as in `chunks`.
        Ok(unsafe { &*self.chunks[which].load(Ordering::Relaxed) })
    }

    /// What is open under this number.
    pub fn get(&self, number: u64) -> Result<Arc<OpenFile>, Errno> {
        let _held = self.changes.lock();
        let (chunk, index) = self.find(number).ok_or(Errno::EBADF)?;
        chunk.get(index).ok_or(Errno::EBADF)
    }

    /// The same for a call that uses the file and changes no descriptor meanwhile: without the lock and a reference.
    ///
    /// # Safety
    ///
    /// The caller is the thread of the process whose place `using` is, which uses no other file now; and it drops what it gets
    /// before it changes a descriptor or makes a thread.
    #[inline(always)]
    pub unsafe fn use_file<'a>(&'a self, number: u64, using: &'a Using) -> Result<InUse<'a>, Errno> {
        let (chunk, index) = self.find(number).ok_or(Errno::EBADF)?;
        let place = &chunk.files[index];
        if self.shared.load(Ordering::Relaxed) {
            // SAFETY: the caller's place, and `let_go` hands over what is taken out.
            return unsafe { using.begin(place) }.ok_or(Errno::EBADF);
        }
        // SAFETY: null, or a file that stays: only a thread of the process closes one, and this is the only thread.
        unsafe { place.load(Ordering::Relaxed).as_ref() }.map(InUse::Borrowed).ok_or(Errno::EBADF)
    }

    /// Gives `file` the lowest free number from `least` on.
    pub fn add(&self, file: Arc<OpenFile>, least: usize, close_on_exec: bool) -> Result<usize, Errno> {
        let held = self.changes.lock();
        for which in least / CHUNK..LIMIT / CHUNK {
            let chunk = self.chunk_for(which, &held)?;
            let below = (1u32 << least.saturating_sub(which * CHUNK)) - 1;
            let index = (chunk.open.load(Ordering::Relaxed) | below).trailing_ones() as usize;
            if index < CHUNK {
                chunk.put(index, file, close_on_exec);
                return Ok(which * CHUNK + index);
            }
        }
        Err(Errno::EMFILE)
    }

    /// Gives `file` exactly this number. What had it is returned, to be closed without the lock.
    pub fn set(
        &self,
        number: usize,
        file: Arc<OpenFile>,
        close_on_exec: bool,
        users: &impl Users,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        if number >= LIMIT {
            return Err(Errno::EBADF);
        }
        let held = self.changes.lock();
        let before = self.chunk_for(number / CHUNK, &held)?.put(number % CHUNK, file, close_on_exec);
        drop(held);
        Ok(before.map(|file| self.let_go(file, users)))
    }

    /// Frees a number. The file is returned, to be closed without the lock.
    pub fn remove(&self, number: u64, users: &impl Users) -> Result<Arc<OpenFile>, Errno> {
        let held = self.changes.lock();
        let file = self.find(number).and_then(|(chunk, index)| chunk.take(index));
        drop(held);
        file.map(|file| self.let_go(file, users)).ok_or(Errno::EBADF)
    }

    /// Lets those keep a file that use it: it was taken out.
    fn let_go(&self, file: Arc<OpenFile>, users: &impl Users) -> Arc<OpenFile> {
        if self.shared.load(Ordering::Relaxed) {
            hand_over(&file, users);
        }
        file
    }

    /// Whether the number is closed by `execve`.
    pub fn closes_on_exec(&self, number: u64) -> Result<bool, Errno> {
        let _held = self.changes.lock();
        let (chunk, index) = self.find_open(number)?;
        Ok(chunk.close_on_exec.load(Ordering::Relaxed) >> index & 1 != 0)
    }

    /// Says whether the number is closed by `execve`.
    pub fn set_close_on_exec(&self, number: u64, close: bool) -> Result<(), Errno> {
        let _held = self.changes.lock();
        let (chunk, index) = self.find_open(number)?;
        chunk.set_close_on_exec(index, close);
        Ok(())
    }

    fn find_open(&self, number: u64) -> Result<(&Chunk, usize), Errno> {
        let found = self.find(number).filter(|(chunk, index)| chunk.open.load(Ordering::Relaxed) >> index & 1 != 0);
        found.ok_or(Errno::EBADF)
    }

    /// Closes what `execve` closes.
    pub fn close_for_exec(&self, users: &impl Users) {
        self.close_each(users, |chunk, _| chunk.close_on_exec.load(Ordering::Relaxed));
    }

    /// Closes everything.
    pub fn close_all(&self, users: &impl Users) {
        self.close_each(users, |_, _| !0);
    }

    /// Closes the numbers from `first` to `last`.
    pub fn close_range(&self, first: usize, last: usize, users: &impl Users) {
        self.close_each(users, |_, start| {
            from(first.saturating_sub(start)) & !from(last.saturating_add(1).saturating_sub(start))
        });
    }

    /// Closes the numbers of a set in each chunk, which is asked for with its first number. Each is closed once the lock is
    /// free: the last close of a pipe's end wakes threads. One by one, because to gather them first would take memory.
    fn close_each(&self, users: &impl Users, set: impl Fn(&Chunk, usize) -> u32) {
        for (which, chunk) in self.chunks().enumerate() {
            let mut done = 0;
            while let Some((index, file)) = self.take_first(chunk, || set(chunk, which * CHUNK) & from(done)) {
                drop(self.let_go(file, users));
                done = index + 1;
            }
        }
    }

    fn take_first(&self, chunk: &Chunk, set: impl FnOnce() -> u32) -> Option<(usize, Arc<OpenFile>)> {
        let _held = self.changes.lock();
        let index = chunk.open_of(set()).next()?;
        chunk.take(index).map(|file| (index, file))
    }
}

/// The numbers of a chunk from this one on.
fn from(index: usize) -> u32 {
    u32::MAX.checked_shl(index.min(CHUNK) as u32).unwrap_or(0)
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        for chunk in self.chunks.iter_mut().map(|chunk| *chunk.get_mut()).take_while(|chunk| !chunk.is_null()) {
            // SAFETY: made by `chunk_for`, and nobody uses the descriptors any more.
            drop(unsafe { Box::from_raw(chunk) });
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        for index in self.open_of(!0) {
            drop(self.take(index));
        }
    }
}
