//! `watchdog=SECONDS`: a run that shows no sign of life for so long ends in a panic, not in silence.
//!
//! The timer interrupt of each CPU looks at the clock. So it finds a kernel that waits for something
//! that never comes or a program that never ends; it cannot find a CPU that masks interrupts for
//! ever, but another CPU's tick can.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cmdline;

/// When the time is up, in nanoseconds since boot. 0: no watchdog, or not started.
static DEADLINE_NS: AtomicU64 = AtomicU64::new(0);

/// Gives the kernel its time anew, counted from now. Does nothing without the option.
pub fn restart(now_ns: u64) {
    if let Some(seconds) = cmdline::get("watchdog").and_then(|value| value.parse::<u64>().ok()) {
        // Relaxed: a number that publishes nothing else.
        DEADLINE_NS.store(now_ns.saturating_add(seconds.saturating_mul(1_000_000_000)), Ordering::Relaxed);
    }
}

/// When some CPU must look again, if there is a watchdog: an upper bound for the timer.
pub fn deadline_ns() -> Option<u64> {
    // Relaxed: see `restart`.
    Some(DEADLINE_NS.load(Ordering::Relaxed)).filter(|&deadline| deadline != 0)
}

/// Looks at the clock; each timer interrupt calls it with the name of the thread it interrupted.
///
/// # Panics
/// If the time is up.
pub fn check(now_ns: u64, running: &str) {
    if deadline_ns().is_some_and(|deadline| now_ns >= deadline) {
        // Once: the panic may arm timers again.
        DEADLINE_NS.store(0, Ordering::Relaxed);
        panic!("watchdog: no sign of life for the time that watchdog= allows; here ran {running}");
    }
}
