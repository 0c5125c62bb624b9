//! The schemes: what keeps an `Mm` alive that a CPU only uses lazily.
//!
//! Each scheme answers three questions, one file each: what happens when a CPU becomes lazy, when
//! it stops being lazy, and when the last reference is gone. The answer is chosen at boot and
//! sits in each CPU's own line, so that the switch pays one load and one branch for the choice.

mod eager;
mod final_drop;
mod handoff;
mod reaper;
mod refcount;
mod shootdown;

pub(crate) use final_drop::final_drop;
pub(crate) use reaper::Reaper;

use crate::handle::DeadMm;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::switch::CpuState;
use crate::system::System;

/// What keeps a lazily used `Mm` alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// An `mm_count` for each lazy CPU.
    Refcount,
    /// Nothing, until the last reference goes: then lazy CPUs are shot.
    Shootdown,
    /// Nothing; then the CPUs that have it loaded are told, and the last one to leave frees.
    Handoff,
    /// No CPU is ever lazy.
    Eager,
}

/// What became of a dead `Mm` that everybody was to leave.
pub(crate) enum Evicted<M: Machine> {
    /// No CPU has it loaded.
    Gone(DeadMm<M>),
    /// A CPU runs a task that owns it: a bug, and a reason never to free it.
    Owned(DeadMm<M>),
    /// It is the business of the CPUs that have it loaded.
    HandedOver,
}

impl Scheme {
    /// The word that names it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refcount => "refcount",
            Self::Shootdown => "shootdown",
            Self::Handoff => "handoff",
            Self::Eager => "eager",
        }
    }

    /// The task on this CPU has no `Mm` of its own any more; `left` is still loaded.
    #[inline(always)]
    pub(crate) fn enter_lazy<M: Machine>(self, cpu: &CpuState<M>, left: &Mm<M>) {
        match self {
            Self::Refcount => refcount::enter_lazy(cpu, left),
            Self::Shootdown | Self::Handoff => {}
            Self::Eager => eager::enter_lazy(cpu),
        }
    }

    /// Sees to it that every CPU leaves an `Mm` whose last reference is gone.
    pub(crate) fn evict<M: Machine>(self, system: &System<M>, dead: DeadMm<M>) -> Evicted<M> {
        match self {
            // Whoever was lazy held a reference, or nobody ever is: there is nobody left.
            Self::Refcount | Self::Eager => Evicted::Gone(dead),
            Self::Shootdown if shootdown::shoot(&dead) => Evicted::Gone(dead),
            Self::Shootdown => Evicted::Owned(dead),
            Self::Handoff => handoff::hand_off(system, dead).map_or(Evicted::HandedOver, Evicted::Gone),
        }
    }
}
