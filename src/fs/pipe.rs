//! Pipes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::{general as linux, ioctl};

use crate::arch::cpu::fetch_to_write;
use crate::errno::Errno;
use crate::fs::file::{File, OpenFile, Ready, Waiting, anonymous_status};
use crate::fs::poll;
use crate::heap;
use crate::sched::{Patience, WaitQueue};
use crate::sync::{SpinLock, SpinLockGuard};
use crate::user_memory::{self, UserBuffer};

/// How many bytes a pipe holds.
const CAPACITY: usize = 64 << 10;
/// The room a pipe starts with; it grows when a writer needs more.
const FIRST_ROOM: usize = 4096;
/// Writes of up to this many bytes are not torn.
const ATOMIC: usize = linux::PIPE_BUF as usize;

/// Bytes in a circle.
struct Ring {
    /// As many as a power of two, or none.
    bytes: Box<[u8]>,
    /// Where the first byte is. Half a word is enough for a place in [`CAPACITY`], and keeps [`Pipe`] in its line.
    start: u32,
    length: u32,
}

impl Ring {
    /// Takes bytes in until `from` or the room (of at most [`CAPACITY`]) is used up. A fault after the first byte ends
    /// it early.
    fn fill(&mut self, from: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        let wanted = from.remaining().min(CAPACITY - self.length());
        if self.length() + wanted > self.bytes.len() {
            self.make_room(self.length() + wanted)?;
        }
        let at = self.wrap(self.start() + self.length());
        let first = wanted.min(self.bytes.len() - at);
        let mut count = from.take(&mut self.bytes[at..at + first])?;
        if count == first && first < wanted {
            count += self.fill_start(from, wanted - first);
        }
        self.length += count as u32;
        Ok(count)
    }

    /// Gives bytes out until `to` or what there is is used up. A fault after the first byte ends it early.
    fn drain(&mut self, to: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        let start = self.start();
        let wanted = to.remaining().min(self.length());
        let first = wanted.min(self.bytes.len() - start);
        let mut count = to.put(&self.bytes[start..start + first])?;
        if count == first && first < wanted {
            count += self.drain_start(to, wanted - first);
        }
        self.length -= count as u32;
        if count > 0 {
            self.start = self.wrap(start + count) as u32;
        }
        Ok(count)
    }

    /// The part of [`Ring::fill`] that starts over at the first byte of the circle.
    #[cold]
    fn fill_start(&mut self, from: &mut UserBuffer<'_>, length: usize) -> usize {
        from.take(&mut self.bytes[..length]).unwrap_or(0)
    }

    /// The part of [`Ring::drain`] that starts over at the first byte of the circle.
    #[cold]
    fn drain_start(&self, to: &mut UserBuffer<'_>, length: usize) -> usize {
        to.put(&self.bytes[..length]).unwrap_or(0)
    }

    fn start(&self) -> usize {
        self.start as usize
    }

    fn length(&self) -> usize {
        self.length as usize
    }

    fn wrap(&self, index: usize) -> usize {
        index & (self.bytes.len() - 1)
    }

    #[cold]
    fn make_room(&mut self, needed: usize) -> Result<(), Errno> {
        let room = needed.next_power_of_two().clamp(FIRST_ROOM, CAPACITY);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(room, 0);
        for (index, byte) in bytes.iter_mut().enumerate().take(self.length()) {
            *byte = self.bytes[self.wrap(self.start() + index)];
        }
        self.bytes = bytes.into_boxed_slice();
        self.start = 0;
        Ok(())
    }
}

struct State {
    ring: Ring,
    has_reader: bool,
    has_writer: bool,
}

impl State {
    fn free(&self) -> usize {
        CAPACITY - self.ring.length()
    }

    fn read_would_not_wait(&self) -> bool {
        self.ring.length > 0 || !self.has_writer
    }

    /// The least free room with which a write of `length` bytes makes a step.
    fn write_would_not_wait(&self, length: usize) -> bool {
        let step = if length <= ATOMIC { length } else { 1 };
        self.free() >= step || !self.has_reader
    }
}

/// What a write and the read that it wakes touch on two CPUs is one line of memory; writers wait where that has ended.
#[repr(C, align(64))]
struct Pipe {
    state: SpinLock<State>,
    /// Who waits for bytes, or for the last writer to leave.
    readers: WaitQueue,
    /// Whether a read would not wait. Written (Release) under the lock before the readers are woken; pairs with the
    /// Acquire of a reader, who is in the queue when it looks for the last time: it sees the news, or the waker sees it.
    readable: AtomicBool,
    /// Who waits for room, or for the last reader to leave.
    writers: WaitQueue,
}

const _: () = assert!(offset_of!(Pipe, readable) < 64);

impl Pipe {
    /// Tells who waits that something changed, when the state is unlocked again.
    #[inline]
    fn tell(queue: &WaitQueue, watched: bool) {
        queue.wake_all();
        if watched {
            poll::changed();
        }
    }

