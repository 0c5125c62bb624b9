//! Clocks and sleep.

use std::time::{Duration, Instant};

use super::{
    Case, Notes,
    notes::{KERNEL, PageEnd, UNMAPPED, answer, at, call, into, must},
};
use crate::sys::cpu;

pub(super) const CASES: &[Case] = &[
    ("gettime", gettime),
    ("monotonic", monotonic),
    ("nanosleep", nanosleep),
    ("clock-nanosleep", clock_nanosleep),
    ("counter", counter),
];

const REALTIME: u64 = libc::CLOCK_REALTIME as u64;
const MONOTONIC: u64 = libc::CLOCK_MONOTONIC as u64;
const ABSOLUTE: u64 = libc::TIMER_ABSTIME as u64;

fn gettime(notes: &mut Notes) {
    let mut time = [-1i64; 2];
    notes.call("realtime", libc::SYS_clock_gettime, &[REALTIME, into(&mut time)]);
    notes.note("realtime-in-range", time[0] >= 0 && (0..1_000_000_000).contains(&time[1]));
    notes.call("monotonic", libc::SYS_clock_gettime, &[MONOTONIC, into(&mut time)]);
    notes.note("monotonic-in-range", time[0] >= 0 && (0..1_000_000_000).contains(&time[1]));
    notes.call("boottime", libc::SYS_clock_gettime, &[libc::CLOCK_BOOTTIME as u64, into(&mut time)]);
    notes.call("bad-clock", libc::SYS_clock_gettime, &[99, into(&mut time)]);
    notes.call("kernel-pointer", libc::SYS_clock_gettime, &[REALTIME, KERNEL]);
    notes.call("unmapped", libc::SYS_clock_gettime, &[REALTIME, UNMAPPED]);
    notes.call("across-page-end", libc::SYS_clock_gettime, &[REALTIME, PageEnd::new().before_end(8)]);
}

fn now() -> Duration {
    let mut time = [0i64; 2];
    must(libc::SYS_clock_gettime, &[MONOTONIC, into(&mut time)]);
    Duration::new(time[0] as u64, time[1] as u32)
}

fn monotonic(notes: &mut Notes) {
    let mut last = now();
    let mut forward = |_| {
        let earlier = std::mem::replace(&mut last, now());
        last >= earlier
    };
    notes.note("never-back", (0..1000).all(&mut forward));
    let cpus = cpu::allowed().expect("cpus");
    notes
        .note("never-back-on-another-cpu", (0..20).all(|turn| cpu::pin(cpus[turn % cpus.len()]).is_ok() && forward(0)));
}

fn timed(number: i64, arguments: &[u64]) -> (String, Duration) {
    let start = Instant::now();
    let result = call(number, arguments);
    (answer(result), start.elapsed())
}

fn nanosleep(notes: &mut Notes) {
    let (result, slept) = timed(libc::SYS_nanosleep, &[at(&[0i64, 20_000_000]), 0]);
    notes.note("20-ms", result);
    notes.note("long-enough", slept >= Duration::from_millis(20));
    notes.call("zero", libc::SYS_nanosleep, &[at(&[0i64, 0]), 0]);
    notes.call("too-many-nanoseconds", libc::SYS_nanosleep, &[at(&[0i64, 1_000_000_000]), 0]);
    notes.call("negative-nanoseconds", libc::SYS_nanosleep, &[at(&[0i64, -1]), 0]);
    notes.call("negative-seconds", libc::SYS_nanosleep, &[at(&[-1i64, 0]), 0]);
    notes.call("kernel-pointer", libc::SYS_nanosleep, &[KERNEL, 0]);
    notes.call("null", libc::SYS_nanosleep, &[0, 0]);
}

fn clock_nanosleep(notes: &mut Notes) {
    let (result, slept) = timed(libc::SYS_clock_nanosleep, &[MONOTONIC, 0, at(&[0i64, 20_000_000]), 0]);
    notes.note("20-ms", result);
    notes.note("long-enough", slept >= Duration::from_millis(20));
    let then = now() + Duration::from_millis(30);
    let moment = [then.as_secs() as i64, then.subsec_nanos().into()];
    notes.call("until-a-moment", libc::SYS_clock_nanosleep, &[MONOTONIC, ABSOLUTE, at(&moment), 0]);
    notes.note("moment-has-come", now() >= then);
    notes.call("until-the-past", libc::SYS_clock_nanosleep, &[MONOTONIC, ABSOLUTE, at(&[0i64, 1]), 0]);
    notes.call("realtime", libc::SYS_clock_nanosleep, &[REALTIME, 0, at(&[0i64, 1]), 0]);
    notes.call("bad-clock", libc::SYS_clock_nanosleep, &[99, 0, at(&[0i64, 1]), 0]);
    notes.call("too-many-nanoseconds", libc::SYS_clock_nanosleep, &[MONOTONIC, 0, at(&[0i64, 1 << 40]), 0]);
    notes.call("kernel-pointer", libc::SYS_clock_nanosleep, &[MONOTONIC, 0, KERNEL, 0]);
}

/// The counter register is open to programs and runs forward.
fn counter(notes: &mut Notes) {
    let before = cpu::ticks();
    must(libc::SYS_nanosleep, &[at(&[0i64, 1_000_000]), 0]);
    notes.note("runs", cpu::ticks() > before);
}
