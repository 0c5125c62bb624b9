//! `lazuli test`: every suite on a matrix of machines; progress, failures with the way to see them again, one sum.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use crate::board::Board;
use crate::careful;
use crate::cargo::{self, TestBinary};
use crate::guest;
use crate::hw;
use crate::hw_test;
use crate::job::{Expect, Job, Judged};
use crate::qemu;
use crate::report::Tally;
use crate::scenario::Parts;
use crate::standin::StandIn;
use crate::suite::{Cell, Rules, Suite, all_cells, full_cells, pairwise_cells};
use crate::workers;

/// The name of the tests over a serial line, for `--cell`.
const SERIAL_TEST: &str = "serial-line";
/// How much of a failed boot's console is shown.
const TAIL: usize = 30;
/// The test kernel whose tests panic, which no suite may.
const ENDINGS: &str = "endings";

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
    /// Sources of the test programs; each is /bin/NAME in the archive
    #[arg(long = "program")]
    programs: Vec<PathBuf>,
    /// A small program that works, to make wrong ones of
    #[arg(long)]
    hello: PathBuf,
    /// The stand-in firmware (ELF)
    #[arg(long)]
    firmware: PathBuf,
    /// The chain loader (ELF)
    #[arg(long)]
    chainload: PathBuf,
    /// Run on the real board behind this serial port, which waits in its chain loader
    #[arg(long)]
    serial: Option<PathBuf>,
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
    let (endings, kernels): (Vec<_>, Vec<_>) =
        cargo::test_kernels()?.into_iter().partition(|test| test.name == ENDINGS);
    let suites = suites(options, kernels)?;
    let mut jobs = select(options, &suites)?;
    if let Some(port) = &options.serial {
        jobs.retain(|job| job.machine.board == Board::Rpi4);
        return verdict(&hw::run(port, &jobs)?);
    }
    let mut single = scenarios(options, endings)?;
    single.extend(careful(options, &suites)?);
    jobs.extend(single.into_iter().filter(|job| job.name.contains(&options.cell)));
    jobs.retain(|job| options.board.is_none_or(|board| job.machine.board == board));
    leave_out_what_qemu_lacks(&mut jobs, &mut total)?;
    let serial = serial_test(options, &suites)?;
    ensure!(
        !jobs.is_empty() || serial.is_some(),
        "no boot is named `{}`; such a name is ipi-smp4-gic3-shootdown-max-el1",
        options.cell
    );
    std::fs::create_dir_all(&options.logs).with_context(|| format!("cannot make {}", options.logs.display()))?;
    total.add(run_all(&jobs, &options.logs)?);
    if let Some(job) = serial {
        total.add(hw_test::run(&qemu::raw_kernel(&options.chainload)?, &job)?);
    }
    println!("\nconsoles are in {}", options.logs.display());
    verdict(&total)
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

/// What is pushed over a serial line, where this QEMU has the board.
fn serial_test(options: &Options, suites: &[Suite]) -> Result<Option<Job>> {
    let wanted = SERIAL_TEST.contains(&options.cell) && options.board != Some(Board::Virt);
    if !wanted || qemu::version()? < Board::Rpi4.first_qemu() {
        return Ok(None);
    }
    let on_rpi4 = |cell: &Cell| cell.board() == Board::Rpi4 && cell.suite(suites).name == "boot";
    all_cells(suites).iter().find(|cell| on_rpi4(cell)).map(|cell| job(cell, suites)).transpose()
}

fn rules(source: &Path) -> Result<Rules> {
    let context = || format!("in {}", source.display());
    Rules::parse(&std::fs::read_to_string(source).with_context(context)?).with_context(context)
}

/// The suites that are kernels of their own.
pub(crate) fn kernel_suites(kernels: Vec<TestBinary>) -> Result<Vec<Suite>> {
    let suite = |test: TestBinary| {
        let (kernel, rules) = (qemu::raw_kernel(&test.elf)?, rules(&test.source)?);
        Ok(Suite { name: test.name, kernel, elf: test.elf, initrd: None, init: None, rules })
    };
    kernels.into_iter().map(suite).collect()
}

fn suites(options: &Options, kernels: Vec<TestBinary>) -> Result<Vec<Suite>> {
    let mut suites = kernel_suites(kernels)?;
    for source in &options.programs {
        let name = source.file_stem().and_then(|name| name.to_str()).context("a program's source has a name")?;
        suites.push(Suite {
            name: name.to_owned(),
            kernel: qemu::raw_kernel(&options.kernel)?,
            elf: options.kernel.clone(),
            initrd: Some(options.initrd.clone()),
            init: Some(format!("/bin/{name}")),
            rules: rules(source)?,
        });
    }
    Ok(suites)
}

fn scenarios(options: &Options, endings: Vec<TestBinary>) -> Result<Vec<Job>> {
    let endings = endings.into_iter().next().with_context(|| format!("cargo built no tests/{ENDINGS}.rs"))?;
    let parts = Parts {
        endings: endings.elf,
        kernel: qemu::raw_kernel(&options.kernel)?,
        elf: options.kernel.clone(),
        program: options.hello.clone(),
        folder: options.logs.clone(),
    };
    let mut jobs = parts.refusals()?;
    jobs.extend(parts.handed_trees()?);
    jobs.extend(parts.endings()?);
    jobs.extend(parts.bundles()?);
    jobs.extend(parts.hardware_ends()?);
    jobs.extend(parts.typed(&options.initrd)?);
    jobs.extend(parts.ours(&options.initrd));
    jobs.extend(parts.recorded(&options.initrd));
    jobs.push(parts.units(&cargo::user_unit_tests()?)?);
    match &options.busybox {
        Some(busybox) => jobs.extend(parts.strangers(busybox)?),
        None => println!("SKIPPED: the busybox boots, because there is no busybox"),
    }
    Ok(jobs)
}

fn careful(options: &Options, suites: &[Suite]) -> Result<Vec<Job>> {
    let standin = StandIn { firmware: &options.firmware, folder: &options.logs };
    let kernel = qemu::raw_kernel(&options.kernel)?;
    let parts = careful::Parts { standin, suites, kernel: &kernel, elf: &options.kernel, initrd: &options.initrd };
    parts.jobs()
}

/// The boots to run. A full name is looked up in the whole product, so that any failure can be run again by name.
fn select(options: &Options, suites: &[Suite]) -> Result<Vec<Job>> {
    let every = all_cells(suites);
    if let Some(cell) = every.iter().find(|cell| cell.name(suites) == options.cell) {
        return Ok(vec![job(cell, suites)?]);
    }
    let cells = if options.full { full_cells(suites) } else { pairwise_cells(suites) };
    cells.iter().filter(|cell| cell.name(suites).contains(&options.cell)).map(|cell| job(cell, suites)).collect()
}

pub(crate) fn job(cell: &Cell, suites: &[Suite]) -> Result<Job> {
    let suite = cell.suite(suites);
    Ok(Job {
        name: cell.name(suites),
        machine: cell.machine(suites)?,
        elf: suite.elf.clone(),
        timeout_s: suite.rules.timeout_s,
        expect: Expect::Report,
    })
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
            println!("  again: make test CELL={}\n", job.name);
        }
        tally.failures.iter_mut().for_each(|failure| *failure = format!("{} {failure}", job.name));
        state.1.add(tally);
    }
}
