//! Kernel stacks: each above an unmapped hole of its own size, kept and used again.
//!
//! All addresses inside a stack have the bit [`STACK_SIZE`] set, and none in the hole below: so vectors.s tells an
//! overflow from one bit of the stack pointer. Stacks are never unmapped, so none needs an invalidation.

use super::mmu::{self, PAGE, STACKS};
use crate::sync::{IrqLock, SpinLock};

/// The bytes of a kernel stack. vectors.s tests its bit, 14.
pub const STACK_SIZE: u64 = 16 << 10;

unsafe extern "C" {
    static __boot_stack_top: u8;
}

/// Where the next new stack's hole begins. Held while the stack is mapped, so it comes before the lock of the map.
static NEXT: SpinLock<u64> = SpinLock::new(STACKS.start);

/// An interrupt lock, because a thread's last reference may be dropped anywhere.
static POOL: IrqLock<Pool> = IrqLock::new(Pool { first: 0, count: 0 });

/// Stacks that are nobody's.
struct Pool {
    /// The top of one, 0 if there is none; each holds the next one's top in its highest word.
    first: u64,
    count: usize,
}

/// A kernel stack; goes back to the pool when dropped.
#[derive(Debug)]
pub struct KernelStack {
    top: u64,
}

impl KernelStack {
    /// A stack from the pool, or a new one. None if there are no frames for it.
    pub fn new() -> Option<Self> {
        from_pool().or_else(map_new)
    }

    /// The first address above the stack, 16-byte aligned.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Keeps the stack for ever and gives its top.
    pub fn leak(self) -> u64 {
        let top = self.top;
        core::mem::forget(self);
        top
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut pool = POOL.lock();
        let link = (self.top - 8) as *mut u64;
        // SAFETY: the stack is mapped for good, and its last user gave it up.
        unsafe { link.write(pool.first) };
        pool.first = self.top;
        pool.count += 1;
    }
}

fn from_pool() -> Option<KernelStack> {
    let mut pool = POOL.lock();
    let top = pool.first;
    if top == 0 {
        return None;
    }
    // SAFETY: a stack in the pool holds the next one's top in its highest word, and is nobody's.
    pool.first = unsafe { ((top - 8) as *const u64).read() };
    pool.count -= 1;
    Some(KernelStack { top })
}

/// How many frames are in stacks that are nobody's: the next threads get them.
pub fn idle_frames() -> usize {
    POOL.lock().count * (STACK_SIZE / PAGE) as usize
}

fn map_new() -> Option<KernelStack> {
    let mut next = NEXT.lock();
    let bottom = *next + STACK_SIZE;
    let top = bottom + STACK_SIZE;
    if top > STACKS.end {
        return None;
    }
    // A stack that lacks frames stays half mapped, and the next attempt completes it.
    (bottom..top).step_by(PAGE as usize).try_for_each(mmu::fill_page)?;
    *next = top;
    Some(KernelStack { top })
}

/// Where the stack of the first instructions ends.
pub(crate) fn boot_stack_top() -> u64 {
    &raw const __boot_stack_top as u64
}

/// True if `va` lies in the hole below a kernel stack.
pub fn is_guard(va: u64) -> bool {
    let boot_stack = boot_stack_top() - STACK_SIZE;
    (STACKS.contains(&va) && va & STACK_SIZE == 0) || (boot_stack - PAGE..boot_stack).contains(&va)
}
