//! The mm layer of Lazuli: user address spaces on aarch64, and what keeps them alive while a CPU
//! that runs no user code still has them loaded.
//!
//! It knows no hardware and no kernel. All it asks of a machine is the trait [`Machine`], so the
//! same code runs in the kernel and, on the host, on a machine that behaves as badly as the
//! architecture allows (`tests/machine`).
//!
//! # What it promises
//!
//! * A root table is freed only when no CPU has it in TTBR0 and no walk of it is in flight.
//! * A frame is freed only after every translation to it is gone from every TLB and walk cache.
//! * No CPU runs a task under an ASID that another `Mm`'s entries are cached under.
//! * A lazy CPU that returns to the task it left writes nothing that another CPU reads
//!   (`refcount` aside).
//! * A failed check leaks; it never frees.
//!
//! # Map, ground floor first
//!
//! [`sync`] · [`addr`] [`cpumask`] [`stats`] [`ops`] → [`machine`] [`pte`] [`frame`] [`region`] →
//! [`stale`] [`asid`] → [`table`] → [`mm`] [`handle`] [`space`] → [`switch`] [`flush`] →
//! [`lazy`] → [`fault`] [`system`] [`config`] `hotplug`

#![cfg_attr(not(feature = "lying-machine"), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

// The fake machine of the unit tests is shared with `tests/`; so is the name it knows this crate by.
#[cfg(test)]
extern crate self as under_test;
#[cfg(test)]
#[path = "../tests/support/fake.rs"]
pub mod fake;

// The lying machine lies with the tests, which is where its readers look for it.
#[cfg(all(test, loom))]
#[path = "../tests/loom/mod.rs"]
mod loom_tests;
#[cfg(all(feature = "lying-machine", not(loom)))]
#[path = "../tests/machine/mod.rs"]
pub mod lying;

pub mod addr;
pub mod asid;
pub mod config;
pub mod cpumask;
pub mod fault;
pub mod flush;
pub mod frame;
mod frame_info;
pub mod handle;
mod hotplug;
pub mod lazy;
pub mod machine;
pub mod mm;
pub mod ops;
pub mod pte;
pub mod region;
mod slot;
pub mod space;
pub mod stale;
pub mod stats;
pub mod switch;
pub mod sync;
pub mod system;
pub mod table;

pub use addr::{Asid, CpuId, Frame, PAGE_SIZE, Page, PageRange, PhysAddr, Ttbr, USER_END};
pub use config::{Config, ConfigError, Target};
pub use cpumask::{CpuMask, CpuSet, MAX_CPUS};
pub use flush::FlushMode;
pub use handle::{MmRef, MmUser};
pub use lazy::{Departure, Entry, Scheme};
pub use machine::{Complaint, Hardware, IpiReason, Machine, Mark, Point};
pub use mm::Mm;
pub use ops::{Op, Sequence};
pub use stats::Counter;
pub use switch::CpuState;
pub use system::System;
