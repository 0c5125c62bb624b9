//! The checks of `lazycheck`: what user programs must never notice of lazy TLBs.
//!
//! A CPU that idles with an address space loaded may come back to it without a flush. Whatever changed meanwhile on
//! another CPU must be seen all the same: an unmapped page faults, a page made read-only refuses a store, a replaced
//! page shows its new content, a page copied after a fork stays a copy.

mod crew;
mod lives;
mod views;

use crate::{
    report::{Failed, Report, Verdict},
    sys::process::{self, Ended},
};
use std::process::ExitCode;

/// A check by name.
type Check = (&'static str, fn() -> Verdict);

const SKIPPED: i32 = 100;

/// Runs the checks whose name contains the word, each in a process of its own.
pub fn run(word: &str) -> ExitCode {
    let mut report = Report::default();
    for (name, check) in views::CHECKS.iter().chain(lives::CHECKS).filter(|(name, _)| name.contains(word)) {
        report.add(name, in_child(*check));
    }
    report.end()
}

/// The reason for a failure stands on standard error, in front of the verdict.
fn in_child(check: fn() -> Verdict) -> Verdict {
    let child = process::spawn(|| match check() {
        Ok(()) => 0,
        Err(Failed::Skip(why)) => {
            eprintln!("lazycheck: {why}");
            SKIPPED
        }
        Err(Failed::Because(why)) => {
            eprintln!("lazycheck: {why}");
            1
        }
    })?;
    match process::wait(child)?.1 {
        Ended::Exited(0) => Ok(()),
        Ended::Exited(SKIPPED) => Err(Failed::Skip("see the line above".to_string())),
        ended => Err(Failed::Because(format!("{ended:?}"))),
    }
}
