//! What one boot shows of one operation: instructions, IPIs, and which lines of memory moved between how many CPUs.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::qemu::Machine;
use crate::results::{self, Measurement};
use crate::symbols::Symbols;
use crate::watched::{self, Mode, Watched};

/// A line that moves less often for an operation belongs to the region's start and end.
const RARE: f64 = 0.1;

/// A line that most CPUs write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shared {
    /// The function that moves it most.
    pub(super) who: String,
    /// How often it came to another CPU than the last: the least, because CPUs take long turns under `-icount`.
    pub(super) visits: f64,
    /// How often a CPU came to write it: the most.
    pub(super) writes: f64,
}

/// For one operation, on all CPUs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trace {
    pub(super) instructions: f64,
    pub(super) ipis: f64,
    /// Visits of lines that few CPUs share, as the two of a pair do.
    pub(super) private: f64,
    pub(super) shared: Vec<Shared>,
}

impl Shared {
    /// Whether it is of the mm layer.
    pub(super) fn is_of_mm(&self) -> bool {
        self.who.trim_start_matches('<').starts_with("mm::")
    }

    /// How often an operation has to wait for it, when all CPUs are at it.
    pub(super) fn demand(&self) -> f64 {
        self.visits.max(self.writes)
    }
}

impl Trace {
    /// Boots and counts, with names from the kernel's ELF file. Or says why that failed.
    pub(super) fn of(machine: &Machine, plugin: &Path, elf: &Path) -> Result<Result<Self, String>> {
        let Watched { outcome, regions } = watched::watch(machine, plugin, Mode::Lines, "")?;
        let Some(measured) = results::parse("", &outcome.console).pop().filter(|_| outcome.status == 0) else {
            return Ok(Err(watched::failure(&machine.args, machine, &outcome)));
        };
        let symbols = Symbols::open(elf)?;
        let who = |address| symbols.describe(address).and_then(|frames| name(&frames));
        Ok(Self::from_region(&measured, &regions?[0], machine.smp, &who))
    }

    /// Or says what the region lacks.
    fn from_region(
        measured: &Measurement,
        region: &Value,
        cpus: u32,
        who: &dyn Fn(u64) -> Option<String>,
    ) -> Result<Self, String> {
        let operations = measured.told("ops").unwrap_or(1.0);
        let count = |value: &Value| value.as_f64().unwrap_or(0.0) / operations;
        let is_shared = |of: &Value| of["cpus"].as_u64().is_some_and(|of| of > 2 && 2 * of > u64::from(cpus));
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let by_cpus = list(&region["shared"]);
        if by_cpus.is_empty() {
            return Err("no line moved: the plugin is older than this program; run `make build`".to_owned());
        }
        let line = |line: &Value| {
            let text = list(&line["by"]).first().and_then(|by| by["pc"].as_str().map(str::to_owned));
            let address = text.and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
            let who = address.and_then(who).unwrap_or_else(|| "?".to_owned());
            Shared { who, visits: count(&line["visits"]), writes: count(&line["writes"]) }
        };
        let lines = list(&region["lines"]);
        Ok(Self {
            instructions: measured.ns_per_op(),
            ipis: measured.sum_each(|key| key.starts_with("ipi_")).unwrap_or(0.0),
            private: by_cpus.iter().filter(|of| !is_shared(of)).map(|of| count(&of["visits"])).sum(),
            shared: lines.iter().filter(|of| is_shared(of)).map(line).filter(|of| of.visits >= RARE).collect(),
        })
    }

    /// For a file, and back by [`Trace::from_json`].
    pub(super) fn to_json(&self) -> Value {
        let shared = |of: &Shared| json!({"who": of.who, "visits": of.visits, "writes": of.writes});
        let shared: Vec<_> = self.shared.iter().map(shared).collect();
        json!({"instructions": self.instructions, "ipis": self.ipis, "private": self.private, "shared": shared})
    }

    /// What [`Trace::to_json`] wrote.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let shared = |of: &Value| {
            let who = of["who"].as_str()?.to_owned();
            Some(Shared { who, visits: of["visits"].as_f64()?, writes: of["writes"].as_f64()? })
        };
        Some(Self {
            instructions: value["instructions"].as_f64()?,
            ipis: value["ipis"].as_f64()?,
            private: value["private"].as_f64()?,
            shared: value["shared"].as_array()?.iter().map(shared).collect::<Option<_>>()?,
        })
    }
}

/// Of a function and those that it was inlined in, the first of the kernel's own that is no lock: who took it.
fn name(frames: &str) -> Option<String> {
    let is_own = |frame: &&str| frame.contains(" src/") || frame.contains(" mm/src/");
    let mut own = frames.split(", inlined in ").filter(is_own).filter(|frame| !frame.contains("sync.rs:"));
    Some(own.next()?.rsplit_once(' ')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Value {
        let line = |cpus: u32, visits: u32, writes: u32| json!({"cpus": cpus, "visits": visits, "writes": writes, "by": [{"pc": "0x40", "moves": 1}]});
        json!({
            "shared": [{"cpus": 2, "visits": 40}, {"cpus": 4, "visits": 4}, {"cpus": 8, "visits": 11}],
            "lines": [line(8, 10, 20), line(8, 0, 0), line(2, 40, 40)],
        })
    }

    #[test]
    fn lines_of_most_cpus_are_told_from_those_of_few() {
        let measured =
            results::parse("", "result workload=w ops=10 ns=1 ticks=9 hz=1000000000 ipi_resched=5").remove(0);
        let who = |address| (address == 0x40).then(|| "mm::grab".to_owned());
        let trace = Trace::from_region(&measured, &region(), 8, &who).unwrap();
        let shared = Shared { who: "mm::grab".into(), visits: 1.0, writes: 2.0 };
        assert!(shared.is_of_mm());
        assert_eq!(shared.demand(), 2.0);
        assert_eq!(trace, Trace { instructions: 0.9, ipis: 0.5, private: 4.4, shared: vec![shared] });
        assert_eq!(Trace::from_json(&trace.to_json()), Some(trace));
        let error = Trace::from_region(&measured, &json!({}), 8, &who).unwrap_err();
        assert!(error.contains("make build"), "{error}");
    }

    #[test]
    fn a_lock_is_named_by_who_takes_it() {
        let frames = "core::cas library/core/src/a.rs:1, inlined in spin::lock registry/spin/src/mutex.rs:2, inlined in \
                      lazuli::sync::SpinLock<T>::lock src/sync.rs:3, inlined in <lazuli::A as B>::get src/fs/d.rs:4";
        assert_eq!(name(frames).as_deref(), Some("<lazuli::A as B>::get"));
        assert_eq!(name("memcpy"), None);
    }
}
