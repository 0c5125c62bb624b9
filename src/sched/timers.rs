//! Deadlines: one heap of waiting threads per CPU, and nothing to allocate.
//!
//! A deadline lives in the stack frame of the thread that waits for it, so arming one cannot fail and needs no
//! memory while interrupts are masked. The heap is a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986): arming
//! costs a comparison, and a deadline that is taken back early, as most are, costs little more.
//!
//! A CPU arms in its own heap. The thread may wake up on another CPU and takes the deadline back from there: hence
//! the lock. When a CPU goes offline, another one takes over what is armed there: hence a deadline says whose heap it is
//! in.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::thread::Thread;
use super::wait;
use crate::arch::timer::NEVER;
use crate::percpu;
use crate::sync::{IrqGuard, IrqLock};

/// One CPU's deadlines.
#[derive(Debug)]
pub(super) struct Timers(IrqLock<Heap>);

/// A thread's deadline, linked into a heap while it is armed.
///
/// The cells belong to the lock of the heap that it was armed in.
struct Deadline<'a> {
    ticks: u64,
    thread: &'a Thread,
    armed: Cell<bool>,
    /// The CPU whose heap it is, or was last, armed in. Relaxed: changed under the lock of the heap it leaves.
    home: AtomicUsize,
    /// The first of those below.
    child: Cell<Link>,
    /// The next with the same parent.
    sibling: Cell<Link>,
    /// The sibling before; for the first child, the parent; for the root, nothing.
    back: Cell<Link>,
}

/// An armed deadline's address, or null. The lifetime is a lie that `with_deadline` makes good.
type Link = *const Deadline<'static>;

/// The smallest deadline, above the others.
#[derive(Debug)]
struct Heap {
    root: Link,
}

// SAFETY: the heap and all that hangs on it is touched under the heap's lock only.
unsafe impl Send for Heap {}

/// Runs `wait`, during which `thread` is woken when the counter reaches `ticks`.
///
/// Interrupts are masked, the thread has announced that it blocks (see `wait`), and this CPU runs it.
pub(super) fn with_deadline(thread: &Thread, ticks: u64, wait: impl FnOnce()) {
    let this = percpu::this();
    let deadline = Deadline {
        ticks,
        thread,
        armed: Cell::new(true),
        home: AtomicUsize::new(this.id),
        child: Cell::new(ptr::null()),
        sibling: Cell::new(ptr::null()),
        back: Cell::new(ptr::null()),
    };
    let link: Link = (&raw const deadline).cast();
    this.sched.timers.0.lock().insert(link);
    this.sched.request_alarm(ticks);
    wait();
    // By now this may be another CPU, but the deadline is in the heap of the first. After this no heap knows it, and
    // the frame may go.
    take_back(&deadline, link);
}

/// Disarms a deadline in whichever heap it is by now, if it is still armed.
fn take_back(deadline: &Deadline<'_>, link: Link) {
    loop {
        let home = deadline.home.load(Ordering::Relaxed);
        let mut heap = percpu::of(home).sched.timers.0.lock();
        // Under its lock a heap keeps what it has. Another home means that it moved between the look and the lock.
        if deadline.home.load(Ordering::Relaxed) == home {
            if deadline.armed.get() {
                heap.remove(link);
            }
            return;
        }
    }
}

