//! `fuzz SEED COUNT`: COUNT random system calls, the same for the same seed. Children may die of them, the kernel not; and
//! their memory must come back.
//@ args: 1 40000
//@ smp: 2 4
//@ timeout: 300

use std::{path::Path, process::ExitCode};

use lazuli_user::{
    bench::counters,
    frames,
    fuzz::{self, Tally},
    report::{Report, Verdict},
};

const USAGE: &str = "usage: fuzz SEED COUNT [--really], with COUNT from 1 to 1000000000";

/// More calls than anyone waits for.
const MOST: u64 = 1_000_000_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == fuzz::NESTED) {
        return fuzz::nested().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
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
    // The first third also touches all the memory that this program itself needs, code included.
    let thirds = (0..3).map(|part| third(seed.wrapping_mul(3).wrapping_add(part), count.div_ceil(3)));
    let thirds = thirds.collect::<Result<Vec<_>, _>>();
    report.add("fuzz", thirds.as_ref().map(drop).map_err(|error| error.to_string().into()));
    report.add("frames-come-back", come_back(thirds.ok()));
    report.end()
}

fn third(seed: u64, count: u64) -> std::io::Result<Option<i64>> {
    let Tally { calls, killed, stuck } = fuzz::run(seed, count)?;
    let free = frames::free();
    println!(
        "fuzz: {calls} calls, {killed} children killed, {stuck} of them because they were stuck; {free:?} frames free"
    );
    Ok(free)
}

fn come_back(free: Option<Vec<Option<i64>>>) -> Verdict {
    let free = free.unwrap_or_else(|| vec![None; 3]);
    frames::come_back(free[1], free[2])
}
