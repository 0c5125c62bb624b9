//! What comes to the kernel from outside, read: bytes in, a description or an error that says what to mend out.
//!
//! Nothing here touches hardware or knows the kernel, so the host runs these very readers on damaged input
//! (`tests/`, and the package `fuzz`). None of them trusts a byte, and none panics.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command_line;
pub mod cpio;
pub mod device_tree;
pub mod elf;
#[cfg(feature = "samples")]
pub mod samples;