/// Moves what is armed on a CPU that runs no threads any more to this one.
pub(super) fn adopt(from: usize) {
    let _masked = IrqGuard::new();
    let this = percpu::this();
    let mut source = percpu::of(from).sched.timers.0.lock();
    // Nobody else holds two of these locks.
    let mut heap = this.sched.timers.0.lock();
    // SAFETY: armed deadlines stay in their frames; the lock is held.
    while let Some(first) = unsafe { source.root.as_ref() } {
        let link = source.root;
        source.remove(link);
        first.home.store(this.id, Ordering::Relaxed);
        first.armed.set(true);
        // What was below it stays behind.
        first.child.set(ptr::null());
        heap.insert(link);
    }
    // SAFETY: as above.
    let next = unsafe { heap.root.as_ref() }.map_or(NEVER, |first| first.ticks);
    drop((heap, source));
    this.sched.request_alarm(next);
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self(IrqLock::new(Heap { root: ptr::null() }))
    }

    /// Wakes every thread whose deadline has come. Returns the next deadline, or [`NEVER`].
    pub(super) fn expire(&self, now: u64) -> u64 {
        let mut heap = self.0.lock();
        // SAFETY: armed deadlines stay in their frames; the lock is held.
        while let Some(first) = unsafe { heap.root.as_ref() } {
            if first.ticks > now {
                return first.ticks;
            }
            let link = heap.root;
            heap.remove(link);
            // Under the lock, which the thread needs before it can leave the frame.
            wait::wake(first.thread);
        }
        NEVER
    }
}

impl Heap {
    fn insert(&mut self, link: Link) {
        // SAFETY: both are armed, or null.
        self.root = unsafe { merge(self.root, link) };
    }

    /// Takes an armed deadline out.
    fn remove(&mut self, link: Link) {
        // SAFETY: it is armed in this heap, so it and its neighbours live; the caller holds the lock.
        unsafe {
            let node = &*link;
            node.armed.set(false);
            if ptr::eq(link, self.root) {
                self.root = merge_children(node);
                return;
            }
            let back = &*node.back.get();
            if ptr::eq(back.child.get(), link) {
                back.child.set(node.sibling.get());
            } else {
                back.sibling.set(node.sibling.get());
            }
            if let Some(sibling) = node.sibling.get().as_ref() {
                sibling.back.set(node.back.get());
            }
            self.root = merge(self.root, merge_children(node));
        }
    }
}

/// Joins two heaps: the later root becomes the first child of the earlier.
///
/// # Safety
///
/// Each is null or the root of a heap of armed deadlines, whose lock is held.
unsafe fn merge(one: Link, other: Link) -> Link {
    // SAFETY: the caller's promise.
    let (Some(a), Some(b)) = (unsafe { one.as_ref() }, unsafe { other.as_ref() }) else {
        return if one.is_null() { other } else { one };
    };
    let (parent, child) = if b.ticks < a.ticks { (b, a) } else { (a, b) };
    child.sibling.set(parent.child.get());
    // SAFETY: children of an armed deadline are armed.
    if let Some(first) = unsafe { parent.child.get().as_ref() } {
        first.back.set(child);
    }
    child.back.set(parent);
    parent.child.set(child);
    parent.back.set(ptr::null());
    parent.sibling.set(ptr::null());
    parent
}

/// Makes one heap of what hangs below a deadline that goes: in pairs from the left, and then all from the right.
///
/// # Safety
///
/// The deadline's lock is held.
unsafe fn merge_children(node: &Deadline<'_>) -> Link {
    let mut pairs: Link = ptr::null();
    let mut rest = node.child.get();
    // SAFETY: children of an armed deadline are armed, as are their siblings.
    while let Some(first) = unsafe { rest.as_ref() } {
        let second = first.sibling.get();
        // SAFETY: as above.
        rest = unsafe { second.as_ref() }.map_or(ptr::null(), |second| second.sibling.get());
        // SAFETY: both are roots: nothing but `pairs` and `rest` leads to them any more.
        let pair = unsafe { merge(detach(first), second.as_ref().map_or(ptr::null(), |second| detach(second))) };
        // SAFETY: `merge` returns one of the two, and the first is not null.
        unsafe { &*pair }.sibling.set(pairs);
        pairs = pair;
    }
    let mut root: Link = ptr::null();
    // SAFETY: as above.
    while let Some(pair) = unsafe { pairs.as_ref() } {
        pairs = pair.sibling.get();
        // SAFETY: as above.
        root = unsafe { merge(root, detach(pair)) };
    }
    root
}

/// The deadline as a root of its own.
fn detach(node: &Deadline<'static>) -> Link {
    node.sibling.set(ptr::null());
    node.back.set(ptr::null());
    node
}
