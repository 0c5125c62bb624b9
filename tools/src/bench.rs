//! `lazuli bench`: the same workloads once per scheme, and one table of what each scheme cost.

use std::io::{Write, stderr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ground::Ground;
use crate::guest::{self, HANG};
use crate::qemu::{self, Machine};
use crate::results::{self, LEGEND, Measurement};
use crate::symbols::Symbols;

/// Options of `lazuli bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Schemes, one boot each
    #[arg(long, value_delimiter = ' ', default_value = "refcount shootdown handoff qsbr eager")]
    schemes: Vec<String>,
    /// Seconds that one boot may take
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Run each virtual CPU as a host thread and measure by the clock, instead of counting instructions
    #[arg(long)]
    parallel: bool,
    /// Measure the real board behind this serial port, which waits in its chain loader
    #[arg(long)]
    serial: Option<PathBuf>,
    /// Where all figures go
    #[arg(long, default_value = "build/bench.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Runs the benchmark. Returns whether every boot ended well and the figures bear the headline out.
pub(crate) fn run(mut options: Options) -> Result<bool> {
    let symbols = Symbols::open(&options.machine.kernel).ok();
    options.machine.kernel = qemu::raw_kernel(&options.machine.kernel)?;
    options.machine.icount = !options.parallel;
    let ground = Ground::open(options.serial.as_deref(), &mut options.machine)?;
    let mut all = Vec::new();
    let mut good = true;
    for scheme in &options.schemes {
        let machine = Machine { scheme: Some(scheme.clone()), ..options.machine.clone() };
        match measure(&ground, &machine, Duration::from_secs(options.timeout), symbols.as_ref())? {
            Some(measurements) => all.extend(measurements),
            None => good = false,
        }
        if guest::stopped() {
            return Ok(false);
        }
    }
    if all.is_empty() {
        return Ok(false);
    }
    let machine = &options.machine;
    println!("\n{}\n", ground.description(machine));
    print!("{}\n{LEGEND}{}", results::table(&all), results::clocks(&all, ground.ticking(machine)));
    save(&options, &all)?;
    match results::headline(&all) {
        Ok(line) => line.iter().for_each(|line| println!("\n{line}")),
        Err(why) => {
            println!("\nFAIL headline: {why}");
            good = false;
        }
    }
    Ok(good)
}

/// One boot. Shows a dot per workload; on failure shows the end of the console and yields nothing.
fn measure(
    ground: &Ground,
    machine: &Machine,
    limit: Duration,
    symbols: Option<&Symbols>,
) -> Result<Option<Vec<Measurement>>> {
    let scheme = machine.scheme.as_deref().unwrap_or_default();
    eprint!("{scheme:<10} ");
    let (mut seen, mut shown) = (Vec::new(), 0);
    let mut show = |bytes: &[u8]| {
        seen.extend_from_slice(bytes);
        let done = seen.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"result ")).count();
        eprint!("{}", ".".repeat(done - shown));
        shown = done;
        // Progress that cannot be shown is no reason to stop measuring.
        let _ = stderr().flush();
    };
    let outcome = ground.boot(machine, limit, symbols, &mut show)?;
    let measurements = results::parse(scheme, &outcome.console);
    eprintln!(" {} workloads, {:.1} s", measurements.len(), outcome.elapsed.as_secs_f64());
    if outcome.status == 0 && !measurements.is_empty() {
        return Ok(Some(measurements));
    }
    let why = if outcome.status == HANG { outcome.hang_text() } else { format!("exit status {}", outcome.status) };
    eprintln!("{}\nFAIL {scheme}: {why}\nagain: {}", guest::tail(&outcome.console, 30), machine.shell_line());
    Ok(None)
}

fn save(options: &Options, all: &[Measurement]) -> Result<()> {
    let json = results::to_json(&options.machine.shell_line(), all);
    let context = || format!("cannot write {}", options.json.display());
    if let Some(folder) = options.json.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    std::fs::write(&options.json, format!("{json:#}\n")).with_context(context)
}
