//! A workload of lazybench under the plugin, on Lazuli or on Linux: what the CPUs executed between its marks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::guest;
use crate::qemu::Machine;
use crate::results::{self, Measurement};
use crate::symbols::Symbols;
use crate::watched::{Mode, Watched, failure, watch};

/// Seconds of the guest's time before it is measured: enough for what Linux does behind the first program's back, such as
/// the self-tests of its cryptography.
pub(crate) const SETTLE: u32 = 30;

/// What is run: a workload of lazybench, on how many CPUs, how many operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) workload: &'static str,
    pub(crate) cpus: u32,
    pub(crate) operations: u32,
}

impl Work {
    /// Whether lines of memory can move in it: between two CPUs.
    pub(crate) fn moves_lines(self) -> bool {
        self.cpus > 1 && !self.is_boot()
    }

    /// Whether it is the way from reset to the first program, which is counted from reset on and waits for nothing.
    fn is_boot(self) -> bool {
        self.workload == "boot"
    }

    /// The first program and its arguments.
    fn line(self) -> (&'static str, String) {
        let bench = format!("{} --ops {}", self.workload, self.operations);
        if self.is_boot() {
            ("/bin/lazybench", bench)
        } else {
            ("/bin/init", format!("--settle {SETTLE} /bin/lazybench {bench}"))
        }
    }

    /// A Lazuli that runs it.
    pub(crate) fn on_lazuli(self, machine: &Machine) -> Machine {
        let (init, args) = self.line();
        Machine { smp: self.cpus, icount: true, init: Some(init.to_owned()), args, ..machine.clone() }
    }

    /// A Linux that runs it, with these words on its command line. Linux takes its first program from an initramfs by
    /// another word, knows no semihosting, and is to end when its first program has ended.
    pub(crate) fn on_linux(self, machine: &Machine, words: &str) -> Machine {
        let (init, args) = self.line();
        let cmdline = format!("{words} panic=-1 rdinit={init}");
        Machine { smp: self.cpus, icount: true, hardware_end: true, cmdline, args, scheme: None, ..machine.clone() }
    }
}

/// What was counted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted {
    /// What lazybench says itself.
    pub(crate) measured: Measurement,
    /// By the plugin's names, of all CPUs.
    counts: BTreeMap<String, u64>,
    /// How often the kernel executed the instruction at an address.
    addresses: BTreeMap<u64, u64>,
    /// After how many instructions it first did, if that was counted from reset on.
    pub(crate) firsts: BTreeMap<u64, u64>,
}

impl Counted {
    /// Boots `machine`, which runs `work`, and counts. Or says why that failed.
    pub(crate) fn of(machine: &Machine, plugin: &Path, work: Work, mode: Mode) -> Result<Result<Self, String>> {
        let from = if work.is_boot() { ",from=reset" } else { "" };
        let Watched { outcome, regions } = watch(machine, plugin, mode, from)?;
        let scheme = machine.scheme.as_deref().unwrap_or_default();
        let found = results::parse(scheme, &outcome.console).into_iter().find(|m| m.workload == work.workload);
        let Some(measured) = found else { return Ok(Err(failure(work.workload, machine, &outcome))) };
        Ok(Ok(Self::sum(measured, &regions?)))
    }

    /// The same of a machine that runs any program under `init --mark`: what it does is one operation.
    pub(crate) fn of_program(machine: &Machine, plugin: &Path, mode: Mode) -> Result<Result<Self, String>> {
        let Watched { outcome, regions } = watch(machine, plugin, mode, "")?;
        match regions {
            Ok(regions) if outcome.status != guest::HANG => Ok(Ok(Self::sum(Measurement::of_one("program"), &regions))),
            _ => Ok(Err(failure("the program", machine, &outcome))),
        }
    }

