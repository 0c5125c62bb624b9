//! The CPU: how it boots, maps memory, takes exceptions and reaches user memory.

pub mod boot;
mod bytes;
pub mod context;
pub mod cpu;
pub mod el0;
pub mod errata;
pub mod exception;
pub mod fault_decode;
pub mod fpsimd;
pub mod jumps;
pub mod mark;
pub mod mmu;
pub mod page;
pub mod pmu;
pub mod stack;
pub mod timer;
pub mod tlbi;
pub mod user_copy;
