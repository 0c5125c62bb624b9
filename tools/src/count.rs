//! `lazuli count`: counts by the plugin what each CPU executes between a program's marks, or which lines of memory move.
//!
//! The plugin writes a line of JSON for each region; here they become tables, with names from the kernel's ELF file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::counted;
use crate::guest;
use crate::qemu::{self, Machine};
use crate::sanitizer;
use crate::symbols::Symbols;
use crate::table;
use crate::watched::{self, Mode};

/// Lines of memory or functions, and instructions for each line, in the tables.
const LINES: usize = 20;
const INSTRUCTIONS: usize = 3;

/// Options of `lazuli count`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The plugin
    #[arg(long)]
    plugin: PathBuf,
    /// Count how often each line of memory moves between CPUs, instead of instructions
    #[arg(long)]
    lines: bool,
    /// Seconds that the boot may take
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The file that the plugin writes
    #[arg(long, default_value = "build/count.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Boots, counts and prints. Returns whether the program ended well.
pub(crate) fn run(mut options: Options) -> Result<bool> {
    sanitizer::check_qemu()?;
    let symbols = Symbols::open(&options.machine.kernel).ok();
    let machine = &mut options.machine;
    machine.kernel = qemu::raw_kernel(&machine.kernel)?;
    machine.icount = true;
    let mode = if options.lines { Mode::Lines } else { Mode::Instructions };
    machine.extra.extend(["-plugin".to_owned(), watched::option(&options.plugin, mode, &options.json, machine)]);
    let outcome = guest::boot(machine, Some(Duration::from_secs(options.timeout)), symbols.as_ref(), &mut |_| {})?;
    ensure!(!guest::stopped(), "interrupted");
    if outcome.status != 0 {
        eprintln!(
            "{}\nexit status {}; again: {}",
            guest::tail(&outcome.console, 30),
            outcome.status,
            machine.shell_line()
        );
        return Ok(false);
    }
    let regions = watched::regions(&options.json)?;
    let name = |address: u64| {
        symbols.as_ref().and_then(|symbols| symbols.describe(address)).map(|name| ours(&name).to_owned())
    };
    for region in &regions {
        let table = if options.lines { lines(region, &name) } else { counts(region) };
        println!("region {}:\n{table}", region["region"]);
        if let Some(symbols) = symbols.as_ref().filter(|_| !options.lines) {
            println!("{}", functions(region, symbols));
        }
    }
    Ok(true)
}

/// Of a function and those that it was inlined in, the first that is not Rust's own.
fn ours(name: &str) -> &str {
    name.split(", inlined in ").find(|part| !part.contains(" library/")).unwrap_or(name)
}

/// One row for each function of the kernel that executed most.
fn functions(region: &Value, symbols: &Symbols) -> String {
    let most = counted::by_function(counted::addresses(region, "addresses"), symbols).into_iter().take(LINES);
    let rows: Vec<_> = most.map(|(name, count)| vec![name, count.to_string()]).collect();
    table::render(&["function", "EL1"], 1, &rows)
}

/// One row for each count, one column for each CPU and the sum.
fn counts(region: &Value) -> String {
    let none = Vec::new();
    let cpus = region["cpus"].as_array().unwrap_or(&none);
    let mut names: Vec<&String> = Vec::new();
    for name in cpus.iter().filter_map(Value::as_object).flat_map(|cpu| cpu.keys()) {
        if name != "cpu" && !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    let mut heads = vec!["count".to_owned()];
    heads.extend(cpus.iter().map(|cpu| format!("CPU {}", cpu["cpu"])));
    heads.push("all".to_owned());
    let row = |name: &&String| {
        let each: Vec<u64> = cpus.iter().map(|cpu| cpu[name.as_str()].as_u64().unwrap_or(0)).collect();
        let sum = each.iter().sum::<u64>();
        let numbers = each.into_iter().chain([sum]).map(|count| count.to_string());
        std::iter::once((*name).clone()).chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = names.iter().map(row).collect();
    table::render(&heads.iter().map(String::as_str).collect::<Vec<_>>(), 1, &rows)
}

/// One row for each line of memory that moved most, below it the instructions that moved it.
fn lines(region: &Value, name: &dyn Fn(u64) -> Option<String>) -> String {
    let none = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&none).clone();
    let named = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let address = u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
        name(address).map_or(text.to_owned(), |name| format!("{text} {name}"))
    };
    let mut rows = Vec::new();
    for line in list(&region["lines"]).iter().take(LINES) {
        rows.push(vec![named(&line["va"]), line["fetched"].to_string(), line["taken"].to_string()]);
        for by in list(&line["by"]).iter().take(INSTRUCTIONS) {
            rows.push(vec![format!("  {} by {}", by["moves"], named(&by["pc"]))]);
        }
    }
    rows.push(vec!["all".to_owned(), region["fetched"].to_string(), region["taken"].to_string()]);
    table::render(&["line", "fetched", "taken"], 1, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_the_cpus() {
        let region = serde_json::json!({"region": 0, "cpus": [{"cpu": 0, "el0": 5, "isb": 1}, {"cpu": 2, "el0": 7}]});
        let text = counts(&region);
        assert_eq!(text, "count  CPU 0  CPU 2  all\nel0        5      7   12\nisb        1      0    1\n");
    }

    #[test]
    fn lines_and_instructions_have_names() {
        let region = serde_json::json!({
            "region": 0, "fetched": 3, "taken": 2,
            "lines": [{"pa": "0x40", "va": "0x1040", "fetched": 3, "taken": 2, "by": [{"pc": "0x80", "moves": 5}]}]
        });
        let text = lines(&region, &|address| (address == 0x80).then(|| "f".to_owned()));
        assert!(text.contains("0x1040") && text.contains("  5 by 0x80 f\n"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("all")), "{text}");
    }

    #[test]
    fn atomics_are_named_by_who_uses_them() {
        assert_eq!(
            ours("load library/core/src/a.rs:1, inlined in lazuli::f src/b.rs:2, inlined in g"),
            "lazuli::f src/b.rs:2"
        );
        assert_eq!(ours("memcpy"), "memcpy");
    }
}