    fn sum(measured: Measurement, regions: &[Value]) -> Self {
        let (counts, addresses, firsts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut counted = Self { measured, counts, addresses, firsts };
        regions.iter().for_each(|region| counted.add(region));
        counted
    }

    /// Adds a region as the plugin wrote it.
    fn add(&mut self, region: &Value) {
        let cpus = region["cpus"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
        for (name, count) in cpus.filter(|(name, _)| *name != "cpu") {
            *self.counts.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        for name in ["fetched", "taken"] {
            let moved = region[name].as_u64().into_iter();
            moved.for_each(|moved| *self.counts.entry(format!("lines_{name}")).or_default() += moved);
        }
        for (address, count) in addresses(region, "addresses") {
            *self.addresses.entry(address).or_default() += count;
        }
        self.firsts.extend(addresses(region, "firsts"));
    }

    /// Takes in what another boot of the same work counted.
    pub(crate) fn join(&mut self, other: Self) {
        self.counts.extend(other.counts);
    }

    /// So many of that name for one operation.
    pub(crate) fn each(&self, name: &str) -> f64 {
        self.per_operation(self.counts.get(name).copied().unwrap_or(0))
    }

    /// The kernel's instructions for one operation; of a boot, before which there is no program, all.
    pub(crate) fn cost(&self) -> f64 {
        if self.measured.workload == "boot" { self.each("el0") + self.each("el1") } else { self.each("el1") }
    }

    /// Lines of memory that moved for one operation.
    pub(crate) fn lines(&self) -> f64 {
        self.each("lines_fetched") + self.each("lines_taken")
    }

    /// All that was counted, for one operation.
    pub(crate) fn all_each(&self) -> BTreeMap<String, f64> {
        self.counts.iter().map(|(name, count)| (name.clone(), self.per_operation(*count))).collect()
    }

    /// The kernel's instructions for one operation by function, the most first.
    pub(crate) fn functions(&self, symbols: &Symbols) -> Vec<(String, f64)> {
        let named = by_function(self.addresses.iter().map(|(&address, &count)| (address, count)), symbols);
        named.into_iter().map(|(name, count)| (name, self.per_operation(count))).collect()
    }

    fn per_operation(&self, count: u64) -> f64 {
        count as f64 / self.measured.told("ops").unwrap_or(1.0)
    }

    /// For a file, and back by [`Counted::from_json`]. Without the addresses, which mean something to one kernel only.
    pub(crate) fn to_json(&self) -> Value {
        json!({"measured": self.measured.to_json(), "counts": self.counts})
    }

    /// What [`Counted::to_json`] wrote.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let count = |(name, count): (&String, &Value)| Some((name.clone(), count.as_u64()?));
        let counts = value["counts"].as_object()?.iter().map(count).collect::<Option<_>>()?;
        let measured = Measurement::from_json(&value["measured"])?;
        Some(Self { measured, counts, addresses: BTreeMap::new(), firsts: BTreeMap::new() })
    }
}

/// The addresses of a region, and what it has of each by that name: how often it was executed, or when first.
pub(crate) fn addresses(region: &Value, name: &str) -> impl Iterator<Item = (u64, u64)> {
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let all = region[name].as_object().into_iter().flatten();
    all.filter_map(move |(text, count)| Some((address(text)?, count.as_u64()?)))
}

/// Counts by function instead of by address, the most first.
pub(crate) fn by_function(addresses: impl Iterator<Item = (u64, u64)>, symbols: &Symbols) -> Vec<(String, u64)> {
    let mut named: BTreeMap<String, u64> = BTreeMap::new();
    for (address, count) in addresses {
        *named.entry(symbols.function(address).unwrap_or_else(|| "?".to_owned())).or_default() += count;
    }
    let mut sorted: Vec<_> = named.into_iter().collect();
    sorted.sort_by_key(|(name, count)| (u64::MAX - count, name.clone()));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { workload: "yield", cpus: 1, operations: 9 };

    #[test]
    fn the_same_program_runs_on_both() {
        let machine = Machine { scheme: Some("eager".into()), ..Machine::of("k".into()) };
        let run = "--settle 30 /bin/lazybench yield --ops 9";
        let ours = WORK.on_lazuli(&machine);
        assert_eq!(ours.append(), format!("exit=semihosting lazy_tlb=eager init=/bin/init -- {run}"));
        let linux = WORK.on_linux(&machine, "console=ttyAMA0 nokaslr");
        assert_eq!(linux.append(), format!("console=ttyAMA0 nokaslr panic=-1 rdinit=/bin/init -- {run}"));
        assert_eq!((ours.smp, linux.smp, linux.hardware_end), (1, 1, true));
        let boot = Work { workload: "boot", ..WORK }.on_lazuli(&machine).append();
        assert!(boot.ends_with("init=/bin/lazybench -- boot --ops 9"), "{boot}");
    }

    #[test]
    fn regions_and_cpus_are_summed_and_told_per_operation() {
        let measured = results::parse("x", "result workload=fault ops=4 ns=1").remove(0);
        let mut counted = Counted::sum(measured, &[]);
        let region = json!({
            "region": 0, "cpus": [{"cpu": 0, "el0": 5, "el1": 8}, {"cpu": 1, "el1": 2}], "addresses": {"0x10": 3}
        });
        counted.add(&region);
        counted.add(&region);
        counted.add(&json!({"region": 0, "fetched": 6, "taken": 2}));
        assert_eq!((counted.each("el1"), counted.each("isb"), counted.cost()), (5.0, 0.0, 5.0));
        let each = [("el0", 2.5), ("el1", 5.0), ("lines_fetched", 1.5), ("lines_taken", 0.5)];
        assert_eq!(counted.all_each(), each.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!(counted.addresses, BTreeMap::from([(16, 6)]));
        let back = Counted::from_json(&counted.to_json()).unwrap();
        assert_eq!(back, Counted { addresses: BTreeMap::new(), ..counted });
    }
}
