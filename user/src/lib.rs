//! What the EL0 programs of Lazuli share. They run on any Linux/aarch64 kernel.
//!
//! `sys` wraps the raw system calls, `probe` single instructions that may fault, `report` prints what tests found. Then
//! one folder per program: `bench` for `lazybench`, `conform`, `equal`, `fuzz`, `glutton`, `lazycheck` and `soak`. Nothing here
//! knows which kernel it runs on: what only Lazuli offers is a file under `/proc`, and its absence is an answer too.

pub mod bench;
pub mod conform;
pub mod equal;
pub mod frames;
pub mod fuzz;
pub mod glutton;
pub mod kept;
pub mod lazycheck;
pub mod probe;
pub mod random;
pub mod report;
pub mod soak;
pub mod sys;
