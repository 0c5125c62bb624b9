//! `soak PERIODS SECONDS SEED`: a random mix of all that address spaces live through, under CPU hotplug; after each period
//! the kernel's counters must agree and its memory must be back.
//@ args: 2 2 1
//@ smp: 4
//@ gic: 3
//@ cpu: cortex-a72
//@ el: 1
//@ tlbi: broadcast
//@ append: asid_bits=3
//@ timeout: 120

use std::{process::ExitCode, time::Duration};

use lazuli_user::{
    report::Report,
    soak::{self, CHILD, Plan},
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == CHILD.0) {
        return ExitCode::from(CHILD.1 as u8);
    }
    let numbers: Option<Vec<u64>> = words.iter().map(|word| word.parse().ok()).collect();
    let Some(&[periods @ 1..=1_000_000, seconds @ 1..=3600, seed]) = numbers.as_deref() else {
        eprintln!("usage: soak PERIODS SECONDS SEED, with PERIODS from 1 to 1000000 and SECONDS from 1 to 3600");
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    soak::run(Plan { periods: periods as u32, period: Duration::from_secs(seconds), seed }, &mut report);
    report.end()
}
