//! `equal [SEED STEPS]`: a random life must give the number that was recorded, whatever the kernel's schemes (T57).
//@ scheme: every
//@ timeout: 240
//@ sanitize: tlb

use std::{io, process::ExitCode};

use lazuli_user::{
    equal::{Digest, Life, RECORDED},
    frames,
    report::{Report, ensure},
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    match (words.get(1).map(String::as_str), number(1), number(2), number(3)) {
        (None, ..) => check(&words[0]),
        (Some("--child"), _, Some(seed), Some(steps)) => {
            ExitCode::from(Life::of_child(seed, steps as u32).map_or(126, |status| status as u8))
        }
        (_, Some(seed), Some(steps), None) => match live(&words[0], seed, steps as u32) {
            Ok(digest) => {
                println!("equal: seed {seed}, {steps} steps: {:#018x}", digest.0);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("equal: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: equal [SEED STEPS]");
            ExitCode::from(2)
        }
    }
}

fn live(program: &str, seed: u64, steps: u32) -> io::Result<Digest> {
    Life::new(seed, program)?.live(steps)
}

/// Lives the recorded life twice: what it left behind the first time is there the second time, too.
fn check(program: &str) -> ExitCode {
    let (seed, steps, recorded) = RECORDED;
    let mut report = Report::default();
    let mut free = [None; 2];
    for (round, free) in ["first", "second"].into_iter().zip(&mut free) {
        let verdict = live(program, seed, steps).map_err(Into::into).and_then(|digest| {
            ensure(digest.0 == recorded, || format!("{:#018x} instead of {recorded:#018x}", digest.0))
        });
        report.add(&format!("the-{round}-life-is-the-recorded-one"), verdict);
        *free = frames::free();
    }
    report.add("frames-come-back", frames::come_back(free[0], free[1]));
    report.end()
}
