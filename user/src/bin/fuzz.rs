//! `fuzz SEED COUNT`: COUNT random system calls, the same for the same seed. Children may die of them, the kernel not.
//@ args: 1 100000
//@ smp: 2 4
//@ timeout: 300

use std::{path::Path, process::ExitCode};

use lazuli_user::{bench::counters, fuzz, report::Report};

const USAGE: &str = "usage: fuzz SEED COUNT [--really], with COUNT from 1 to 1000000000";

/// More calls than anyone waits for.
const MOST: u64 = 1_000_000_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (really, words): (Vec<_>, Vec<_>) = words.iter().partition(|word| *word == "--really");
    let numbers: Option<Vec<u64>> = words.iter().map(|word| word.parse().ok()).collect();
    let Some(&[seed, count @ 1..=MOST]) = numbers.as_deref() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if !Path::new(counters::PATH).exists() && really.is_empty() {
        eprintln!("fuzz: no {}, so this may be somebody's Linux; --really runs on it all the same", counters::PATH);
        return ExitCode::from(2);
    }
    let mut report = Report::default();
    match fuzz::run(seed, count) {
        Ok(tally) => {
            println!("fuzz: {} calls, {} children killed", tally.calls, tally.killed);
            report.add("fuzz", Ok(()));
        }
        Err(error) => report.add("fuzz", Err(error.into())),
    }
    report.end()
}
