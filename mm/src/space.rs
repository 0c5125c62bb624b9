//! What the lock of an `Mm` protects: its mappings.

use core::marker::PhantomData;

use crate::addr::Frame;
use crate::machine::Machine;
use crate::mm::Mm;

/// The mappings of one address space.
pub struct Space<M: Machine> {
    root: Frame,
    machine: PhantomData<M>,
}

impl<M: Machine> Space<M> {
    pub(crate) fn new(root: Frame) -> Self {
        Self { root, machine: PhantomData }
    }

    /// Unmaps everything.
    pub(crate) fn tear_down(&mut self, mm: &Mm<M>) {
        debug_assert_eq!(self.root, mm.root());
    }
}
