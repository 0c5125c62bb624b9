//! Fault injection: what a test does at the points between two steps of a protocol.
//!
//! The mm layer calls here only when it is built with the feature `fault-points`, as test kernels
//! are and shipped images never.

use core::sync::atomic::{AtomicUsize, Ordering};

use mm::Point;

/// The function to call, as an address; 0 for none.
static HOOK: AtomicUsize = AtomicUsize::new(0);

/// Calls `hook` at every point from now on. It runs wherever the protocol is, so it must neither
/// allocate nor take a lock; interrupts may be masked.
pub fn set(hook: fn(Point)) {
    // Release: pairs with the Acquire in `hit`; what the test prepared is visible to its hook.
    HOOK.store(hook as usize, Ordering::Release);
}

/// Does nothing at points again.
pub fn clear() {
    HOOK.store(0, Ordering::Release);
}

/// How many of the SGIs that are sent next get lost.
static TO_LOSE: AtomicUsize = AtomicUsize::new(0);

/// Loses so many of the SGIs that are sent next, one after the other, as a broken interrupt controller would.
pub fn lose_sgis(number: usize) {
    // Relaxed: the test sends them itself, or has others send them afterwards.
    TO_LOSE.store(number, Ordering::Relaxed);
}

/// Whether this SGI gets lost: never, unless tests are built for it.
#[inline(always)]
pub(crate) fn loses_sgi() -> bool {
    let lose_one = |left: usize| left.checked_sub(1);
    cfg!(feature = "fault-points") && TO_LOSE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lose_one).is_ok()
}

/// A point of the kernel's own was reached: nothing, unless tests are built for it.
#[inline(always)]
pub(crate) fn kernel_point(point: Point) {
    if cfg!(feature = "fault-points") {
        hit(point);
    }
}

/// A point was reached.
pub(crate) fn hit(point: Point) {
    // Acquire: pairs with the Release in `set`.
    let hook = HOOK.load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: not 0 means that `set` stored a `fn(Point)`.
        unsafe { core::mem::transmute::<usize, fn(Point)>(hook)(point) };
    }
}
