//! Counts how often each line of memory moves between CPUs, between two marks of a program.
//!
//! The model: caches without limit that keep a line until another CPU takes it (MSI, 64-byte lines). A CPU that reads what
//! another wrote, or has, fetches the line; one that writes takes it from all others, and so does one that prefetches it in
//! order to write (PRFM PST; of the kernel's half, where a line has been touched before). What is left out: eviction, other
//! prefetch, store buffers, time. Under `-icount` CPUs take turns in long slices, so that a contended line moves less
//! often than on hardware: the moves are a lower bound there; an upper one is how often CPUs came to write the line.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::api::{self, Access, Hooks, Instruction, Tool};
use crate::count::{BEGIN, END};
use crate::decode::Operation;

const LINE: u64 = 64;
const PAGE: u64 = 4096;
/// CPUs whose caches are told apart.
const CPUS: usize = 512;
/// How many accesses of a CPU lie between two of its stores at most, for these to be one coming to the line.
const CLOSE: u64 = 32;
/// How many lines, and instructions of a line, a region names.
const NAMED: usize = 64;

/// A set of CPUs.
type Cpus = [u64; CPUS / 64];

fn size(set: &Cpus) -> u32 {
    set.iter().map(|word| word.count_ones()).sum()
}

/// Who has a line.
#[derive(Default)]
struct Line {
    holders: Cpus,
    /// To whom it has moved, and to whom last.
    movers: Cpus,
    last: Option<usize>,
    /// How often it came to another CPU than the last: one that reads it and then writes has it come once.
    visits: u64,
    /// Who wrote it last, at which of its accesses; and how often somebody came to write it.
    writer: Option<(usize, u64)>,
    writes: u64,
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
        let others = size(&self.holders) - u32::from(holds);
        if store {
            self.holders = [0; CPUS / 64];
        }
        self.holders[word] |= bit;
        if others == 0 || holds && !store {
            return false;
        }
        *if store { &mut self.taken } else { &mut self.fetched } += 1;
        self.movers[word] |= bit;
        self.visits += u64::from(self.last.replace(cpu) != Some(cpu));
        true
    }

    /// A store that is the `number`th access of that CPU. Two that are close to each other are one coming: in between nobody
    /// else would have got the line.
    fn write(&mut self, cpu: usize, number: u64) {
        let stayed = self.writer.is_some_and(|(writer, last)| writer == cpu && number - last <= CLOSE);
        self.writes += u64::from(!stayed);
        self.writer = Some((cpu, number));
    }

    fn moves(&self) -> u64 {
        self.fetched + self.taken
    }

    fn forget_counts(&mut self) {
        (self.fetched, self.taken, self.visits, self.writes) = (0, 0, 0, 0);
        (self.movers, self.last, self.writer) = ([0; CPUS / 64], None, None);
        self.by.clear();
    }
}

/// All lines, and where the regions go.
struct Lines {
    known: HashMap<u64, Line>,
    /// Where the kernel's pages are, by virtual address: those of the upper half, which all CPUs translate alike.
    pages: HashMap<u64, u64>,
    /// How many accesses each CPU has made.
    accesses: Vec<u64>,
    out: File,
    regions: u64,
}

impl Lines {
    /// A CPU needs a line, to read or to write it.
    fn touch(&mut self, cpu: usize, pc: u64, va: u64, line: u64, store: bool) -> &mut Line {
        let known = self.known.entry(line * LINE).or_default();
        if known.touch(cpu, store) {
            known.va = va;
            *known.by.entry(pc).or_default() += 1;
        }
        known
    }

    /// Remembers where a kernel address is.
    fn note_page(&mut self, va: u64, address: u64) {
        if va >> 63 == 1 {
            self.pages.insert(va / PAGE, address / PAGE);
        }
    }

    /// Where that is, if it is known.
    fn translate(&self, va: u64) -> Option<u64> {
        self.pages.get(&(va / PAGE)).map(|page| page * PAGE + va % PAGE)
    }
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
        let lines = Lines { known: HashMap::new(), pages: HashMap::new(), accesses: vec![0; CPUS], out, regions: 0 };
        Ok(Self { running: AtomicBool::new(false), lines: Mutex::new(lines) })
    }

    fn begin(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.known.values_mut().for_each(Line::forget_counts);
        // Relaxed: the lock orders what matters.
        self.running.store(true, Ordering::Relaxed);
    }

    /// A CPU asks for a line in order to write it. A prefetch of what is not mapped does nothing.
    fn prefetch(&self, cpu: usize, pc: u64, va: u64) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = lines.translate(va) {
            lines.touch(cpu, pc, va, address / LINE, true);
        }
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

/// A region as a line of JSON: the sums, also by how many CPUs shared a line, then the lines that moved most, each with the
/// instructions that moved it.
fn json(region: u64, known: &HashMap<u64, Line>) -> String {
    let (fetched, taken) = known.values().fold((0, 0), |sum, line| (sum.0 + line.fetched, sum.1 + line.taken));
    let mut most: Vec<_> = known.iter().filter(|(_, line)| line.moves() > 0).collect();
    most.sort_by_key(|(address, line)| (u64::MAX - line.moves(), **address));
    let lines: Vec<String> = most.iter().take(NAMED).map(|(address, line)| line_json(**address, line)).collect();
    let (shared, lines) = (shared(known), lines.join(","));
    format!("{{\"region\":{region},\"fetched\":{fetched},\"taken\":{taken},\"shared\":[{shared}],\"lines\":[{lines}]}}")
}

