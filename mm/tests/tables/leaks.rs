//! What an address space takes from the heap, it gives back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use mm::pte::Protection;
use mm::region::Attributes;
use mm::space::{LOWEST, Placement};
use mm::{Mm, PAGE_SIZE};

use super::fake::Fake;

std::thread_local! {
    static TAKEN: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread has taken and not given back.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work, which keeps the promises; the count is this thread's own, and a `Cell`
// without a destructor, which takes nothing from the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.set(TAKEN.get() + 1);
        // SAFETY: our caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        TAKEN.set(TAKEN.get() - 1);
        // SAFETY: our caller's promise is passed on; it came from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

#[test]
fn a_dead_mm_leaves_nothing_behind() {
    Fake::start(20);
    let life = || {
        let user = Mm::<Fake>::create().expect("there are frames");
        let mut space = user.space();
        space
            .map(&user, Placement::At(LOWEST), PAGE_SIZE, Attributes::anonymous(Protection::READ))
            .expect("there is room");
        drop(space);
        user.put();
        Fake::log();
    };
    // What is made once and kept is made here.
    life();
    let before = TAKEN.get();
    life();
    assert_eq!(TAKEN.get(), before);
}
