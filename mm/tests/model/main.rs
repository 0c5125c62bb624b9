//! The mm layer on the lying machine: every test of lifetimes, schemes, ASIDs and flushes.
//!
//! One test program of several files, so that all of them share one build of the machine.

use mm::lying as machine;

mod asids;
mod contract;
mod flush;
mod flush_modes;
mod hotplug;
mod lifetimes;
mod litmus;
mod modifiers;
mod patience;
mod program;
mod random;
mod schemes;
