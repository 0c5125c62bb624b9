//! The schemes: what keeps an `Mm` alive that a CPU only uses lazily.
//!
//! Each scheme answers three questions, one file each: what happens when a CPU becomes lazy, when
//! it stops being lazy, and when the last reference is gone. The answer is chosen at boot and
//! sits in each CPU's own line, so that the switch pays one load and one branch for the choice.

mod eager;
mod final_drop;
mod reaper;
mod refcount;
mod shootdown;

pub(crate) use final_drop::final_drop;
pub(crate) use reaper::Reaper;

use crate::machine::Machine;
use crate::mm::Mm;
use crate::switch::CpuState;

/// What keeps a lazily used `Mm` alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// An `mm_count` for each lazy CPU.
    Refcount,
    /// Nothing, until the last reference goes: then lazy CPUs are shot.
    Shootdown,
    /// No CPU is ever lazy.
    Eager,
}

impl Scheme {
    /// The word that names it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refcount => "refcount",
            Self::Shootdown => "shootdown",
            Self::Eager => "eager",
        }
    }

    /// The task on this CPU has no `Mm` of its own any more; `left` is still loaded.
    #[inline(always)]
    pub(crate) fn enter_lazy<M: Machine>(self, cpu: &CpuState<M>, left: &Mm<M>) {
        match self {
            Self::Refcount => refcount::enter_lazy(cpu, left),
            Self::Shootdown => {}
            Self::Eager => eager::enter_lazy(cpu),
        }
    }

    /// Makes every CPU leave an `Mm` whose last reference is gone. Says whether all did.
    pub(crate) fn evict<M: Machine>(self, mm: &Mm<M>) -> bool {
        match self {
            // Whoever was lazy held a reference: there is nobody left.
            Self::Refcount | Self::Eager => true,
            Self::Shootdown => shootdown::shoot(mm),
        }
    }
}
