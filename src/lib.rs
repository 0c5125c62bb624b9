//! The Lazuli kernel: the map of its modules.
//!
//! Ground floor first: [`sync`] and [`percpu`], the CPU in [`arch`], then [`memory`], [`heap`] and [`console`], what the
//! device tree says in [`platform`] and [`cmdline`], the [`drivers`], and above
//! them [`ipi`] and [`smp`], the other CPUs. [`start`] puts them to work in order; [`mod@panic`]
//! is how it ends when it must; [`testing`] makes kernels of test functions.
#![no_std]

extern crate alloc;

pub mod arch;
pub mod cmdline;
pub mod console;
pub mod drivers;
pub mod fault_points;
pub mod heap;
pub mod ipi;
pub mod machine;
pub mod memory;
pub mod panic;
pub mod percpu;
pub mod platform;
pub mod sched;
pub mod smp;
pub mod start;
pub mod sync;
pub mod testing;
pub mod watchdog;
