//! `lazy_tlb=eager`: a CPU leaves the user root as soon as its task does. The control group.
//!
//! Under ASIDs it costs two TTBR0 writes for each visit to the kernel side, and no entry of the
//! TLB. Whether laziness pays at all on such a machine is the question this scheme answers.

use crate::machine::Machine;
use crate::switch::CpuState;

/// The CPU would be lazy: it loads `init_mm` instead.
pub(super) fn enter_lazy<M: Machine>(cpu: &CpuState<M>) {
    cpu.unlazy();
}
