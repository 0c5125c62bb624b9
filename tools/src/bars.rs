//! `lazuli bars`: what an operation may cost, in instructions, and what it does cost.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::guest;
use crate::qemu::{self, Machine};
use crate::results::{self, Measurement};
use crate::symbols::Symbols;
use crate::table;

/// Options of `lazuli bars`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Lazy TLB scheme
    #[arg(long, default_value = "refcount")]
    with: String,
    /// Where the figures go
    #[arg(long, default_value = "build/bars.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// A bar: a workload of lazybench, how it is run, and the most instructions that one operation may take.
struct Bar {
    what: &'static str,
    workload: &'static str,
    cpus: u32,
    operations: u32,
    most: f64,
}

const fn bar(what: &'static str, workload: &'static str, cpus: u32, operations: u32, most: f64) -> Bar {
    Bar { what, workload, cpus, operations, most }
}

const BARS: &[Bar] = &[
    bar("null system call", "syscall-getppid", 1, 10_000, 108.0),
    bar("yield switch between processes", "yield", 1, 4_000, 300.0),
    bar("pipe switch, same CPU", "ctx-processes-pipe-same", 1, 2_000, 1_170.0),
    bar("pipe switch, across CPUs", "ctx-processes-pipe-other", 2, 2_000, 1_420.0),
    bar("anonymous page fault", "fault", 1, 2_000, 580.0),
    bar("fork + exit + wait", "fork-exit", 1, 100, 26_500.0),
    bar("reset to the first program", "boot", 4, 1, 6_000_000.0),
];

/// Measures every bar in a boot of its own. Returns whether all are met.
pub(crate) fn run(mut options: Options) -> Result<bool> {
    let symbols = Symbols::open(&options.machine.kernel).ok();
    options.machine.kernel = qemu::raw_kernel(&options.machine.kernel)?;
    let (mut rows, mut figures, mut good) = (Vec::new(), Vec::new(), true);
    for bar in BARS {
        eprintln!("{} ...", bar.what);
        let machine = Machine { scheme: Some(options.with.clone()), ..options.machine.clone() };
        let measured = measure(&machine, (bar.workload, bar.cpus, bar.operations), symbols.as_ref())?;
        let cost = measured.map(|measured| measured.ns_per_op());
        if guest::stopped() {
            return Ok(false);
        }
        let met = cost.is_some_and(|cost| cost <= bar.most);
        good &= met;
        figures.push(json!({ "operation": bar.what, "instructions": cost, "most": bar.most }));
        rows.push(vec![
            bar.what.to_owned(),
            if met { "met" } else { "MISSED" }.to_owned(),
            cost.map_or("-".to_owned(), table::number),
            table::number(bar.most),
        ]);
    }
    let file = json!({ "machine": options.machine.shell_line(), "scheme": options.with, "bars": figures });
    std::fs::write(&options.json, format!("{file:#}\n"))
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    println!("{}", table::render(&["operation", "bar", "instructions", "at most"], 2, &rows));
    println!("Instructions of all CPUs, at EL0 and EL1, for one operation; -cpu {}, -icount.", options.machine.cpu);
    Ok(good)
}

/// What one workload (its name, on how many CPUs, how many operations) costs in instructions, or `None` (and the reason
/// on standard error) if it did not run.
pub(crate) fn measure(
    machine: &Machine,
    (workload, cpus, operations): (&str, u32, u32),
    symbols: Option<&Symbols>,
) -> Result<Option<Measurement>> {
    let machine = Machine {
        smp: cpus,
        icount: true,
        init: Some("/bin/lazybench".to_owned()),
        args: format!("{workload} --ops {operations}"),
        ..machine.clone()
    };
    let outcome = guest::boot(&machine, Some(Duration::from_secs(120)), symbols, &mut |_| {})?;
    let scheme = machine.scheme.as_deref().unwrap_or_default();
    let found = results::parse(scheme, &outcome.console).into_iter().find(|result| result.workload == workload);
    if found.is_none() {
        let tail = guest::tail(&outcome.console, 20);
        eprintln!("{tail}\nFAIL {workload}: exit status {}\nagain: {}", outcome.status, machine.shell_line());
    }
    Ok(found)
}
