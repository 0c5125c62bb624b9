//! `lazuli bars`: what an operation may cost, in instructions, and what it does cost.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::counted::{Counted, Work};
use crate::qemu::{self, Machine};
use crate::sanitizer;
use crate::stages;
use crate::symbols::Symbols;
use crate::table;
use crate::watched::Mode;

/// Options of `lazuli bars`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    counting: Counting,
    /// Where the figures go
    #[arg(long, default_value = "build/bars.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// How Lazuli is counted.
#[derive(clap::Args)]
pub(crate) struct Counting {
    /// Lazy TLB scheme
    #[arg(long, default_value = "refcount")]
    with: String,
    /// The plugin that counts
    #[arg(long)]
    pub(crate) plugin: PathBuf,
}

impl Counting {
    /// The machine that is counted.
    ///
    /// # Errors
    /// If QEMU is too old, or there is no kernel.
    pub(crate) fn machine(&self, machine: &Machine) -> Result<Machine> {
        sanitizer::check_qemu()?;
        let kernel = qemu::raw_kernel(&machine.kernel)?;
        Ok(Machine { kernel, scheme: Some(self.with.clone()), ..machine.clone() })
    }
}

/// A bar: what an operation is called, how it is run, and the most instructions that it may take.
pub(crate) struct Bar {
    pub(crate) what: &'static str,
    pub(crate) work: Work,
    most: f64,
}

const fn bar(what: &'static str, workload: &'static str, cpus: u32, operations: u32, most: f64) -> Bar {
    Bar { what, work: Work { workload, cpus, operations }, most }
}

/// All bars.
pub(crate) const BARS: &[Bar] = &[
    bar("null system call", "syscall-getppid", 1, 10_000, 77.0),
    bar("yield switch between processes", "yield", 1, 4_000, 253.0),
    bar("pipe switch, same CPU", "ctx-processes-pipe-same", 1, 2_000, 945.0),
    bar("pipe switch, across CPUs", "ctx-processes-pipe-other", 2, 2_000, 1_210.0),
    bar("futex wake, no waiter", "syscall-futex", 1, 10_000, 125.0),
    bar("anonymous page fault", "fault", 1, 2_000, 499.0),
    bar("mprotect of one page", "mprotect-page", 1, 2_000, 585.0),
    bar("mmap + touch + munmap of one page", "munmap-alone", 1, 1_000, 1_850.0),
    bar("fork + exit + wait", "fork-exit", 1, 100, 20_200.0),
    bar("fork + exec + exit + wait", "fork-exec", 1, 50, 62_600.0),
    bar("reset to the first program", "boot", 4, 1, 2_150_000.0),
];

/// Measures every bar in a boot of its own. Returns whether all are met.
pub(crate) fn run(options: Options) -> Result<bool> {
    let symbols = Symbols::open(&options.machine.kernel)?;
    let machine = options.counting.machine(&options.machine)?;
    let (mut rows, mut figures, mut good) = (Vec::new(), Vec::new(), true);
    for bar in BARS {
        let counted = count(bar, &machine, &options.counting.plugin, Mode::Instructions)?;
        let cost = counted.as_ref().map(Counted::cost);
        let met = cost.is_some_and(|cost| cost <= bar.most);
        good &= met;
        let functions = counted.as_ref().map(|counted| counted.functions(&symbols));
        let mut figure = json!({
            "operation": bar.what, "instructions": cost, "most": bar.most, "functions": functions.unwrap_or_default(),
        });
        if let Some(counted) = counted.filter(|counted| !counted.firsts.is_empty()) {
            let stages = stages::of(&counted.firsts, counted.cost() as u64, &symbols).into_iter();
            figure["stages"] = stages.map(|stage| json!([stage.what, stage.instructions])).collect();
        }
        figures.push(figure);
        rows.push(vec![
            bar.what.to_owned(),
            if met { "met" } else { "MISSED" }.to_owned(),
            cost.map_or("-".to_owned(), table::number),
            table::number(bar.most),
        ]);
    }
    let file = json!({ "machine": machine.shell_line(), "scheme": machine.scheme, "bars": figures });
    std::fs::write(&options.json, format!("{file:#}\n"))
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    println!("{}", table::render(&["operation", "bar", "instructions", "at most"], 2, &rows));
    println!("{} -cpu {}, -icount.", MEANING, machine.cpu);
    Ok(good)
}

/// What the figures are.
pub(crate) const MEANING: &str = "Instructions of the kernel (EL1) on all CPUs for one operation, of the last row all;";

/// Counts what a bar is about; or says why that failed.
pub(crate) fn count(bar: &Bar, machine: &Machine, plugin: &Path, mode: Mode) -> Result<Option<Counted>> {
    eprintln!("{} ...", bar.what);
    let counted = Counted::of(&bar.work.on_lazuli(machine), plugin, bar.work, mode)?;
    Ok(counted.map_err(|why| eprintln!("{why}")).ok())
}
