//! `lazuli trace`: runs a program with `trace=on` and writes what the kernel recorded as a file that Perfetto and
//! chrome://tracing open.

mod check;
mod chrome;
mod flows;
mod names;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::guest::{self, HANG};
use crate::qemu::{self, Machine};
use crate::symbols::Symbols;

/// Options of `lazuli trace`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds that the boot may take
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Run each virtual CPU as a host thread and tell time by the clock, instead of counting instructions
    #[arg(long)]
    parallel: bool,
    /// The file to write
    #[arg(long, default_value = "build/trace.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Boots, converts, checks and writes. Returns whether the program ended well.
pub(crate) fn run(mut options: Options) -> Result<bool> {
    let symbols = Symbols::open(&options.machine.kernel).ok();
    options.machine.kernel = qemu::raw_kernel(&options.machine.kernel)?;
    options.machine.icount = !options.parallel;
    options.machine.cmdline = format!("{} {ON}", options.machine.cmdline).trim_start().to_owned();
    let limit = Duration::from_secs(options.timeout);
    let outcome = guest::boot(&options.machine, Some(limit), symbols.as_ref(), &mut |_| {})?;
    if guest::stopped() {
        return Ok(false);
    }
    let made = file_of(&outcome.console, &options.machine.shell_line());
    if made.is_err() || outcome.status != 0 {
        let why = if outcome.status == HANG { outcome.hang_text() } else { format!("status {}", outcome.status) };
        eprintln!("{}\nFAIL {why}\nagain: {}", guest::tail(&outcome.console, 30), options.machine.shell_line());
    }
    let made = made?;
    let context = || format!("cannot write {}", options.json.display());
    std::fs::write(&options.json, format!("{}\n", made.file)).with_context(context)?;
    println!("{}", made.sum);
    println!(
        "Open {} at https://ui.perfetto.dev (\"Open trace file\") or in chrome://tracing.",
        options.json.display()
    );
    println!("It stays on your machine: both read the file inside the browser.");
    Ok(outcome.status == 0)
}

/// The word that makes a kernel record.
pub(crate) const ON: &str = "trace=on";

/// A file, what it holds, and whatever was recorded.
struct Made {
    file: Value,
    sum: String,
    events: BTreeSet<String>,
}

/// The file that a console's trace becomes.
fn file_of(console: &str, line: &str) -> Result<Made> {
    let trace = parse::parse(console)?;
    let file = chrome::convert(&trace, &json!({ "command": line, "overwritten records": trace.overwritten }));
    let summary = check::check(&file).context("the file would break the format")?;
    let sum = format!(
        "{} records ({} older ones overwritten): {} slices, {} instants, {} arrows, {} counts",
        trace.records.len(),
        trace.overwritten,
        summary.slices,
        summary.instants,
        summary.arrows,
        summary.counts
    );
    let events = trace.records.into_iter().map(|record| record.event).collect();
    Ok(Made { file, sum, events })
}

/// Judges the trace on a console: it becomes a sound file, and each of these events was recorded.
///
/// # Errors
/// If not; the text says what is missing.
pub(crate) fn judge(console: &str, wanted: &[String]) -> Result<()> {
    let made = file_of(console, "")?;
    let missing: Vec<_> = wanted.iter().filter(|event| !made.events.contains(*event)).cloned().collect();
    ensure!(missing.is_empty(), "the trace has no {}", missing.join(", "));
    Ok(())
}