/// The lines that moved, by how many CPUs they moved to: how many lines, how often they moved, how many visits those were.
fn shared(known: &HashMap<u64, Line>) -> String {
    let mut by_cpus: BTreeMap<u32, [u64; 3]> = BTreeMap::new();
    for line in known.values().filter(|line| line.moves() > 0) {
        let sums = by_cpus.entry(size(&line.movers)).or_default();
        for (sum, more) in sums.iter_mut().zip([1, line.moves(), line.visits]) {
            *sum += more;
        }
    }
    let one = |(cpus, [lines, moves, visits]): (&u32, &[u64; 3])| {
        format!("{{\"cpus\":{cpus},\"lines\":{lines},\"moves\":{moves},\"visits\":{visits}}}")
    };
    by_cpus.iter().map(one).collect::<Vec<_>>().join(",")
}

fn line_json(address: u64, line: &Line) -> String {
    let mut by: Vec<_> = line.by.iter().collect();
    by.sort_by_key(|(pc, count)| (u64::MAX - **count, **pc));
    let by: Vec<String> =
        by.iter().take(NAMED).map(|(pc, count)| format!("{{\"pc\":\"{pc:#x}\",\"moves\":{count}}}")).collect();
    let (Line { va, fetched, taken, visits, writes, .. }, cpus) = (line, size(&line.movers));
    let by = by.join(",");
    format!(
        "{{\"pa\":\"{address:#x}\",\"va\":\"{va:#x}\",\"cpus\":{cpus},\"fetched\":{fetched},\"taken\":{taken},\
         \"visits\":{visits},\"writes\":{writes},\"by\":[{by}]}}"
    )
}

impl Tool for Ownership {
    fn translate(&self, instruction: &Instruction) -> Hooks {
        let execute =
            matches!(instruction.operation, Some(Operation::Hint(BEGIN | END) | Operation::PrefetchForStore(..)));
        Hooks { execute, access: true, ..Hooks::default() }
    }

    fn access(&self, cpu: usize, pc: u64, access: Access) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        let Some(address) = access.memory() else { return };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.accesses[cpu] += 1;
        lines.note_page(access.va, address);
        let (number, last) = (lines.accesses[cpu], address + access.len() - 1);
        for line in address / LINE..=last / LINE {
            let known = lines.touch(cpu, pc, access.va, line, access.store);
            if access.store {
                known.write(cpu, number);
            }
        }
    }

    fn execute(&self, cpu: usize, instruction: &Instruction) {
        match instruction.operation {
            Some(Operation::Hint(BEGIN)) => self.begin(),
            Some(Operation::Hint(END)) => self.end_region(),
            Some(Operation::PrefetchForStore(base, offset)) => {
                self.prefetch(cpu, instruction.pc, api::read(base).wrapping_add(offset));
            }
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
    fn who_reads_and_then_writes_is_one_visitor() {
        let mut line = Line::default();
        line.touch(0, true);
        for cpu in [1, 0, 1] {
            line.touch(cpu, false);
            line.touch(cpu, true);
        }
        assert_eq!((line.moves(), line.visits, size(&line.movers)), (6, 3, 2));
        line.forget_counts();
        assert_eq!((line.visits, size(&line.movers)), (0, 0));
        line.touch(0, true);
        assert_eq!(line.visits, 1, "whoever had it before the region");
    }

    #[test]
    fn a_prefetch_for_a_store_brings_a_line_once() {
        let path = std::env::temp_dir().join(format!("lazuli-lines-{}", std::process::id()));
        let tool = Ownership::new(path.to_str().unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        let va = 0xffff_0000_0000_1040;
        let moves = |cpu, prefetches: bool| {
            if prefetches {
                tool.prefetch(cpu, 0, va);
            }
            let mut lines = tool.lines.lock().unwrap();
            lines.note_page(va, 0x7040);
            for store in [false, true] {
                lines.touch(cpu, 4, va, 0x7040 / LINE, store);
            }
            lines.known[&0x7040].moves()
        };
        tool.begin();
        assert_eq!(moves(0, false), 0, "nobody had it");
        assert_eq!(moves(1, false), 2, "read, then written");
        assert_eq!(moves(0, true), 3);
        assert_eq!(tool.lines.lock().unwrap().translate(0x1040), None, "a program's page is nobody else's");
    }

    #[test]
    fn stores_that_are_far_apart_are_two_comings() {
        let mut line = Line::default();
        for (cpu, number) in [(0, 1), (0, 2), (0, 2 + CLOSE), (0, 3 + 2 * CLOSE), (1, 1), (0, 4 + 2 * CLOSE)] {
            line.write(cpu, number);
        }
        assert_eq!(line.writes, 4);
    }

    #[test]
    fn a_region_names_the_lines_that_moved_most_first() {
        let line = |fetched| Line { va: 0x1000, fetched, by: HashMap::from([(0x40, fetched)]), ..Line::default() };
        let known = HashMap::from([(0x80, line(1)), (0x40, line(3)), (0, line(0))]);
        let text = json(2, &known);
        assert!(
            text.starts_with(
                r#"{"region":2,"fetched":4,"taken":0,"shared":[{"cpus":0,"lines":2,"moves":4,"visits":0}],"#
            ),
            "{text}"
        );
        assert!(text.contains(r#""lines":[{"pa":"0x40","va":"0x1000","cpus":0,"fetched":3"#), "{text}");
        assert!(text.contains(r#""by":[{"pc":"0x40","moves":3}]"#) && !text.contains(r#""pa":"0x0""#), "{text}");
    }
}
