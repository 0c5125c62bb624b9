//! The kernel heap: TLSF in one piece of RAM, behind a lock that masks interrupts.
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
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use rlsf::Tlsf;

use crate::errno::Errno;
use crate::sync::IrqLock;

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
    let reserve = len / 4;
    // Relaxed: there is one CPU yet.
    HEAP.reserve_start.store(start.addr() + len - reserve, Ordering::Relaxed);
    HEAP.reserve_len.store(reserve, Ordering::Relaxed);
    // SAFETY: our caller's promise is the one asked for; the two parts do not overlap.
    unsafe {
        HEAP.main.init(start, len - reserve);
        HEAP.reserve.init(start.add(len - reserve), reserve);
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

/// A heap and its fill.
struct Counted {
    tlsf: IrqLock<Tlsf<'static, usize, usize, { usize::BITS as usize }, { usize::BITS as usize }>>,
    /// Pairs with nothing: a statistic.
    used: AtomicUsize,
}

impl Counted {
    const fn empty() -> Self {
        Self { tlsf: IrqLock::new(Tlsf::new()), used: AtomicUsize::new(0) }
    }

    /// # Safety
    ///
    /// As for [`init`].
    unsafe fn init(&self, start: *mut u8, len: usize) {
        let start = NonNull::new(start).expect("no RAM is mapped at 0");
        // SAFETY: our caller's promise is the one asked for.
        unsafe { self.tlsf.lock().insert_free_block_ptr(NonNull::slice_from_raw_parts(start, len)) };
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(block) = self.tlsf.lock().allocate(layout) else { return ptr::null_mut() };
        self.used.fetch_add(layout.size(), Ordering::Relaxed);
        block.as_ptr()
    }
}

// SAFETY: every block is one of the two heaps', and goes back to the one whose memory it is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.main.alloc(layout);
        if block.is_null() && layout.size() <= SMALL { self.reserve.alloc(layout) } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let is_main = block.addr() < self.reserve_start.load(Ordering::Relaxed);
        let heap = if is_main { &self.main } else { &self.reserve };
        let Some(block) = NonNull::new(block) else { return };
        heap.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones asked for, and the block is this heap's.
        unsafe { heap.tlsf.lock().deallocate(block, layout.align()) };
    }
}
