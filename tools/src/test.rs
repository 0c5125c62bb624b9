//! `lazuli test`: every suite on a matrix of machines; progress, failures with the way to see them again, one sum.

mod choose;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::board::Board;
use crate::card;
use crate::cargo;
use crate::guest;
use crate::hw;
use crate::hw_test;
use crate::job::{Job, Judged};
use crate::qemu;
use crate::report::Tally;
use crate::sanitizer;
use crate::workers;
use choose::Tests;
pub(crate) use choose::{job, kernel_suites};

/// The name of the tests over a serial line, for `--cell`.
const SERIAL_TEST: &str = "serial-line";
/// How much of a failed boot's console is shown.
const TAIL: usize = 30;

/// Options of `lazuli test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Each suite with each board, number of CPUs, interrupt controller and scheme instead of a pairwise choice
    #[arg(long)]
    full: bool,
    /// Run the host's tests first and count them in
    #[arg(long)]
    host: bool,
    /// Only this board
    #[arg(long)]
    board: Option<Board>,
    /// Run only the boots whose name contains this; one full name also shows the console
    #[arg(long, default_value = "")]
    cell: String,
    /// The real kernel (ELF), for the test programs
    #[arg(long)]
    kernel: PathBuf,
    /// Archive with the test programs
    #[arg(long)]
    initrd: PathBuf,
    /// Sources of the test programs
    #[arg(long = "program")]
    programs: Vec<PathBuf>,
    /// Folder with the built programs
    #[arg(long)]
    built: PathBuf,
    /// The stand-in firmware (ELF)
    #[arg(long)]
    firmware: PathBuf,
    /// The chain loader (ELF)
    #[arg(long)]
    chainload: PathBuf,
    /// Run on the real board behind this serial port, which waits in its chain loader
    #[arg(long)]
    serial: Option<PathBuf>,
    /// The one suite that the board's card starts, or is to start: with --serial it is heard, with --card written
    #[arg(long)]
    suite: Option<String>,
    /// Write a card that starts --suite
    #[arg(long, requires = "suite")]
    card: Option<PathBuf>,
    /// Folder with the board's own firmware, for --card
    #[arg(long, default_value = "build/firmware/raspi")]
    boot_files: PathBuf,
    /// Run only the suites that say so in their source, watched by the TLB sanitizer, which is this plugin
    #[arg(long)]
    sanitize: Option<PathBuf>,
    /// A static busybox for arm64
    #[arg(long)]
    busybox: Option<PathBuf>,
    /// Where consoles are kept
    #[arg(long, default_value = "build/test")]
    logs: PathBuf,
}

/// Runs the tests. Returns whether all passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut total = if options.host { cargo::host_tests()? } else { Tally::default() };
    std::fs::create_dir_all(&options.logs).with_context(|| format!("cannot make {}", options.logs.display()))?;
    let tests = Tests::build(options)?;
    if let Some(suite) = &options.suite {
        return with_card(options, &tests.on_rpi4(suite)?);
    }
    let mut jobs = tests.cells()?;
    if let Some(plugin) = &options.sanitize {
        return sanitized(options, jobs, plugin);
    }
    if let Some(port) = &options.serial {
        jobs.retain(|job| job.machine.board == Board::Rpi4);
        ensure!(
            !jobs.is_empty(),
            "no test for the board is named `{}`; such a name is ipi-rpi4-shootdown",
            options.cell
        );
        return verdict(&hw::run(port, &jobs)?);
    }
    jobs.extend(tests.single()?.into_iter().filter(|job| job.name.contains(&options.cell)));
    jobs.retain(|job| options.board.is_none_or(|board| job.machine.board == board));
    leave_out_what_qemu_lacks(&mut jobs, &mut total)?;
    let with_serial = SERIAL_TEST.contains(&options.cell)
        && options.board != Some(Board::Virt)
        && qemu::version()? >= Board::Rpi4.first_qemu();
    ensure!(
        !jobs.is_empty() || with_serial,
        "no boot is named `{}`; such a name is ipi-smp4-gic3-shootdown-max-el1",
        options.cell
    );
    total.add(run_all(&jobs, &options.logs)?);
    if with_serial {
        total.add(serial_test(options, &tests)?);
    }
    println!("\nconsoles are in {}", options.logs.display());
    verdict(&total)
}

