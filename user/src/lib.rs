//! What the EL0 programs of Lazuli share. They run on any Linux/aarch64 kernel.
//!
//! `sys` wraps the raw system calls, `bench` holds the workloads of `lazybench`, `conform` the checks
//! of `conform`. Nothing here knows which kernel it
//! runs on: what only Lazuli offers is a file under `/proc`, and its absence is an answer too.

pub mod bench;
pub mod conform;
pub mod sys;
