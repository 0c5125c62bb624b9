//! The kernel heap: TLSF in one piece of RAM, behind one re-entrant lock that masks interrupts.
//!
//! Never entered from the context switch, an abort or a panic.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

use critical_section::RawRestoreState;
use embedded_alloc::TlsfHeap;
use spin::mutex::SpinMutex;

use crate::percpu;
use crate::sync::{IrqGuard, Relax};

#[global_allocator]
static HEAP: Counted = Counted { heap: TlsfHeap::empty(), used: AtomicUsize::new(0) };

/// Gives the heap its memory.
///
/// # Safety
///
/// The bytes from `start` belong to nobody else, for ever. To be called once.
pub(crate) unsafe fn init(start: *mut u8, len: usize) {
    // SAFETY: our caller's promise is the one asked for.
    unsafe { HEAP.heap.init(start as usize, len) };
}

/// How many bytes are allocated now, not counting what the allocator needs itself.
pub fn used() -> usize {
    // Pairs with nothing: a statistic.
    HEAP.used.load(Ordering::Relaxed)
}

/// The heap and its fill. (`TlsfHeap::used` of embedded-alloc 0.7.0 borrows its cell twice and panics.)
struct Counted {
    heap: TlsfHeap,
    used: AtomicUsize,
}

// SAFETY: every block is TlsfHeap's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the ones asked for.
        let block = unsafe { self.heap.alloc(layout) };
        if !block.is_null() {
            // Pairs with nothing: a statistic.
            self.used.fetch_add(layout.size(), Ordering::Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Pairs with nothing: a statistic.
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { self.heap.dealloc(block, layout) };
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
