//! `lazuli bench-check`: holds what operations cost against what they cost before, and names the functions that grew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bars::{self, BARS, Counting};
use crate::counted::Counted;
use crate::qemu::Machine;
use crate::symbols::Symbols;
use crate::table;
use crate::watched::Mode;

/// By how much a count may grow.
const GROWTH: f64 = 0.01;
/// Less than this for one operation is not what the operation does, but a timer that fell into it.
const NOTHING: f64 = 0.01;
/// Functions that are named, at most.
const NAMED: usize = 5;
/// Functions of a smaller part of an operation are not kept.
const PART: f64 = 0.001;

/// Options of `lazuli bench-check`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    counting: Counting,
    /// What the operations cost before
    #[arg(long, default_value = "tools/baseline.json")]
    baseline: PathBuf,
    /// Let what they cost now be the baseline from now on
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    machine: Machine,
}

type Counts = BTreeMap<String, f64>;

/// What an operation costs.
#[derive(Default)]
struct Cost {
    /// By kind of event.
    counts: Counts,
    /// The kernel's instructions by function.
    functions: Counts,
}

/// Counts all operations that have a bar. Returns whether none grew.
pub(crate) fn run(options: Options) -> Result<bool> {
    let symbols = Symbols::open(&options.machine.kernel)?;
    let machine = options.counting.machine(&options.machine)?;
    let mut now = BTreeMap::new();
    for bar in BARS {
        let count = |mode| bars::count(bar, &machine, &options.counting.plugin, mode);
        let Some(mut counted) = count(Mode::Instructions)? else { return Ok(false) };
        if bar.work.moves_lines() {
            let Some(lines) = count(Mode::Lines)? else { return Ok(false) };
            counted.join(lines);
        }
        now.insert(bar.what.to_owned(), Cost::of(&counted, &symbols));
    }
    let path = options.baseline.display();
    if options.update {
        let all: BTreeMap<_, _> = now.iter().map(|(name, cost)| (name, cost.to_json())).collect();
        let made = json!({"command": "make bench-check UPDATE=1", "compiler": compiler()?, "operations": all});
        let text = format!("{made:#}\n");
        std::fs::write(&options.baseline, text).with_context(|| format!("cannot write {path}"))?;
        println!("{path} says what {} operations cost", now.len());
        return Ok(true);
    }
    let context = || format!("cannot read {path}; `make bench-check UPDATE=1` writes it");
    let text = std::fs::read_to_string(&options.baseline).with_context(context)?;
    let before: Value = serde_json::from_str(&text).with_context(context)?;
    let (mut grown, mut lower) = (Vec::new(), 0);
    for (name, cost) in &now {
        let before = Cost::from_json(&before["operations"][name]);
        let (worse, better) = compare(&before, cost);
        grown.extend(worse.into_iter().map(|line| format!("FAIL {name}: {line}")));
        lower += better;
    }
    grown.iter().for_each(|line| println!("{line}"));
    println!("{} counts grew by more than 1 %, {lower} fell by as much, against {path}", grown.len());
    if !grown.is_empty() || lower > 0 {
        println!("Where that is meant to be: make bench-check UPDATE=1, and commit it.");
    }
    let (compiler, theirs) = (compiler()?, before["compiler"].as_str().unwrap_or("an unknown compiler"));
    if compiler != theirs {
        println!("Nothing is judged: those counts are of {theirs}, these of {compiler}, which makes other code.");
    }
    Ok(grown.is_empty() || compiler != theirs)
}

/// What the compiler calls itself: another one makes other code of the same source.
fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A line for each count that grew, and how many fell.
fn compare(before: &Cost, now: &Cost) -> (Vec<String>, usize) {
    let get = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0.0);
    let (mut grown, mut fallen) = (Vec::new(), 0);
    for name in now.counts.keys().chain(before.counts.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (get(&before.counts, name), get(&now.counts, name));
        let much = |from: f64, to: f64| to - from > NOTHING && to > from * (1.0 + GROWTH);
        fallen += usize::from(much(new, old));
        if much(old, new) {
            grown.push(format!("{name} {} → {}{}", table::number(old), table::number(new), who_grew(before, now)));
        }
    }
    (grown, fallen)
}

/// The functions that grew most. Code that moved from one to another shows as one that grew and one that shrank: so they
/// explain a growth, but are none by themselves.
fn who_grew(before: &Cost, now: &Cost) -> String {
    let more = |(name, &new): (&String, &f64)| {
        let old = before.functions.get(name).copied().unwrap_or(0.0);
        (new - old > NOTHING).then(|| (new - old, format!("{name} {} → {}", table::number(old), table::number(new))))
    };
    let mut all: Vec<_> = now.functions.iter().filter_map(more).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let lines: Vec<_> = all.into_iter().take(NAMED).map(|(_, line)| format!("\n       {line}")).collect();
    lines.concat()
}

impl Cost {
    fn of(counted: &Counted, symbols: &Symbols) -> Self {
        let least = counted.cost() * PART;
        let functions = counted.functions(symbols).into_iter().filter(|(_, count)| *count >= least);
        Self { counts: counted.all_each(), functions: functions.collect() }
    }

    fn to_json(&self) -> Value {
        // Four digits behind the point: an event in ten thousand operations.
        let short = |counts: &Counts| -> Counts {
            counts.iter().map(|(name, count)| (name.clone(), (count * 1e4).round() / 1e4)).collect()
        };
        json!({"counts": short(&self.counts), "functions": short(&self.functions)})
    }

    /// What [`Cost::to_json`] wrote; of something else nothing, so that all is new.
    fn from_json(value: &Value) -> Self {
        let counts = |value: &Value| {
            let all = value.as_object().into_iter().flatten();
            all.filter_map(|(name, count)| Some((name.clone(), count.as_f64()?))).collect()
        };
        Self { counts: counts(&value["counts"]), functions: counts(&value["functions"]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(counts: &[(&str, f64)], functions: &[(&str, f64)]) -> Cost {
        let all = |list: &[(&str, f64)]| list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Cost { counts: all(counts), functions: all(functions) }
    }

    #[test]
    fn a_count_that_grows_names_the_functions_that_did() {
        let before = cost(&[("el1", 100.0), ("isb", 1.0)], &[("entry", 60.0), ("switch", 40.0)]);
        let slower = cost(&[("el1", 101.5), ("isb", 1.0)], &[("entry", 58.0), ("switch", 43.5)]);
        let (grown, fallen) = compare(&before, &slower);
        assert_eq!((grown, fallen), (vec!["el1 100 → 102\n       switch 40.0 → 43.5".to_owned()], 0));
    }

    #[test]
    fn one_percent_and_an_odd_timer_are_no_growth_but_a_new_count_is() {
        let before = cost(&[("el1", 100.0), ("dsb", 0.001)], &[]);
        assert_eq!(compare(&before, &cost(&[("el1", 101.0), ("dsb", 0.002)], &[])).0, Vec::<String>::new());
        let (grown, fallen) = compare(&before, &cost(&[("el1", 90.0), ("tlbi_asid", 1.0)], &[]));
        assert_eq!((grown, fallen), (vec!["tlbi_asid 0 → 1.00".to_owned()], 1));
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let one = cost(&[("el1", 1.5)], &[("f", 0.25)]);
        let back = Cost::from_json(&one.to_json());
        assert_eq!((back.counts, back.functions), (one.counts, one.functions));
        assert!(Cost::from_json(&Value::Null).counts.is_empty());
    }
}
