//! `lazy_tlb=refcount`: a lazy CPU holds an `mm_count`.
//!
//! Simple and immediate, and on a big machine one cache line that every switch to idle and back
//! fights over (Linux `MMU_LAZY_TLB_REFCOUNT`). It is the control that the others are measured
//! against.

use crate::machine::Machine;
use crate::mm::Mm;
use crate::stats::Counter;
use crate::switch::CpuState;

/// The CPU keeps `left` loaded: it takes a reference.
pub(super) fn enter_lazy<M: Machine>(cpu: &CpuState<M>, left: &Mm<M>) {
    cpu.lazy.put(left.to_ref());
    cpu.counters.count(Counter::LazyGrabs);
}
