//! The schemes: what keeps an `Mm` alive that a CPU only uses lazily.
//!
//! Each scheme answers three questions, one file each: what happens when a CPU becomes lazy, when
//! it stops being lazy, and when the last reference is gone. The answer is chosen at boot. The
//! switch asks the machine for it ([`Machine::entry`], [`Machine::departure`]), which may know it for nothing.

mod batch;
mod eager;
mod final_drop;
pub(crate) mod fixed;
mod handoff;
mod qsbr;
mod reaper;
mod refcount;
mod shootdown;
mod waiting;

pub(crate) use final_drop::final_drop;
pub(crate) use reaper::Reaper;
pub(crate) use waiting::Waiting;

use crate::config::{Config, Target};
use crate::handle::DeadMm;
use crate::machine::{Machine, note};
use crate::mm::Mm;
use crate::stats::Counter;
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
    /// Nothing; a dead one waits until every CPU has passed a point where it holds no dead one.
    Qsbr,
    /// No CPU is ever lazy.
    Eager,
}

/// What a CPU does when its task has no `Mm` any more: the scheme's part in that switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Stay,
    /// Takes a reference.
    Count,
    /// Loads `init_mm`.
    Leave,
}

impl Entry {
    /// What the scheme asks for.
    pub fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Refcount => Self::Count,
            Scheme::Shootdown | Scheme::Handoff | Scheme::Qsbr => Self::Stay,
            Scheme::Eager => Self::Leave,
        }
    }

    /// The task on this CPU has no `Mm` of its own any more; `left` is still loaded.
    #[inline(always)]
    pub(crate) fn enter_lazy<M: Machine>(self, cpu: &CpuState<M>, left: &Mm<M>) {
        match self {
            Self::Stay => {}
            Self::Count => refcount::enter_lazy(cpu, left),
            Self::Leave => eager::enter_lazy(cpu),
        }
    }
}

/// What a CPU does with its slot when it leaves an `Mm`: the scheme's part in that switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Departure {
    /// Names the next `Mm`.
    Publish,
    /// Names the next; then clears its bit in the mask of one that is dying.
    PublishAndTrim,
    /// Clears its bit in the mask of one that is dying; then names the next.
    TrimAndPublish,
    /// Names the next, and drains the tag of one that is dead.
    Drain,
    /// Names the next, and notes the epoch.
    NoteEpoch,
}

impl Departure {
    /// What the options ask for.
    pub fn of(config: &Config) -> Self {
        match (config.scheme, config.trim, config.target) {
            // Who frees asks those in the mask: it must still name this CPU while its slot does.
            (_, true, Target::Mask) => Self::PublishAndTrim,
            // Who frees asks those whose slots name it: this one must be done with it by then.
            (_, true, Target::Slot) => Self::TrimAndPublish,
            (scheme, ..) => Self::plain(scheme),
        }
    }

    /// What the scheme without modifiers asks for.
    pub(crate) fn plain(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Handoff => Self::Drain,
            Scheme::Qsbr => Self::NoteEpoch,
            Scheme::Refcount | Scheme::Shootdown | Scheme::Eager => Self::Publish,
        }
    }
}

/// What became of a dead `Mm` that everybody was to leave.
pub(crate) enum Evicted<M: Machine> {
    /// No CPU has it loaded.
    Gone(DeadMm<M>),
    /// A CPU runs a task that owns it: a bug, and a reason never to free it.
    Owned(DeadMm<M>),
    /// It is the business of the CPUs that have it loaded, or waits with others.
    HandedOver,
}

impl Scheme {
    /// The word that names it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refcount => "refcount",
            Self::Shootdown => "shootdown",
            Self::Handoff => "handoff",
            Self::Qsbr => "qsbr",
            Self::Eager => "eager",
        }
    }

    /// Makes every CPU leave an `Mm` without users. Says whether all have left.
    pub(crate) fn dismiss<M: Machine>(self, mm: &Mm<M>) -> bool {
        match self {
            Self::Shootdown => shootdown::shoot(M::system(), mm),
            // They left when their tasks did.
            Self::Eager => true,
            // Lazy CPUs are counted, or handed the `Mm`, but not asked.
            Self::Refcount | Self::Handoff | Self::Qsbr => false,
        }
    }

    /// Sees to it that every CPU leaves an `Mm` whose last reference is gone.
    pub(crate) fn evict<M: Machine>(self, system: &System<M>, dead: DeadMm<M>) -> Evicted<M> {
        match self {
            // Whoever was lazy held a reference, or nobody ever is: there is nobody left.
            Self::Refcount | Self::Eager => Evicted::Gone(dead),
            Self::Shootdown if system.config.batch != 0 => batch::gather(system, dead),
            Self::Shootdown if shootdown::shoot(system, &dead) => Evicted::Gone(dead),
            Self::Shootdown => Evicted::Owned(dead),
            Self::Handoff => handoff::hand_off(system, dead).map_or(Evicted::HandedOver, Evicted::Gone),
            Self::Qsbr => qsbr::retire(system, dead),
        }
    }
}

/// The most dead `Mm`s that may wait under these options.
pub(crate) fn waiting_limit(config: &Config) -> usize {
    if config.scheme == Scheme::Qsbr { qsbr::LIMIT } else { config.batch }
}

/// Counts one that is about an `Mm`, from where the task may move.
fn note_of<M: Machine>(mm: &Mm<M>, counter: Counter) {
    let _pinned = M::pin();
    note(M::cpu_state(), counter, || mm.root().address().0);
}
