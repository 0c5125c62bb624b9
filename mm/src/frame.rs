//! Frames of memory for tables and user pages.

use alloc::vec::Vec;

use crate::addr::Frame;
use crate::machine::Machine;
use crate::sync::Lock;

/// Gives out frames.
pub struct FrameAllocator<M: Machine>(Lock<Vec<Frame>, M>);

impl<M: Machine> FrameAllocator<M> {
    /// An allocator of these frames.
    pub fn new(free: impl IntoIterator<Item = Frame>) -> Self {
        Self(Lock::new(free.into_iter().collect()))
    }

    /// A zeroed frame for a table, or `None` when memory is out.
    pub fn alloc_table(&self) -> Option<Frame> {
        let frame = self.0.lock().pop()?;
        M::zero_frame(frame);
        Some(frame)
    }

    /// Takes a root table back.
    pub fn free_root(&self, root: Frame) {
        self.0.lock().push(root);
    }
}
