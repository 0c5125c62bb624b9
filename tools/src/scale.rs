//! `lazuli scale`: many CPUs. The lazy-TLB tests on 64 of them under every option, and every workload once on 512, in a
//! minute at most.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::job::{Expect, Job};
use crate::qemu::{self, Machine};
use crate::suite::{Cell, Suite, large_cells};
use crate::test;

/// The suites that boot on [`MANY`].
const SUITES: [&str; 7] = ["asids", "flush", "hotplug", "ipi", "lazy", "lazy_races", "waiting"];
const MANY: u32 = 64;
/// What a suite for few ASIDs wants, and what takes its place: there must be one more than CPUs.
const FEW_ASIDS: (&str, &str) = ("asid_bits=4", "asid_bits=7");
/// For so many stacks.
const MEMORY: &str = "2G";
/// How much longer one of their boots may take than where CPUs of the host and of the guest are about as many.
const PATIENCE: u64 = 10;
/// As many as the mm layer is built for.
const MOST: u32 = 512;
/// Seconds that they may take, from the start of QEMU on.
const MINUTE: u64 = 60;
/// The last workload of `lazybench`, whose end status says whether those before it worked.
const LAST: &str = "result workload=hold-idle ops=4 ";

/// Options of `lazuli scale`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the boots whose name contains this
    #[arg(long, default_value = "")]
    cell: String,
    /// The real kernel (ELF)
    #[arg(long)]
    kernel: PathBuf,
    /// Archive with the programs
    #[arg(long)]
    initrd: PathBuf,
    /// Where consoles are kept
    #[arg(long, default_value = "build/scale")]
    logs: PathBuf,
}

/// Runs them. Returns whether all passed, and in time.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let kernels = cargo::test_kernels()?.into_iter().filter(|test| SUITES.contains(&test.name.as_str())).collect();
    let suites = test::kernel_suites(kernels)?;
    ensure!(suites.len() == SUITES.len(), "cargo built not all of tests/: {}", SUITES.join(", "));
    let mut jobs = vec![most(options)?];
    // Where a suite is not about ways to flush, the usual one will do.
    let flushes = |cell: &&Cell| cell.flushes_as_usual() || cell.suite(&suites).name == "flush";
    for cell in large_cells(&suites).iter().filter(flushes) {
        jobs.push(many(cell, &suites)?);
    }
    jobs.retain(|job| job.name.contains(&options.cell));
    ensure!(!jobs.is_empty(), "no boot is named `{}`", options.cell);
    std::fs::create_dir_all(&options.logs).with_context(|| format!("cannot make {}", options.logs.display()))?;
    let total = test::run_all(&jobs, &options.logs)?;
    println!("\nconsoles are in {}", options.logs.display());
    test::verdict(&total)
}

/// Every workload of `lazybench`, a few times each, on as many CPUs as there may be.
fn most(options: &Options) -> Result<Job> {
    let machine = Machine {
        initrd: Some(options.initrd.clone()),
        smp: MOST,
        memory: MEMORY.to_owned(),
        cmdline: "tlbi=auto".to_owned(),
        init: Some("/bin/lazybench".to_owned()),
        args: "--once".to_owned(),
        ..Machine::of(qemu::raw_kernel(&options.kernel)?)
    };
    let expect = Expect::End(0, vec![format!("{MOST} of {MOST} CPUs"), LAST.to_owned()]);
    let name = format!("lazybench-smp{MOST}-auto");
    Ok(Job { name, machine, elf: options.kernel.clone(), timeout_s: MINUTE, expect })
}

/// A boot on [`MANY`] CPUs instead of as many as the suite's own rules allow. Instructions are counted: as many host threads would
/// starve each other.
fn many(cell: &Cell, suites: &[Suite]) -> Result<Job> {
    let job = test::job(cell, suites)?;
    let cmdline = job.machine.cmdline.replace(FEW_ASIDS.0, FEW_ASIDS.1);
    Ok(Job {
        name: job.name.replace(&format!("-smp{}-", job.machine.smp), &format!("-smp{MANY}-")),
        machine: Machine { smp: MANY, memory: MEMORY.to_owned(), icount: true, cmdline, ..job.machine },
        timeout_s: PATIENCE * job.timeout_s,
        ..job
    })
}
