//! The generic timer: what time it is, and one alarm per CPU (Arm ARM D12, "The Generic Timer").
//!
//! The virtual counter and its timer are used: a hypervisor may hide the physical ones, and without one both run
//! alike. All CPUs read the same counter.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTKCTL_EL1, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, ReadWriteable, Readable, Writeable,
};

/// An alarm that never comes.
pub const NEVER: u64 = u64::MAX;

/// Nanoseconds per tick and ticks per nanosecond, both as binary fractions with 32 places.
///
/// Relaxed: written by CPU 0 before another one starts.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Learns the counter's frequency. On CPU 0, before anything asks for the time.
///
/// # Panics
///
/// If the firmware has not set CNTFRQ_EL0.
pub fn init() {
    let frequency = CNTFRQ_EL0.get();
    assert!(frequency != 0, "CNTFRQ_EL0 is 0: the firmware must set the counter's frequency");
    NS_PER_TICK.store((NS_PER_SECOND << 32) / frequency, Ordering::Relaxed);
    // Rounded up: a number of ticks is never shorter than the nanoseconds it stands for.
    TICKS_PER_NS.store((frequency << 32).div_ceil(NS_PER_SECOND), Ordering::Relaxed);
}

/// Starts this CPU's timer with no alarm, and lets EL0 read the counter.
pub fn init_cpu() {
    CNTKCTL_EL1.modify(CNTKCTL_EL1::EL0VCTEN::SET);
    CNTV_CVAL_EL0.set(NEVER);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET + CNTV_CTL_EL0::IMASK::CLEAR);
}

/// Stops this CPU's timer.
pub fn stop_cpu() {
    CNTV_CTL_EL0.set(0);
}

/// The counter, in ticks.
#[inline]
pub fn now_ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register. The ISB keeps the CPU from reading it earlier than the program says; no `nomem`
    // keeps the compiler from it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}

/// Nanoseconds since the counter started: monotonic, the same on all CPUs.
#[inline]
pub fn now_ns() -> u64 {
    ns_from_ticks(now_ticks())
}

/// What [`now_ns`] said when the counter stood at `ticks`.
#[inline]
pub fn ns_from_ticks(ticks: u64) -> u64 {
    scale(ticks, NS_PER_TICK.load(Ordering::Relaxed))
}

/// The counter, possibly read a little earlier than the program says: for what need not be exact.
#[inline]
pub fn rough_ticks() -> u64 {
    CNTVCT_EL0.get()
}

/// A tick at which `now_ns` is at least `ns`, and hardly more.
pub fn ticks_from_ns(ns: u64) -> u64 {
    let ns_per_tick = NS_PER_TICK.load(Ordering::Relaxed);
    let ticks_per_ns = TICKS_PER_NS.load(Ordering::Relaxed);
    // The two factors are inverse only up to their last places: what the first answer lacks is added.
    let ticks = scale(ns, ticks_per_ns);
    let missing_ns = ns.saturating_sub(scale(ticks, ns_per_tick));
    ticks.saturating_add(scale(missing_ns, ticks_per_ns)).saturating_add(1)
}

/// A product of an integer and a binary fraction with 32 places, without a division.
fn scale(value: u64, factor: u64) -> u64 {
    let product = (u128::from(value) * u128::from(factor)) >> 32;
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Sets this CPU's alarm, in ticks of the counter; [`NEVER`] takes it away. An alarm in the past rings at once.
#[inline]
pub fn set_alarm(ticks: u64) {
    CNTV_CVAL_EL0.set(ticks);
    // SAFETY: a barrier: the interrupt line has followed when this returns, so that an alarm that was put off
    // does not ring once more.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
