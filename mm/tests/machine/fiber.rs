//! Fibers: threads of control that share one thread of the host, each on a stack of its own.
//!
//! A change between two of them is a few loads and stores, not a call of the host's kernel: the machine makes a step in
//! a microsecond, and all it is lies in memory that can be copied and put back (`tests/worlds`).

#![expect(unsafe_code, reason = "stacks are raw memory, and who is suspended knows by a pointer whom to call")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use corosensei::stack::{STACK_ALIGNMENT, StackPointer};
use corosensei::{Coroutine, Yielder};

/// Bytes of a stack: room for a report of what went wrong.
pub const STACK_BYTES: usize = 256 << 10;
/// How far down the machine's own calls reach.
const WIPED: usize = 8 << 10;
/// What `suspend` and the change itself may use below the frame that calls it.
const SLACK: usize = 512;

const LAYOUT: Layout = match Layout::from_size_align(STACK_BYTES, STACK_ALIGNMENT) {
    Ok(layout) => layout,
    Err(_) => panic!("a stack has a size and an alignment"),
};

struct Stack(NonNull<u8>);

impl Stack {
    fn new() -> Self {
        // SAFETY: the layout has a size.
        let lowest = unsafe { alloc_zeroed(LAYOUT) };
        Self(NonNull::new(lowest).unwrap_or_else(|| handle_alloc_error(LAYOUT)))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it came from `new`, with this layout.
        unsafe { dealloc(self.0.as_ptr(), LAYOUT) };
    }
}

// SAFETY: the memory is this stack's alone until it is dropped, and both ends are aligned by its layout.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        self.0.addr().checked_add(STACK_BYTES).expect("memory does not wrap")
    }

    fn limit(&self) -> StackPointer {
        self.0.addr()
    }
}

/// One thread of control, suspended.
pub(super) struct Fiber {
    coroutine: Coroutine<(), (), (), Stack>,
    base: usize,
}

/// What a fiber that has not begun has on its stack, at most: the function that it will run.
const NOT_BEGUN: usize = 2 << 10;

// SAFETY: a machine's fibers are made and resumed by the one thread of the host that built the machine, as
// `World::resume` asserts. The bound is asked for because the machine stands in a `Mutex`.
unsafe impl Send for Fiber {}

thread_local! {
    static YIELDER: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };
    /// The lowest byte in use of the fiber that was suspended last.
    static LOWEST: Cell<usize> = const { Cell::new(0) };
}

impl Fiber {
    /// A fiber that will run `body`.
    pub(super) fn new(body: impl FnOnce() + 'static) -> Self {
        let stack = Stack::new();
        let base = corosensei::stack::Stack::base(&stack).get();
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            YIELDER.set(yielder);
            // The hook has told what happened (`baton::catch_panics`); the fiber ends.
            let _ = catch_unwind(AssertUnwindSafe(body));
        });
        Self { coroutine, base }
    }

    /// The bytes of its stack in use before it begins.
    pub(super) fn stack(&self) -> std::ops::Range<usize> {
        self.base - NOT_BEGUN..self.base
    }

    /// Lets it go on until it suspends itself; says whether it has ended. Gives the bytes of its stack in use.
    pub(super) fn resume(&mut self) -> (bool, std::ops::Range<usize>) {
        LOWEST.set(self.base);
        let ended = self.coroutine.resume(()).as_return().is_some();
        (ended, LOWEST.get()..self.base)
    }
}

/// Clears what calls that have returned left on the stack below the caller, or what runs next would have it in places
/// that it does not use.
#[inline(never)]
pub(super) fn wipe_below() {
    let mut space = [0_u8; WIPED];
    black_box(&mut space);
}

/// The running fiber gives the processor back to who resumed it, and goes on when it is resumed.
pub(super) fn suspend() {
    let yielder = YIELDER.get();
    let here = 0_u8;
    LOWEST.set(ptr::from_ref(&here).addr() - SLACK);
    wipe_below();
    // SAFETY: it was set by the running fiber at its start or below, and lives as long as that.
    unsafe { (*yielder).suspend(()) };
    YIELDER.set(yielder);
}
