//! The Lazuli kernel: the map of its modules.
//!
//! Ground floor first: [`sync`] and [`percpu`], the CPU in [`arch`], then [`memory`], [`heap`] and [`console`], what the
//! device tree says in [`platform`] and [`cmdline`], the [`drivers`], and above
//! [`trace`], into which all that follows can record, [`ipi`] and [`smp`], the other CPUs, and [`hotplug`], which takes one away and brings it back.
//! [`start`] puts them to work in order; [`mod@panic`]
//! is how it ends when it must; [`testing`] makes kernels of test functions.
#![no_std]

extern crate alloc;

pub mod arch;
pub mod cmdline;
pub mod console;
pub mod cpu_features;
pub mod drivers;
pub mod errno;
pub mod fault_points;
pub mod fs;
pub mod heap;
pub mod heartbeat;
pub mod hotplug;
pub mod ipi;
pub mod machine;
pub mod memory;
pub mod panic;
pub mod percpu;
pub mod platform;
pub mod process;
pub mod random;
pub mod sched;
pub mod smp;
pub mod start;
pub mod sync;
pub mod syscall;
mod syscall_names;
pub mod testing;
pub mod trace;
pub mod user_memory;
pub mod watchdog;
