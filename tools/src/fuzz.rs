//! `lazuli fuzz`: damages what the kernel reads from outside, on the host, then makes random system calls in QEMU.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use lazuli_fuzz::{FORMATS, Format, campaign};

use crate::guest;
use crate::job::{Expect, Job};
use crate::matrix::configuration;
use crate::qemu::{self, Machine};
use crate::report::Tally;

/// How often a line tells of progress, and how long a reader may take for one input before it is taken for stuck.
const TELL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// System calls of one boot, and the seconds it may take.
const CALLS_OF_A_BOOT: u64 = 100_000;
const LIMIT_S: u64 = 900;
/// The machines take turns with these numbers of CPUs.
const CPUS: [u32; 2] = [1, 4];

/// Options of `lazuli fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each format
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// System calls in all; 0 for none
    #[arg(long, default_value_t = 1_000_000)]
    calls: u64,
    /// Of the random choices; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Where consoles are kept
    #[arg(long, default_value = "build/fuzz")]
    folder: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Runs the fuzzers. Returns whether everything was borne.
pub(crate) fn run(options: Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("fuzz: the same inputs and calls again: make fuzz SEED={seed}");
    let mut total = Tally::default();
    for format in FORMATS {
        total.add(readers(&format, seed, Duration::from_secs(options.seconds))?);
        ensure!(!guest::stopped(), "interrupted");
    }
    println!("fuzz: not guided by coverage; make libfuzzer is");
    total.add(calls(&options, seed)?);
    total.failures.iter().for_each(|failure| println!("FAIL {failure}"));
    println!("{} passed, {} failed", total.passed, total.failures.len());
    Ok(total.failures.is_empty())
}

/// One format, for so long. The reader works in a thread of its own: one that does not come back is named all the same.
fn readers(format: &Format, seed: u64, time: Duration) -> Result<Tally> {
    let now: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
    let (start, format) = (Instant::now(), *format);
    let work = move || campaign::run(&format, seed, now, |_| start.elapsed() < time && !guest::stopped());
    let worker = thread::spawn(work);
    let (mut seen, mut since, mut told) = (0, Instant::now(), Instant::now());
    while !worker.is_finished() {
        thread::sleep(Duration::from_millis(20));
        // Relaxed: a number; it carries nothing else.
        let number = now.load(Ordering::Relaxed);
        if number != seen {
            (seen, since) = (number, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return failure(&format, seed, number, "does not come back from");
        }
        if told.elapsed() > TELL {
            println!("fuzz: {}: {number} inputs", format.name);
            told = Instant::now();
        }
    }
    match worker.join() {
        Ok(None) => {
            println!("fuzz: {}: {} inputs, all borne", format.name, now.load(Ordering::Relaxed) + 1);
            Ok(Tally { passed: 1, ..Tally::default() })
        }
        Ok(Some(number)) => failure(&format, seed, number, "does not bear"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Keeps the input, which from now on is a test.
fn failure(format: &Format, seed: u64, number: u64, what: &str) -> Result<Tally> {
    let file = campaign::keep(format, &campaign::input(format, seed, number)).context("cannot keep the input")?;
    let failure = format!("{} {what} input {number} of seed {seed}, kept as {}", format.name, file.display());
    println!("fuzz: {failure}\n  again: cargo test -p lazuli-fuzz");
    Ok(Tally { failures: vec![failure], ..Tally::default() })
}

/// Random system calls, in boots of different machines.
fn calls(options: &Options, seed: u64) -> Result<Tally> {
    let elf = &options.machine.kernel;
    let machine = Machine { kernel: qemu::raw_kernel(elf)?, ..options.machine.clone() };
    fs::create_dir_all(&options.folder).with_context(|| format!("cannot make {}", options.folder.display()))?;
    // The boots' seeds come from one generator: of neighbours the first choices would be alike.
    let mut seeds = fastrand::Rng::with_seed(seed);
    let mut total = Tally::default();
    for number in 0..options.calls.div_ceil(CALLS_OF_A_BOOT) {
        let count = CALLS_OF_A_BOOT.min(options.calls - number * CALLS_OF_A_BOOT);
        let job = boot(&machine, elf, seeds.u32(..).into(), number, count);
        println!("\nboot {number}: {}", job.name);
        let mut tally = job.run(&options.folder, &mut |bytes| print!("{}", String::from_utf8_lossy(bytes)))?.tally;
        ensure!(!guest::stopped(), "interrupted");
        tally.failures.iter_mut().for_each(|failure| {
            *failure = format!("{}: {failure}; again: {}", job.name, job.machine.shell_line());
        });
        total.add(tally);
    }
    Ok(total)
}

/// One boot: all is chosen by the seed but the number of CPUs, which alternates.
fn boot(machine: &Machine, elf: &Path, seed: u64, number: u64, count: u64) -> Job {
    let mut random = fastrand::Rng::with_seed(seed);
    let all = configuration::all();
    let configuration = &all[random.usize(..all.len())];
    let smp = CPUS[number as usize % CPUS.len()];
    Job {
        name: format!("smp{smp}-{}-seed{seed}", configuration.name.replace(' ', "_")),
        machine: Machine {
            smp,
            gic: random.u8(2..=3),
            cmdline: configuration.words.clone(),
            init: Some("/bin/fuzz".to_owned()),
            args: format!("{seed} {count}"),
            ..machine.clone()
        },
        elf: elf.to_owned(),
        timeout_s: LIMIT_S,
        expect: Expect::Report,
    }
}
