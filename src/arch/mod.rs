//! The CPU: how it boots, maps memory, takes exceptions and reaches user memory.

pub mod boot;
pub mod cpu;
pub mod exception;
pub mod fault_decode;
pub mod mmu;
pub mod page;
pub mod tlbi;
pub mod user_copy;
