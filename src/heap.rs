//! The kernel heap: TLSF in one piece of RAM, behind one re-entrant lock that masks interrupts.
//!
//! Never entered from the context switch, an abort or a panic.
//!
//! A block that is refused ends the kernel wherever Rust knows no other answer, and programs must not bring that about,
//! however much they make the kernel keep. So a quarter of the heap is a reserve for small blocks that find no room
//! elsewhere. Once it is in use, [`admit`] refuses whatever is new: threads, programs, files, pipes. What was admitted
//! before needs little more. Larger blocks never come from the reserve: whoever lets a program choose a size asks by
//! [`reserve`] and passes the refusal on.

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

use critical_section::RawRestoreState;
use embedded_alloc::TlsfHeap;
use spin::mutex::SpinMutex;

use crate::errno::Errno;
use crate::percpu;
use crate::sync::{IrqGuard, Relax};

#[global_allocator]
static HEAP: Heap = Heap {
    main: Counted::empty(),
    reserve: Counted::empty(),
    reserve_start: AtomicUsize::new(0),
    reserve_len: AtomicUsize::new(0),
};

/// The largest block, in bytes, that may come from the reserve.
pub const SMALL: usize = 1024;

/// Gives the heap its memory.
///
/// # Safety
///
/// The bytes from `start` belong to nobody else, for ever. To be called once.
pub(crate) unsafe fn init(start: *mut u8, len: usize) {
    let start = start as usize;
    let reserve = len / 4;
    // Relaxed: there is one CPU yet.
    HEAP.reserve_start.store(start + len - reserve, Ordering::Relaxed);
    HEAP.reserve_len.store(reserve, Ordering::Relaxed);
    // SAFETY: our caller's promise is the one asked for; the two parts do not overlap.
    unsafe {
        HEAP.main.tlsf.init(start, len - reserve);
        HEAP.reserve.tlsf.init(start + len - reserve, reserve);
    }
}

/// How many bytes are allocated now, not counting what the allocator needs itself.
pub fn used() -> usize {
    HEAP.main.used() + HEAP.reserve.used()
}

/// Whether there is memory for something new that a program makes the kernel keep.
///
/// # Errors
///
/// `ENOMEM` if there is not.
pub fn admit() -> Result<(), Errno> {
    let is_in_use = HEAP.reserve.used() > HEAP.reserve_len.load(Ordering::Relaxed) / 4;
    if is_in_use { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// Makes room for so many more elements.
///
/// # Errors
///
/// `ENOMEM` if there is none.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<(), Errno> {
    vec.try_reserve(more).map_err(|_| Errno::ENOMEM)
}

/// Adds an element.
///
/// # Errors
///
/// `ENOMEM` if there is no room for it.
pub fn push<T>(vec: &mut Vec<T>, element: T) -> Result<(), Errno> {
    reserve(vec, 1)?;
    vec.push(element);
    Ok(())
}

struct Heap {
    main: Counted,
    reserve: Counted,
    /// Where the reserve begins, and its bytes. Relaxed: written once, before there is a second CPU.
    reserve_start: AtomicUsize,
    reserve_len: AtomicUsize,
}

/// A heap and its fill. (`TlsfHeap::used` of embedded-alloc 0.7.0 borrows its cell twice and panics.)
struct Counted {
    tlsf: TlsfHeap,
    /// Pairs with nothing: a statistic.
    used: AtomicUsize,
}

impl Counted {
    const fn empty() -> Self {
        Self { tlsf: TlsfHeap::empty(), used: AtomicUsize::new(0) }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::alloc`].
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the ones asked for.
        let block = unsafe { self.tlsf.alloc(layout) };
        if !block.is_null() {
            self.used.fetch_add(layout.size(), Ordering::Relaxed);
        }
        block
    }
}

// SAFETY: every block is one of the two heaps', and goes back to the one whose memory it is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the ones asked for.
        let block = unsafe { self.main.alloc(layout) };
        if !block.is_null() || layout.size() > SMALL {
            return block;
        }
        // SAFETY: as above.
        unsafe { self.reserve.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let is_main = block.addr() < self.reserve_start.load(Ordering::Relaxed);
        let heap = if is_main { &self.main } else { &self.reserve };
        heap.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones asked for, and the block is this heap's.
        unsafe { heap.tlsf.dealloc(block, layout) };
    }
}

/// The critical section that the heap takes: interrupts masked, and a spin lock across CPUs.
struct Section {
    lock: SpinMutex<(), Relax>,
    /// Its owner's number plus 1, or 0. Only the owner ever reads its own number here, and it wrote it: relaxed.
    owner: AtomicUsize,
}

critical_section::set_impl!(Section);

static SECTION: Section = Section { lock: SpinMutex::new(()), owner: AtomicUsize::new(0) };

/// The state of a section inside another one on the same CPU: nothing to restore. No value of DAIF.
const NESTED: RawRestoreState = u64::MAX;

// SAFETY: one CPU at a time is inside, uninterrupted; SpinMutex acquires and releases.
unsafe impl critical_section::Impl for Section {
    unsafe fn acquire() -> RawRestoreState {
        let masked = IrqGuard::new();
        let me = percpu::cpu_id() + 1;
        if SECTION.owner.load(Ordering::Relaxed) == me {
            return NESTED;
        }
        core::mem::forget(SECTION.lock.lock());
        SECTION.owner.store(me, Ordering::Relaxed);
        masked.into_state()
    }

    unsafe fn release(state: RawRestoreState) {
        if state == NESTED {
            return;
        }
        SECTION.owner.store(0, Ordering::Relaxed);
        // SAFETY: `acquire` took the lock and forgot its guard; the owner releases it once.
        unsafe { SECTION.lock.force_unlock() };
        // SAFETY: the state is that of the matching `acquire`.
        drop(unsafe { IrqGuard::from_state(state) });
    }
}
