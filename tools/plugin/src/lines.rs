//! Counts how often each line of memory moves between CPUs, between two marks of a program.
//!
//! The model: caches without limit that keep a line until another CPU takes it (MSI, 64-byte lines). A CPU that reads what
//! another wrote, or has, fetches the line; one that writes takes it from all others. What is left out: eviction,
//! prefetch, store buffers, time. Under `-icount` CPUs take turns in long slices, so that a contended line moves less
//! often than on hardware: the counts are a lower bound there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::api::{Access, Hooks, Instruction, Tool};
use crate::count::{BEGIN, END};
use crate::decode::Operation;

const LINE: u64 = 64;
/// CPUs whose caches are told apart.
const CPUS: usize = 512;
/// How many lines, and instructions of a line, a region names.
const NAMED: usize = 64;

/// Who has a line.
#[derive(Default)]
struct Line {
    holders: [u64; CPUS / 64],
    /// By virtual address as it was last moved.
    va: u64,
    fetched: u64,
    taken: u64,
    /// How often each instruction made it move.
    by: HashMap<u64, u64>,
}

impl Line {
    /// An access; says whether the line had to move.
    fn touch(&mut self, cpu: usize, store: bool) -> bool {
        let (word, bit) = (cpu / 64, 1 << (cpu % 64));
        let holds = self.holders[word] & bit != 0;
        let others: u32 = self.holders.iter().map(|word| word.count_ones()).sum::<u32>() - u32::from(holds);
        if store {
            self.holders = [0; CPUS / 64];
        }
        self.holders[word] |= bit;
        match (holds, store) {
            _ if others == 0 => false,
            (_, true) => {
                self.taken += 1;
                true
            }
            (false, false) => {
                self.fetched += 1;
                true
            }
            (true, false) => false,
        }
    }

    fn moves(&self) -> u64 {
        self.fetched + self.taken
    }

    fn forget_counts(&mut self) {
        (self.fetched, self.taken) = (0, 0);
        self.by.clear();
    }
}

/// All lines, and where the regions go.
struct Lines {
    known: HashMap<u64, Line>,
    out: File,
    regions: u64,
}

/// The tool.
pub(crate) struct Ownership {
    running: AtomicBool,
    lines: Mutex<Lines>,
}

impl Ownership {
    /// Writes to a new file at `out`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn new(out: &str) -> Result<Self, String> {
        let out = File::create(out).map_err(|error| format!("cannot make {out}: {error}"))?;
        let lines = Lines { known: HashMap::new(), out, regions: 0 };
        Ok(Self { running: AtomicBool::new(false), lines: Mutex::new(lines) })
    }

    fn begin(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.known.values_mut().for_each(Line::forget_counts);
        // Relaxed: the lock orders what matters.
        self.running.store(true, Ordering::Relaxed);
    }

    fn end_region(&self) {
        if !self.running.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = json(lines.regions, &lines.known);
        lines.regions += 1;
        if let Err(error) = writeln!(lines.out, "{text}") {
            eprintln!("lazuli plugin: the counts cannot be written: {error}");
        }
    }
}

/// A region as a line of JSON: the sums, then the lines that moved most, each with the instructions that moved it.
fn json(region: u64, known: &HashMap<u64, Line>) -> String {
    let (fetched, taken) = known.values().fold((0, 0), |sum, line| (sum.0 + line.fetched, sum.1 + line.taken));
    let mut most: Vec<_> = known.iter().filter(|(_, line)| line.moves() > 0).collect();
    most.sort_by_key(|(address, line)| (u64::MAX - line.moves(), **address));
    let lines: Vec<String> = most.iter().take(NAMED).map(|(address, line)| line_json(**address, line)).collect();
    format!("{{\"region\":{region},\"fetched\":{fetched},\"taken\":{taken},\"lines\":[{}]}}", lines.join(","))
}

fn line_json(address: u64, line: &Line) -> String {
    let mut by: Vec<_> = line.by.iter().collect();
    by.sort_by_key(|(pc, count)| (u64::MAX - **count, **pc));
    let by: Vec<String> =
        by.iter().take(NAMED).map(|(pc, count)| format!("{{\"pc\":\"{pc:#x}\",\"moves\":{count}}}")).collect();
    let Line { va, fetched, taken, .. } = line;
    let by = by.join(",");
    format!("{{\"pa\":\"{address:#x}\",\"va\":\"{va:#x}\",\"fetched\":{fetched},\"taken\":{taken},\"by\":[{by}]}}")
}

impl Tool for Ownership {
    fn translate(&self, instruction: &Instruction) -> Hooks {
        let execute = matches!(instruction.operation, Some(Operation::Hint(BEGIN | END)));
        Hooks { execute, access: true, ..Hooks::default() }
    }

    fn access(&self, cpu: usize, pc: u64, access: Access) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        let Some(address) = access.memory() else { return };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let last = address + access.len() - 1;
        for line in address / LINE..=last / LINE {
            let known = lines.known.entry(line * LINE).or_default();
            if known.touch(cpu, access.store) {
                known.va = access.va;
                *known.by.entry(pc).or_default() += 1;
            }
        }
    }

    fn execute(&self, _cpu: usize, instruction: &Instruction) {
        match instruction.operation {
            Some(Operation::Hint(BEGIN)) => self.begin(),
            Some(Operation::Hint(END)) => self.end_region(),
            _ => {}
        }
    }

    fn end(&self) {
        self.end_region();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_moves_when_another_has_it() {
        let mut line = Line::default();
        assert!(!line.touch(0, true), "nobody had it");
        assert!(!line.touch(0, false));
        assert!(line.touch(70, false), "fetched from its writer");
        assert!(!line.touch(70, false), "shared now");
        assert!(line.touch(0, true), "taken from the reader");
        assert!(!line.touch(0, true));
        assert!(line.touch(70, true), "taken from the writer");
        assert_eq!((line.fetched, line.taken), (1, 2));
    }

    #[test]
    fn a_region_names_the_lines_that_moved_most_first() {
        let line = |fetched| Line { va: 0x1000, fetched, by: HashMap::from([(0x40, fetched)]), ..Line::default() };
        let known = HashMap::from([(0x80, line(1)), (0x40, line(3)), (0, line(0))]);
        let text = json(2, &known);
        assert!(
            text.starts_with(r#"{"region":2,"fetched":4,"taken":0,"lines":[{"pa":"0x40","va":"0x1000","fetched":3"#),
            "{text}"
        );
        assert!(text.contains(r#""by":[{"pc":"0x40","moves":3}]"#) && !text.contains(r#""pa":"0x0""#), "{text}");
    }
}
