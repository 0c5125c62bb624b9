//! Breaks the mm layer, one rule at a time, and watches the tests of the lying machine go red.
//!
//! Each mutation is a handful of replacements in a copy of the package under `target/mutants`, of which each processor
//! has one. The list names the test that catches it: that one runs first, and all others only if it does not notice. A
//! mutation that its test does not notice is a hole in the tests, and the exit status says so. Names on the command line
//! choose mutations by part of their name; `--worlds` asks the small worlds (`tests/worlds`) instead of the model, and
//! prints which of them noticed after how many steps.

mod copy;
mod list;
mod waiting;

use std::process::ExitCode;
use std::sync::Mutex;
use std::{env, thread};

use copy::Copy;
use list::{MUTATIONS, Mutation};

/// What the tests said of a mutation.
enum Verdict {
    /// These tests failed.
    Caught(Vec<String>),
    /// All passed.
    Survived,
    /// Not by the test that the list names, but by these.
    Elsewhere(Vec<String>),
    /// Not a mutation at all: it does not apply, does not compile, or never ends.
    Broken(String),
}

fn main() -> ExitCode {
    let (options, wanted): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|word| word.starts_with("--"));
    let suite = if options.is_empty() { &MODEL } else { &WORLDS };
    let copy = Copy::new(suite, 0).expect("the package can be copied to target/mutants");
    if let verdict @ (Verdict::Caught(_) | Verdict::Broken(_)) = copy.test(None) {
        println!("the tests fail without any mutation: {}", describe(&verdict));
        return ExitCode::FAILURE;
    }
    let chosen = |mutation: &&Mutation| wanted.is_empty() || wanted.iter().any(|part| mutation.name.contains(part));
    let queue = Mutex::new(MUTATIONS.iter().chain(waiting::MUTATIONS).filter(chosen));
    let missed = Mutex::new(0);
    let work = |copy: Copy| {
        let next = || queue.lock().expect("no worker panics").next();
        while let Some(mutation) = next() {
            let verdict = copy.try_out(mutation);
            let caught = matches!(verdict, Verdict::Caught(_));
            println!("{:<58} {}", mutation.name, describe(&verdict));
            *missed.lock().expect("no worker panics") += u32::from(!caught);
        }
    };
    thread::scope(|scope| {
        for number in 1..thread::available_parallelism().map_or(1, usize::from) {
            let copy = Copy::new(suite, number).expect("the package can be copied once more");
            scope.spawn(|| work(copy));
        }
        work(copy);
    });
    let missed = missed.into_inner().expect("no worker panics");
    println!("{missed} mutations not caught");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Survived => "SURVIVED".to_string(),
        Verdict::Broken(why) => format!("BROKEN: {why}"),
        Verdict::Elsewhere(tests) => format!("NOT BY THE TEST OF THE LIST, but: {}", names(tests)),
        Verdict::Caught(tests) => names(tests),
    }
}

fn names(tests: &[String]) -> String {
    if tests.is_empty() {
        return "the test program died".to_string();
    }
    let shown = tests.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match tests.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Tests that are asked.
struct Suite {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Whether the list names its tests.
    listed: bool,
    /// What a line that tells of a failure begins and ends with.
    line: [&'static str; 2],
}

const MODEL: Suite = Suite { name: "model", arguments: &[], listed: true, line: ["test ", " ... FAILED"] };
const WORLDS: Suite = Suite { name: "worlds", arguments: &["--nocapture"], listed: false, line: ["FOUND ", ""] };
