//! The shipped protocols on loom's atomics: every interleaving of two or three CPUs, and every value that C11 lets a load
//! see, up to a bound on preemptions (`LOOM_MAX_PREEMPTIONS`, else three).
//!
//! What a barrier of the architecture does beyond C11, loom does not know: `litmus/` and the lying machine answer for it.

mod code;
mod host;
mod lifetimes;
mod numbers;
mod schemes;

use host::{check, check_with};
