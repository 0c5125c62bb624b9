//! System calls on time.
//!
//! There is no clock that runs without power: CLOCK_REALTIME counts from 1970 at boot.

use linux_raw_sys::general as linux;

use super::Call;
use crate::arch::timer::now_ns;
use crate::errno::Errno;
use crate::process::alarm::{self, Timer};
use crate::process::signal::send;
use crate::process::thread;
use crate::sched::{self, Signals};
use crate::user_memory;

const SECOND: u64 = 1_000_000_000;
const MICROSECOND: u64 = 1_000;
/// Ticks per second of `times`: `AT_CLKTCK`.
const TICKS: u64 = 100;
/// No wait is longer: about a hundred years.
const FOREVER: u64 = 100 * 365 * 86_400 * SECOND;

/// The clocks that are all the same one here.
const CLOCKS: &[u32] = &[
    linux::CLOCK_REALTIME,
    linux::CLOCK_MONOTONIC,
    linux::CLOCK_MONOTONIC_RAW,
    linux::CLOCK_REALTIME_COARSE,
    linux::CLOCK_MONOTONIC_COARSE,
    linux::CLOCK_BOOTTIME,
];

fn check_clock(clock: u32) -> Result<(), Errno> {
    if CLOCKS.contains(&clock) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Nanoseconds as the pair of words that `struct timespec` is.
fn timespec(ns: u64) -> [u64; 2] {
    [ns / SECOND, ns % SECOND]
}

/// The nanoseconds of a `struct timespec`.
fn read_timespec(address: u64) -> Result<u64, Errno> {
    let [seconds, ns]: [u64; 2] = user_memory::read(address)?;
    duration(seconds, ns, 1)
}

/// A length of time from its seconds and its smaller units, of `unit` nanoseconds each.
fn duration(seconds: u64, fraction: u64, unit: u64) -> Result<u64, Errno> {
    if seconds > i64::MAX as u64 || fraction >= SECOND / unit {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(fraction * unit).min(FOREVER))
}

/// When a time-out ends that a pointer to a `struct timespec` gives; a null pointer gives none.
pub(super) fn deadline_after(address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    Ok(Some(now_ns() + read_timespec(address)?))
}

/// The time at which a wait ends that a pointer to a `struct timespec` gives; null gives none.
pub(super) fn deadline_at(address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 { Ok(None) } else { read_timespec(address).map(Some) }
}

pub(super) fn clock_gettime(call: Call<'_>) -> Result<usize, Errno> {
    check_clock(call.arg32(0))?;
    user_memory::write(call.arg(1), &timespec(now_ns()))?;
    Ok(0)
}

pub(super) fn clock_getres(call: Call<'_>) -> Result<usize, Errno> {
    check_clock(call.arg32(0))?;
    user_memory::write_unless_null(call.arg(1), &timespec(1))?;
    Ok(0)
}

pub(super) fn gettimeofday(call: Call<'_>) -> Result<usize, Errno> {
    let now = now_ns();
    user_memory::write_unless_null(call.arg(0), &[now / SECOND, now % SECOND / MICROSECOND])?;
    // The time zone: Greenwich, no summer time.
    user_memory::write_unless_null(call.arg(1), &[0u32; 2])?;
    Ok(0)
}

/// CPU time is not counted: of the four times, all are zero.
pub(super) fn times(call: Call<'_>) -> Result<usize, Errno> {
    user_memory::write_unless_null(call.arg(0), &[0u64; 4])?;
    Ok((now_ns() / (SECOND / TICKS)) as usize)
}

pub(super) fn nanosleep(call: Call<'_>) -> Result<usize, Errno> {
    let deadline = now_ns() + read_timespec(call.arg(0))?;
    sleep(deadline, call.arg(1))
}

pub(super) fn clock_nanosleep(call: Call<'_>) -> Result<usize, Errno> {
    check_clock(call.arg32(0))?;
    let time = read_timespec(call.arg(2))?;
    if call.arg32(1) & linux::TIMER_ABSTIME != 0 { sleep(time, 0) } else { sleep(now_ns() + time, call.arg(3)) }
}

/// Sleeps until then. A signal with a handler ends it early, and `remainder` says what was left.
fn sleep(deadline: u64, remainder: u64) -> Result<usize, Errno> {
    while sched::sleep_until(deadline, Signals::Interrupt).is_err() {
        let thread = thread::current();
        if send::has_deliverable(thread) || thread.must_end() {
            user_memory::write_unless_null(remainder, &timespec(deadline.saturating_sub(now_ns())))?;
            return Err(Errno::EINTR);
        }
        // Another thread took the signal.
        thread::look_away();
    }
    Ok(0)
}

/// `struct itimerval`: the interval and the time left, each in seconds and microseconds.
fn to_interval(timer: Timer) -> [u64; 4] {
    let left = if timer.due == 0 { 0 } else { timer.due.saturating_sub(now_ns()).max(MICROSECOND) };
    let parts = |ns: u64| [ns / SECOND, ns % SECOND / MICROSECOND];
    let ([a, b], [c, d]) = (parts(timer.interval), parts(left));
    [a, b, c, d]
}

fn check_timer(which: u32) -> Result<(), Errno> {
    // The others count CPU time.
    if which == linux::ITIMER_REAL { Ok(()) } else { Err(Errno::EINVAL) }
}

pub(super) fn setitimer(call: Call<'_>) -> Result<usize, Errno> {
    check_timer(call.arg32(0))?;
    let [interval_s, interval_us, left_s, left_us]: [u64; 4] = match call.arg(1) {
        0 => [0; 4],
        address => user_memory::read(address)?,
    };
    let interval = duration(interval_s, interval_us, MICROSECOND)?;
    let due = match duration(left_s, left_us, MICROSECOND)? {
        0 => 0,
        left => now_ns() + left,
    };
    let before = alarm::set(&thread::current().process, Timer { due, interval });
    user_memory::write_unless_null(call.arg(2), &to_interval(before))?;
    Ok(0)
}

pub(super) fn getitimer(call: Call<'_>) -> Result<usize, Errno> {
    check_timer(call.arg32(0))?;
    let timer = *thread::current().process.alarm.lock();
    user_memory::write(call.arg(1), &to_interval(timer))?;
    Ok(0)
}
