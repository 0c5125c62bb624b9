//! Memory that can be copied and put back: all that a machine on this thread allocates lies in one region.
//!
//! Each thread of the machine allocates from a part of its own, the machine itself from another. So an address depends on
//! what the thread did before, and not on what others did meanwhile: states that differ in nothing but the order of
//! independent steps have the same bytes. What is freed is cleared, for the same reason. In the machine's own part, whose
//! bytes tell no states apart, what is freed is used again: the less of it, the less to copy.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::ptr;

use mm::lying;

/// The machine's own part, the director's, and the threads'.
const PARTS: usize = 32;
const PART_BYTES: usize = 8 << 20;
const STACKS: usize = PARTS - 2;
const BYTES: usize = PARTS * PART_BYTES + STACKS * lying::STACK_BYTES;
const ALIGN: usize = 4096;
/// Before each block: where the one before it ends, and whether this one is in use.
const HEAD: usize = 16;
/// At the start of the machine's own part: for each size, a power of two, the first block of that size that is free.
const FREE_LISTS: usize = usize::BITS as usize * 8;
/// Behind each block: where its head is.
const FOOT: usize = 8;

/// The allocator of this test program: the host's, but for what machines do.
pub(crate) struct Arena;

thread_local! {
    static BASE: Cell<usize> = const { Cell::new(0) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static TOPS: Cell<[usize; PARTS]> = const { Cell::new([0; PARTS]) };
    static STACKS_MADE: Cell<usize> = const { Cell::new(0) };
}

fn layout() -> Layout {
    Layout::from_size_align(BYTES, ALIGN).expect("a size and an alignment")
}

/// Gives this thread its region.
pub(crate) fn prepare() {
    // SAFETY: the layout has a size.
    let base = unsafe { System.alloc_zeroed(layout()) };
    assert!(!base.is_null(), "the host has no memory left");
    BASE.set(base.expose_provenance());
}

/// Gives the region back. This thread of the host uses no machine any more.
///
/// # Safety
/// Nobody has a reference to what lies in it.
pub(crate) unsafe fn give_back() {
    let base = ptr::with_exposed_provenance_mut(BASE.replace(0));
    // SAFETY: it came from `prepare`, with this layout.
    unsafe { System.dealloc(base, layout()) };
}

/// What `what` allocates lies in the region.
pub(crate) fn inside<T>(what: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let result = what();
    INSIDE.set(false);
    result
}

/// Whether this place lies in the machine's own part.
pub(crate) fn is_machines(address: usize) -> bool {
    address - BASE.get() < PART_BYTES
}

/// The bytes in use of each part.
pub(crate) fn used() -> impl Iterator<Item = Range<usize>> {
    let (base, tops) = (BASE.get(), TOPS.get());
    (0..PARTS).map(move |part| base + part * PART_BYTES..base + part * PART_BYTES + tops[part])
}

fn this_part() -> usize {
    match (lying::is_inside(), lying::this_thread()) {
        (true, _) => 0,
        (false, None) => 1,
        (false, Some(thread)) => 2 + thread,
    }
}

fn word(address: usize) -> *mut usize {
    ptr::with_exposed_provenance_mut(address)
}

// SAFETY: blocks of a part follow one another and never overlap, as `allocate` adds each behind all others; what is not in
// the region is the host's allocator's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if INSIDE.get() {
            allocate(layout)
        } else {
            // SAFETY: as our caller promised.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if INSIDE.get() {
            // The region is zero where nobody has been yet, and what is freed is cleared.
            allocate(layout)
        } else {
            // SAFETY: as our caller promised.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let base = BASE.get();
        if base != 0 && (base..base + BYTES).contains(&block.addr()) {
            free(block.addr(), layout);
        } else {
            // SAFETY: it is not of the region, so it came from there.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

fn allocate(layout: Layout) -> *mut u8 {
    if layout.size() == lying::STACK_BYTES {
        let number = STACKS_MADE.replace(STACKS_MADE.get() + 1);
        assert!(number < STACKS, "more threads than the region has stacks for");
        return ptr::with_exposed_provenance_mut(BASE.get() + PARTS * PART_BYTES + number * lying::STACK_BYTES);
    }
    let part = this_part();
    if part == 0 {
        return allocate_for_machine(layout);
    }
    let start = BASE.get() + part * PART_BYTES;
    let mut tops = TOPS.get();
    let before = start + tops[part];
    let block = (before + HEAD).next_multiple_of(layout.align().max(16));
    let foot = (block + layout.size()).next_multiple_of(8);
    tops[part] = foot + FOOT - start;
    if tops[part] > PART_BYTES {
        return ptr::null_mut();
    }
    // SAFETY: head and foot lie in this part, above all that is in use, and are aligned.
    unsafe {
        *word(block - 16) = before;
        *word(block - 8) = 1;
        *word(foot) = block;
    }
    TOPS.set(tops);
    ptr::with_exposed_provenance_mut(block)
}

/// The size of a block of the machine's own part.
fn rounded(layout: Layout) -> usize {
    layout.size().max(layout.align()).max(16).next_power_of_two()
}

fn allocate_for_machine(layout: Layout) -> *mut u8 {
    let (base, size) = (BASE.get(), rounded(layout));
    let list = word(base + size.ilog2() as usize * 8);
    // SAFETY: the lists lie at the start of the part, and a free block holds the address of the next, or zero.
    unsafe {
        if *list != 0 {
            let block = word(*list);
            *list = *block;
            *block = 0;
            return block.cast();
        }
    }
    let mut tops = TOPS.get();
    let block = (base + tops[0].max(FREE_LISTS)).next_multiple_of(size.min(ALIGN));
    tops[0] = block + size - base;
    if tops[0] > PART_BYTES {
        return ptr::null_mut();
    }
    TOPS.set(tops);
    ptr::with_exposed_provenance_mut(block)
}

fn free(block: usize, layout: Layout) {
    let (base, size) = (BASE.get(), layout.size());
    let part = (block - base) / PART_BYTES;
    if part >= PARTS {
        return;
    }
    if part == 0 {
        let list = word(base + rounded(layout).ilog2() as usize * 8);
        // SAFETY: nobody uses the block any more, and the lists lie at the start of the part.
        unsafe {
            ptr::write_bytes(word(block).cast::<u8>(), 0, size);
            *word(block) = *list;
            *list = block;
        }
        return;
    }
    let start = base + part * PART_BYTES;
    let mut tops = TOPS.get();
    let mut top = start + tops[part];
    // SAFETY: it is a block of this part that nobody uses any more; feet and heads are as `allocate` wrote them.
    unsafe {
        ptr::write_bytes(word(block).cast::<u8>(), 0, size);
        *word(block - 8) = 0;
        while top > start {
            let last = *word(top - FOOT);
            if *word(last - 8) != 0 {
                break;
            }
            let before = *word(last - 16);
            ptr::write_bytes(word(before).cast::<u8>(), 0, top - before);
            top = before;
        }
    }
    tops[part] = top - start;
    TOPS.set(tops);
}

/// How far each part is in use, and how many stacks there are.
#[derive(Clone, Default)]
pub(crate) struct Marks {
    tops: [usize; PARTS],
    stacks: usize,
}

impl Marks {
    /// As they are.
    pub(crate) fn take() -> Self {
        Self { tops: TOPS.get(), stacks: STACKS_MADE.get() }
    }

    /// As they were: what was allocated since is forgotten.
    pub(crate) fn put_back(&self) {
        let now = TOPS.get();
        for (part, &top) in now.iter().enumerate().filter(|(part, top)| **top > self.tops[*part]) {
            let start = BASE.get() + part * PART_BYTES;
            // SAFETY: what was allocated since lies there, and nobody uses it any more.
            unsafe { ptr::write_bytes(word(start + self.tops[part]).cast::<u8>(), 0, top - self.tops[part]) };
        }
        TOPS.set(self.tops);
        STACKS_MADE.set(self.stacks);
    }
}

/// Bytes of the region.
///
/// # Safety
/// They lie in it, and are not written to while the slice lives.
pub(crate) unsafe fn bytes<'a>(place: &Range<usize>) -> &'a [u8] {
    // SAFETY: as our caller promised.
    unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(place.start), place.len()) }
}

/// Writes to the region.
///
/// # Safety
/// The place lies in it, and nobody has a reference to it.
pub(crate) unsafe fn write(start: usize, bytes: &[u8]) {
    // SAFETY: as our caller promised.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), word(start).cast::<u8>(), bytes.len()) };
}
