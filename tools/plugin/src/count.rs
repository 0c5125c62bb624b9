//! Counts what each CPU executes between two marks of a program.
//!
//! A program marks with HINT #100 and HINT #101, NOPs that Linux and Lazuli leave alone. Each region becomes one line of
//! JSON. Every instruction is counted by a callback of its own, so that an exception in the middle of a block is no
//! miscount. Of the kernel's instructions also each address is counted, so that a reader who has its symbols can tell
//! functions apart. The first region may start at reset instead of at a mark; then it is also told when each address was first
//! executed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::{Access, Hooks, Instruction, Tool};
use crate::decode::{Operation, System, Tlbi, What};

/// The marks.
pub(crate) const BEGIN: u8 = 100;
pub(crate) const END: u8 = 101;
/// More CPUs than QEMU's boards have.
const CPUS: usize = 512;

/// What is counted, by its name in the JSON.
const NAMES: [&str; 24] = [
    "el0",
    "el1",
    "tlbi_all",
    "tlbi_all_is",
    "tlbi_asid",
    "tlbi_asid_is",
    "tlbi_leaf",
    "tlbi_leaf_is",
    "tlbi_walk",
    "tlbi_walk_is",
    "tlbi_leaf_range",
    "tlbi_leaf_range_is",
    "tlbi_walk_range",
    "tlbi_walk_range_is",
    "dsb",
    "dsb_local",
    "dmb",
    "isb",
    "ttbr0",
    "ttbr1",
    "lse",
    "store_exclusive",
    "sgi",
    "eret",
];

/// Where an operation is counted.
fn place(operation: Operation) -> Option<usize> {
    let name = match operation {
        Operation::Tlbi(tlbi, _) => return position(&tlbi_name(tlbi)),
        Operation::Dsb(barrier) => {
            if barrier.shared {
                "dsb"
            } else {
                "dsb_local"
            }
        }
        Operation::Dmb => "dmb",
        Operation::Isb => "isb",
        Operation::Msr(System::Ttbr0, _) => "ttbr0",
        Operation::Msr(System::Ttbr1, _) => "ttbr1",
        Operation::Msr(System::Sgi1r, _) => "sgi",
        Operation::Atomic => "lse",
        Operation::StoreExclusive => "store_exclusive",
        Operation::Eret => "eret",
        Operation::Msr(System::Tcr | System::Sctlr, _)
        | Operation::Hint(_)
        | Operation::FirmwareCall
        | Operation::PrefetchForStore(..) => return None,
    };
    position(name)
}

fn position(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

fn tlbi_name(tlbi: Tlbi) -> String {
    let what = match tlbi.what {
        What::All => "all",
        What::Asid => "asid",
        What::Page { leaf_only: true } | What::PageAllAsids { leaf_only: true } => "leaf",
        What::Page { .. } | What::PageAllAsids { .. } => "walk",
        What::Range { leaf_only: true } | What::RangeAllAsids { leaf_only: true } => "leaf_range",
        What::Range { .. } | What::RangeAllAsids { .. } => "walk_range",
    };
    format!("tlbi_{what}{}", if tlbi.broadcast { "_is" } else { "" })
}

/// One CPU's counts. Only the CPU itself adds; Relaxed, because who reads them reads what is past.
struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    fn add(&self, place: usize) {
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all and starts anew.
    fn take(&self) -> [u64; NAMES.len()] {
        std::array::from_fn(|place| self.0[place].swap(0, Ordering::Relaxed))
    }
}

/// How often the instruction at an address was executed, and after how many others first.
type Addresses = HashMap<u64, (u64, u64)>;

/// The counter.
pub(crate) struct Counter {
    running: AtomicBool,
    cpus: Vec<Counts>,
    /// What the kernel executed, on whichever CPU.
    addresses: Mutex<Addresses>,
    /// Where the lines go, and how many there are.
    out: Mutex<(File, u64)>,
    /// Instructions of all CPUs since the region began.
    steps: AtomicU64,
    from_reset: bool,
    /// The physical address of GICv2's register that sends an SGI.
    sgir: Option<u64>,
}

impl Counter {
    /// Writes to a new file at `out`. `sgir` is where GICD_SGIR is, on a board with GICv2. `from_reset`: the first region
    /// has begun.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn new(out: &str, sgir: Option<u64>, from_reset: bool) -> Result<Self, String> {
        let file = File::create(out).map_err(|error| format!("cannot make {out}: {error}"))?;
        let cpus = (0..CPUS).map(|_| Counts(std::array::from_fn(|_| AtomicU64::new(0)))).collect();
        Ok(Self {
            running: AtomicBool::new(from_reset),
            cpus,
            addresses: Mutex::default(),
            out: Mutex::new((file, 0)),
            steps: AtomicU64::new(0),
            from_reset,
            sgir,
        })
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        self.cpus.iter().for_each(|cpu| {
            cpu.take();
        });
        self.addresses().clear();
        self.steps.store(0, Ordering::Relaxed);
        // Relaxed: another CPU may count a few instructions early or late; under `-icount` none does.
        self.running.store(true, Ordering::Relaxed);
    }

    fn end_region(&self) {
        if !self.running.swap(false, Ordering::Relaxed) {
            return;
        }
        let counts: Vec<_> = self.cpus.iter().map(Counts::take).collect();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = std::mem::take(&mut *self.addresses()).into_iter().collect();
        let line = json(out.1, &counts, &addresses, self.from_reset && out.1 == 0);
        out.1 += 1;
        if let Err(error) = writeln!(out.0, "{line}") {
            eprintln!("lazuli plugin: the counts cannot be written: {error}");
        }
    }
}

