//! `glutton [MEAL...]`: takes of each thing that the kernel keeps memory for until it is refused. The kernel must
//! refuse, and serve the next one as if nothing had happened.
//@ smp: 2 4
//@ timeout: 240

use std::process::ExitCode;

use lazuli_user::{glutton, report::Report};

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report::default();
    for (name, meal) in glutton::MEALS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("glutton: {name}");
            report.add(name, glutton::serve(*meal));
        }
    }
    report.end()
}