/// Runs boots watched by the TLB sanitizer. It takes longer; counting instructions instead of time, no guest notices.
fn sanitized(options: &Options, mut jobs: Vec<Job>, plugin: &Path) -> Result<bool> {
    sanitizer::check_qemu()?;
    for job in &mut jobs {
        job.machine.sanitizer = Some(plugin.to_owned());
        job.machine.icount = true;
        job.timeout_s *= sanitizer::PATIENCE;
    }
    jobs.retain(|job| options.board.is_none_or(|board| job.machine.board == board));
    ensure!(!jobs.is_empty(), "no boot that the sanitizer watches is named `{}`", options.cell);
    verdict(&run_all(&jobs, &options.logs)?)
}

/// Writes the card that starts this job, or hears what it says once it is in the board.
fn with_card(options: &Options, job: &Job) -> Result<bool> {
    match (&options.card, &options.serial) {
        (Some(image), _) => {
            card::write_image(&card::suite_files(job, &options.boot_files)?, image)?;
            println!("{} starts {}", image.display(), job.name);
            Ok(true)
        }
        (None, Some(port)) => verdict(&hw::listen_to_card(port, job)?),
        (None, None) => bail!("a suite that a card starts is heard over a serial port: SERIAL=/dev/ttyUSB0"),
    }
}

/// Pushes a program over a bad line, and has a card start it.
fn serial_test(options: &Options, tests: &Tests<'_>) -> Result<Tally> {
    hw_test::run(&hw_test::Parts {
        chainload: &qemu::raw_kernel(&options.chainload)?,
        program: &tests.on_rpi4("lazycheck")?,
        hanging: &tests.hanging()?,
        folder: &options.logs,
    })
}

/// Prints the sum. Returns whether all passed.
pub(crate) fn verdict(total: &Tally) -> Result<bool> {
    ensure!(!guest::stopped(), "interrupted");
    if total.skipped > 0 {
        println!("{} skipped", total.skipped);
    }
    for failure in &total.failures {
        println!("FAIL {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failures.len());
    Ok(total.failures.is_empty())
}

/// Counts the boots on boards that came with a later QEMU as skipped, and says so.
fn leave_out_what_qemu_lacks(jobs: &mut Vec<Job>, total: &mut Tally) -> Result<()> {
    let version = qemu::version()?;
    for board in Board::ALL.into_iter().filter(|board| board.first_qemu() > version) {
        let before = jobs.len();
        jobs.retain(|job| job.machine.board != board);
        let left_out = before - jobs.len();
        total.skipped += left_out;
        let (name, first) = (board.name(), board.first_qemu());
        println!(
            "SKIPPED: {left_out} boots on {name}, because QEMU {version} is older than {first}.0; see `make setup`"
        );
    }
    Ok(())
}

/// Runs boots that need one host thread side by side, then the others one by one.
pub(crate) fn run_all(jobs: &[Job], logs: &Path) -> Result<Tally> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (light, heavy): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.machine.host_threads() == 1);
    let progress = Progress { total: jobs.len(), live: jobs.len() == 1, state: Mutex::new((0, Tally::default())) };
    for (queue, workers) in [(light, cores), (heavy, 1)] {
        workers::share(queue.into_iter(), workers, |job| {
            let mut sink = |bytes: &[u8]| {
                if progress.live {
                    print!("{}", String::from_utf8_lossy(bytes));
                }
            };
            let judged = job.run(logs, &mut sink)?;
            if !guest::stopped() {
                progress.report(job, judged);
            }
            Ok(())
        })?;
    }
    let (_, tally) = progress.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(tally)
}

/// Boots done so far and their sum, shown line by line as they end.
struct Progress {
    total: usize,
    /// Whether the console is shown as it comes.
    live: bool,
    state: Mutex<(usize, Tally)>,
}

impl Progress {
    fn report(&self, job: &Job, judged: Judged) {
        let Judged { mut tally, outcome } = judged;
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.0 += 1;
        let verdict = if tally.failures.is_empty() { "ok  " } else { "FAIL" };
        let (passed, failed) = (tally.passed, tally.failures.len());
        let (done, total, seconds) = (state.0, self.total, outcome.elapsed.as_secs_f64());
        println!(
            "[{done:>3}/{total}] {verdict} {:<48} {passed:>3} passed {failed:>2} failed {seconds:>5.1} s",
            job.name
        );
        if failed > 0 {
            if !self.live {
                println!("{}", guest::tail(&outcome.console, TAIL));
            }
            tally.failures.iter().for_each(|failure| println!("  {failure}"));
            let watched = if job.machine.sanitizer.is_some() { " SANITIZE=tlb" } else { "" };
            println!("  again: make test CELL={}{watched}\n", job.name);
        }
        tally.failures.iter_mut().for_each(|failure| *failure = format!("{} {failure}", job.name));
        state.1.add(tally);
    }
}