    /// Says without the lock what the state says now.
    #[inline]
    fn publish(&self, state: &State) {
        self.readable.store(state.read_would_not_wait(), Ordering::Release);
    }

    /// Makes a change to the state, and tells who waits.
    fn change(&self, queue: &WaitQueue, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.publish(&state);
        let watched = poll::is_watched();
        drop(state);
        Self::tell(queue, watched);
    }
}

/// Makes a pipe: the end to read from and the end to write to, opened with `flags`.
pub fn pipe(flags: u32) -> Result<(Arc<OpenFile>, Arc<OpenFile>), Errno> {
    heap::admit()?;
    let ring = Ring { bytes: Box::new([]), start: 0, length: 0 };
    let pipe = Arc::new(Pipe {
        state: SpinLock::new(State { ring, has_reader: true, has_writer: true }),
        readers: WaitQueue::new(),
        readable: AtomicBool::new(false),
        writers: WaitQueue::new(),
    });
    let reader = OpenFile::new(Box::new(Reader(pipe.clone())), linux::O_RDONLY | flags);
    let writer = OpenFile::new(Box::new(Writer(pipe)), linux::O_WRONLY | flags);
    Ok((reader, writer))
}

/// The end to read from.
struct Reader(Arc<Pipe>);

impl Reader {
    /// One step of a read, unless it must wait. Short enough for a look of [`WaitQueue::wait`].
    #[inline(always)]
    fn step(&self, to: &mut UserBuffer<'_>) -> Option<Result<usize, Errno>> {
        fetch_to_write(&self.0.readable);
        if !self.0.readable.load(Ordering::Acquire) {
            return None;
        }
        let state = self.0.state.lock();
        state.read_would_not_wait().then(|| self.take(state, to))
    }

    #[inline(never)]
    fn take(&self, mut state: SpinLockGuard<'_, State>, to: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        // Only with less room than this can a writer be waiting.
        let was_full = state.free() < ATOMIC;
        let count = state.ring.drain(to);
        self.0.publish(&state);
        let watched = poll::is_watched();
        drop(state);
        if was_full {
            Pipe::tell(&self.0.writers, watched);
        }
        count
    }
}

impl File for Reader {
    fn read(&self, _: u64, to: &mut UserBuffer<'_>, waiting: Waiting) -> Result<usize, Errno> {
        if to.remaining() == 0 {
            return Ok(0);
        }
        match waiting {
            Waiting::Refused => self.step(to).unwrap_or(Err(Errno::EAGAIN)),
            Waiting::Allowed => self.0.readers.wait(Patience::INTERRUPTIBLE, || self.step(to))?,
        }
    }

    fn ready(&self) -> Ready {
        let state = self.0.state.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::READ, state.ring.length > 0);
        ready.set(Ready::HANG_UP, !state.has_writer);
        ready
    }

    fn stat(&self) -> linux::stat {
        anonymous_status(linux::S_IFIFO | 0o600)
    }

    fn control(&self, request: u32, argument: u64) -> Result<usize, Errno> {
        if request != ioctl::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let length = self.0.state.lock().ring.length;
        user_memory::write(argument, &length)?;
        Ok(0)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.change(&self.0.writers, |state| state.has_reader = false);
    }
}

/// The end to write to.
struct Writer(Arc<Pipe>);

impl Writer {
    /// One step of a write, unless it must wait. As short.
    #[inline(always)]
    fn step(&self, from: &mut UserBuffer<'_>) -> Option<Result<usize, Errno>> {
        let state = self.0.state.lock();
        state.write_would_not_wait(from.remaining()).then(|| self.give(state, from))
    }

    #[inline(never)]
    fn give(&self, mut state: SpinLockGuard<'_, State>, from: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        if !state.has_reader {
            return Err(Errno::EPIPE);
        }
        let was_empty = state.ring.length == 0;
        let count = state.ring.fill(from);
        self.0.publish(&state);
        let watched = poll::is_watched();
        drop(state);
        if was_empty {
            Pipe::tell(&self.0.readers, watched);
        }
        count
    }
}

impl File for Writer {
    fn write(&self, _: u64, from: &mut UserBuffer<'_>, waiting: Waiting) -> Result<usize, Errno> {
        let mut total = 0;
        while from.remaining() > 0 {
            let step = match waiting {
                Waiting::Refused => self.step(from).unwrap_or(Err(Errno::EAGAIN)),
                Waiting::Allowed => self
                    .0
                    .writers
                    .wait(Patience::INTERRUPTIBLE, || self.step(from))
                    .unwrap_or_else(|error| Err(error.into())),
            };
            match step {
                Ok(count) => total += count,
                Err(error) if total == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn ready(&self) -> Ready {
        let state = self.0.state.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::WRITE, state.free() >= ATOMIC);
        ready.set(Ready::ERROR, !state.has_reader);
        ready
    }

    fn stat(&self) -> linux::stat {
        anonymous_status(linux::S_IFIFO | 0o600)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.change(&self.0.readers, |state| state.has_writer = false);
    }
}
