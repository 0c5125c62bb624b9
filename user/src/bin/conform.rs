//! Compares what this kernel answers to system calls with what Linux answers.
//!
//! `conform` checks all, `conform GROUP...` some (a group, or `group/case`), `conform --record` prints the answers, which
//! on Linux are what belongs into `user/src/conform/linux.expected`.
//@ timeout: 300

use std::{collections::BTreeSet, process::ExitCode};

use lazuli_user::conform;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    if words.first().is_none_or(String::is_empty) {
        // A case passed bad arguments to execve, and this kernel took them: without this line all cases would run again.
        return ExitCode::from(99);
    }
    words.remove(0);
    if conform::report_as_child(&words) {
        return ExitCode::SUCCESS;
    }
    let record = words.first().is_some_and(|word| word == "--record");
    if record {
        words.remove(0);
    }
    if let Some(option) = words.iter().find(|word| word.starts_with('-')) {
        eprintln!("conform: unknown option {option}; usage: conform [--record] [GROUP[/CASE]...]");
        return ExitCode::from(2);
    }
    let result = if record {
        conform::run(&words, &mut |check| println!("{} {}", check.name, check.value)).map(|()| true)
    } else {
        compare(&words)
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conform: cannot run a case: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(words: &[String]) -> std::io::Result<bool> {
    let (mut passed, mut failed) = (0, 0);
    let chosen = |name: &&str| words.is_empty() || words.iter().any(|word| name.starts_with(word.as_str()));
    let mut missing: BTreeSet<&str> = conform::recorded().filter(chosen).collect();
    conform::run(words, &mut |check| {
        missing.remove(check.name.as_str());
        match conform::expected(&check.name) {
            Some(value) if value == check.value => {
                println!("ok {}", check.name);
                passed += 1;
            }
            other => {
                let says = other.unwrap_or("nothing");
                println!("FAIL {}: got {}, Linux says {says}", check.name, check.value);
                failed += 1;
            }
        }
    })?;
    for name in missing {
        println!("FAIL {name}: never reached");
        failed += 1;
    }
    if passed + failed == 0 {
        eprintln!("conform: no case starts with {}; conform --record shows all names", words.join(" or "));
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}
