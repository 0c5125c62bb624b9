//! How the test programs report: `ok NAME`, `FAIL NAME: why`, `skip NAME: why`, and at last the sum.

use std::process::ExitCode;

/// Why a test did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It does not hold.
    Because(String),
    /// It cannot be asked here.
    Skip(String),
}

/// What a test comes to.
pub type Verdict = Result<(), Failed>;

/// Fails with that reason unless the condition holds.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Failed::Because(why())) }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        error.to_string().into()
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// Counts verdicts as they are printed.
#[derive(Debug, Default)]
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Prints one verdict.
    pub fn add(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Ok(()) => {
                println!("ok {name}");
                self.passed += 1;
            }
            Err(Failed::Skip(why)) => println!("skip {name}: {why}"),
            Err(Failed::Because(why)) => {
                println!("FAIL {name}: {why}");
                self.failed += 1;
            }
        }
    }

    /// Prints the sum. The exit code says whether all passed.
    pub fn end(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
