//! `lazuli choice`: what it costs a switch that the scheme is chosen at boot, against kernels that were built for one.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::counted::{Counted, Work};
use crate::qemu::{self, Machine};
use crate::table;
use crate::watched::Mode;

/// The most instructions by which a switch may differ.
const MOST: f64 = 2.0;

/// What is compared, by name.
const SWITCHES: [(&str, Work); 3] = [
    ("user → other user", Work { workload: "yield", cpus: 1, operations: 4_000 }),
    ("user → idle → same user", Work { workload: "ctx-threads-pipe-other", cpus: 2, operations: 4_000 }),
    ("user → kernel thread → same user", Work { workload: "kthread", cpus: 1, operations: 4_000 }),
];

/// Options of `lazuli choice`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// SCHEME=KERNEL, built with LAZULI_FIXED_SCHEME=SCHEME
    #[arg(long, required = true)]
    fixed: Vec<String>,
    /// The plugin that counts
    #[arg(long)]
    plugin: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Compares. Returns whether no switch differs by more than it may.
pub(crate) fn run(options: Options) -> Result<bool> {
    let (mut rows, mut good) = (Vec::new(), true);
    for fixed in &options.fixed {
        let (scheme, kernel) = fixed.split_once('=').context("--fixed takes SCHEME=KERNEL")?;
        for (what, work) in SWITCHES {
            eprintln!("{scheme}, {what} ...");
            let cost = |kernel: &PathBuf| -> Result<f64> {
                let machine = Machine {
                    kernel: qemu::raw_kernel(kernel)?,
                    scheme: Some(scheme.to_owned()),
                    ..options.machine.clone()
                };
                let counted = Counted::of(&work.on_lazuli(&machine), &options.plugin, work, Mode::Instructions)?;
                let counted = counted.map_err(|why| anyhow!("{}: {why}", kernel.display()))?;
                let switches = counted.measured.sum_each(|key| key.starts_with("switch_")).unwrap_or(0.0);
                Ok(counted.cost() / switches)
            };
            let (chosen, constant) = (cost(&options.machine.kernel)?, cost(&PathBuf::from(kernel))?);
            let met = (chosen - constant).abs() <= MOST;
            good &= met;
            let number = |value: f64| format!("{value:.2}");
            rows.push(vec![
                what.to_owned(),
                scheme.to_owned(),
                if met { "met" } else { "MISSED" }.to_owned(),
                number(chosen),
                number(constant),
                number(chosen - constant),
                number(MOST),
            ]);
        }
    }
    let heads = ["switch", "scheme", "bar", "chosen at boot", "fixed", "difference", "at most"];
    println!("{}", table::render(&heads, 3, &rows));
    println!("Instructions of the kernel for each switch, with all that the workload does besides; -icount.");
    Ok(good)
}
