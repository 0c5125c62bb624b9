//! Files: the initramfs as the root, a writable /tmp, devices, /proc, what programs read of /sys, and pipes.
//!
//! [`node`] is the tree of names, [`path`] walks it, [`mod@file`] is what is open and [`descriptor`]
//! numbers it, [`in_use`] keeps it open while it is used. Everything lives in memory; nothing here waits but a pipe, the console, and what
//! takes a CPU down or brings it up.

pub mod borrow;
pub mod descriptor;
pub mod device;
pub mod file;
pub mod in_use;
pub mod initramfs;
pub mod node;
pub mod path;
pub mod pipe;
pub mod poll;
pub mod proc;
pub mod regular;
pub mod sys;
mod trace;