/// A region as a line of JSON: of each CPU that did anything, what is not zero; then the kernel's addresses, with `ordered` also
/// when each came first.
fn json(region: u64, counts: &[[u64; NAMES.len()]], addresses: &BTreeMap<u64, (u64, u64)>, ordered: bool) -> String {
    let cpu = |(index, counts): (usize, &[u64; NAMES.len()])| {
        let named = NAMES.iter().zip(counts).filter(|(_, count)| **count != 0);
        let fields: String = named.map(|(name, count)| format!(",\"{name}\":{count}")).collect();
        (!fields.is_empty()).then(|| format!("{{\"cpu\":{index}{fields}}}"))
    };
    let cpus: Vec<String> = counts.iter().enumerate().filter_map(cpu).collect();
    let object = |of: fn(&(u64, u64)) -> u64| {
        let pairs = addresses.iter().map(|(pc, both)| format!("\"{pc:#x}\":{}", of(both)));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
    };
    let firsts = if ordered { format!(",\"firsts\":{}", object(|(_, first)| *first)) } else { String::new() };
    let (cpus, addresses) = (cpus.join(","), object(|(count, _)| *count));
    format!("{{\"region\":{region},\"cpus\":[{cpus}],\"addresses\":{addresses}{firsts}}}")
}

impl Tool for Counter {
    fn translate(&self, instruction: &Instruction) -> Hooks {
        // Only stores of the kernel can reach the interrupt controller.
        let access = self.sgir.is_some() && instruction.pc >> 63 == 1;
        let special = instruction
            .operation
            .is_some_and(|operation| matches!(operation, Operation::Hint(BEGIN | END)) || place(operation).is_some());
        Hooks { execute: special, step: true, access, block: false }
    }

    fn step(&self, cpu: usize, pc: u64) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        let in_kernel = pc >> 63 == 1;
        self.cpus[cpu].add(usize::from(in_kernel));
        let before = self.steps.fetch_add(1, Ordering::Relaxed);
        if in_kernel {
            self.addresses().entry(pc).or_insert((0, before)).0 += 1;
        }
    }

    fn access(&self, cpu: usize, _pc: u64, access: Access) {
        if access.store && self.running.load(Ordering::Relaxed) && access.device() == self.sgir {
            position("sgi").into_iter().for_each(|place| self.cpus[cpu].add(place));
        }
    }

    fn execute(&self, cpu: usize, instruction: &Instruction) {
        match instruction.operation {
            Some(Operation::Hint(BEGIN)) => self.begin(),
            Some(Operation::Hint(END)) => self.end_region(),
            Some(operation) if self.running.load(Ordering::Relaxed) => {
                place(operation).into_iter().for_each(|place| self.cpus[cpu].add(place));
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
    use crate::decode::{Barrier, Register};

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        let tlbi = |what, broadcast| Operation::Tlbi(Tlbi { what, broadcast }, Register(0));
        let mut places: Vec<usize> = [
            tlbi(What::All, true),
            tlbi(What::All, false),
            tlbi(What::Asid, true),
            tlbi(What::Page { leaf_only: true }, false),
            tlbi(What::Page { leaf_only: false }, true),
            tlbi(What::Range { leaf_only: true }, true),
            tlbi(What::RangeAllAsids { leaf_only: false }, false),
            Operation::Dsb(Barrier { full: true, shared: true }),
            Operation::Dsb(Barrier { full: true, shared: false }),
            Operation::Dmb,
            Operation::Isb,
            Operation::Eret,
            Operation::Atomic,
            Operation::StoreExclusive,
            Operation::Msr(System::Ttbr0, Register(0)),
            Operation::Msr(System::Sgi1r, Register(0)),
        ]
        .into_iter()
        .map(|operation| place(operation).unwrap())
        .collect();
        let all = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), all);
        assert!(!places.contains(&0) && !places.contains(&1), "the instructions themselves");
    }

    #[test]
    fn a_region_names_only_what_happened() {
        let mut counts = vec![[0; NAMES.len()]; 3];
        counts[1][0] = 7;
        counts[1][NAMES.len() - 1] = 2;
        let addresses = BTreeMap::from([(0x8004, (5, 1)), (0x8000, (6, 0))]);
        let expected = r#"{"region":4,"cpus":[{"cpu":1,"el0":7,"eret":2}],"addresses":{"0x8000":6,"0x8004":5}}"#;
        assert_eq!(json(4, &counts, &addresses, false), expected);
        let ordered = json(4, &counts, &addresses, true);
        assert!(ordered.ends_with(r#""0x8004":5},"firsts":{"0x8000":0,"0x8004":1}}"#), "{ordered}");
        assert_eq!(json(0, &[], &BTreeMap::new(), false), r#"{"region":0,"cpus":[],"addresses":{}}"#);
    }
}
