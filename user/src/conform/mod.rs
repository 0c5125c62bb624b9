//! The checks of `conform`: what each system call answers, beside what Linux answers.
//!
//! A check is a name and a value, such as `pipes/ends/write-to-closed EPIPE`. The values that Linux gives are recorded in
//! `linux.expected`, so that what is right is data and not a habit of this code. Each case runs in a child of its own:
//! one that crashes or hangs costs its own checks only, and leaves no handler, descriptor or mapping to the next.

mod children;
mod descriptors;
mod exec;
mod faults;
mod files;
mod futex;
mod identity;
mod interrupts;
mod memory;
mod notes;
mod pipes;
mod processes;
mod registers;
mod runner;
mod sharing;
mod signals;
mod stacks;
mod threads;
mod time;

pub use exec::report as report_as_child;
pub use notes::Notes;
pub use runner::{Check, run};

/// What Linux answers: lines of a name and a value.
pub const EXPECTED: &str = include_str!("linux.expected");

/// A named function that notes the answers of related calls.
type Case = (&'static str, fn(&mut Notes));

/// The cases by group.
const GROUPS: &[(&str, &[Case])] = &[
    ("identity", identity::CASES),
    ("memory", memory::CASES),
    ("sharing", sharing::CASES),
    ("files", files::CASES),
    ("descriptors", descriptors::CASES),
    ("pipes", pipes::CASES),
    ("signals", signals::CASES),
    ("registers", registers::CASES),
    ("interrupts", interrupts::CASES),
    ("stacks", stacks::CASES),
    ("faults", faults::CASES),
    ("processes", processes::CASES),
    ("children", children::CASES),
    ("exec", exec::CASES),
    ("threads", threads::CASES),
    ("futex", futex::CASES),
    ("time", time::CASES),
];

/// The value that Linux gives to that check.
pub fn expected(name: &str) -> Option<&'static str> {
    EXPECTED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// The names of all recorded checks.
pub fn recorded() -> impl Iterator<Item = &'static str> {
    EXPECTED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.split_once(' ')?.0))
}
