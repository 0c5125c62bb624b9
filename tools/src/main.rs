//! `lazuli`: boots, tests, measures and packs the kernel. The Makefile calls it; `lazuli help` lists what it does.
#![forbid(unsafe_code)]

mod bars;
mod bench;
mod beside;
mod board;
mod broken;
mod card;
mod careful;
mod cargo;
mod check;
mod choice;
mod count;
mod counted;
mod cpio;
mod crc;
mod flash;
mod frames;
mod fuzz;
mod ground;
mod guest;
mod hw;
mod hw_test;
mod image;
mod job;
mod linux;
mod litmus;
mod loader;
mod marked;
mod matrix;
mod mutants;
mod on_boards;
mod options;
mod page;
mod pairwise;
mod push;
mod qemu;
mod recorded;
mod report;
mod results;
mod sanitizer;
mod scale;
mod scenario;
mod serial;
mod simulate;
mod soak;
mod stages;
mod standin;
mod store;
mod suite;
mod symbols;
mod table;
mod test;
mod trace;
mod tree;
mod watched;
mod workers;

use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use board::Board;
use guest::HANG;
use qemu::Machine;
use symbols::{Annotator, Symbols};

/// Host tools of Lazuli
#[derive(clap::Parser)]
#[command(name = "lazuli", disable_help_subcommand = false)]
enum Tool {
    /// Boot a kernel in QEMU; the exit status is the kernel's
    Run {
        /// End it after that many seconds, with exit status 124
        #[arg(long)]
        timeout: Option<u64>,
        #[command(flatten)]
        machine: Machine,
    },
    /// Print the QEMU command that `run` would execute
    Line {
        #[command(flatten)]
        machine: Machine,
    },
    /// Count the instructions of the operations that have a bar, and say which bars are met
    Bars(bars::Options),
    /// Count by the plugin what CPUs execute between a program's marks, or which lines of memory move
    Count(count::Options),
    /// Count what the choice at boot costs a switch, against kernels built for one scheme
    Choice(choice::Options),
    /// Boot once per scheme, measure, and print one table
    Bench(bench::Options),
    /// Compare what operations cost with what they cost before
    BenchCheck(check::Options),
    /// Count the same operations on Lazuli and on Linux
    BenchLinux(beside::Options),
    /// Measure every configuration that means something, write the table and judge the bars
    Matrix(matrix::Options),
    /// Judge the orderings that the code relies on by Arm's memory model, with herd7
    Litmus(litmus::Options),
    /// Write what was measured as one page, and as tables
    Report(page::Options),
    /// Run a program, and write what the kernel recorded as a file that Perfetto opens
    Trace(trace::Options),
    /// Break the mm layer in every way that cargo-mutants knows, and see which test notices
    Mutants(mutants::Options),
    /// Trace few CPUs, and say how each scheme would do on many
    Simulate(simulate::Options),
    /// Boot the lazy-TLB tests on 64 CPUs, and every workload once on 512, against the clock
    Scale(scale::Options),
    /// Boot every test on a matrix of machines
    Test(test::Options),
    /// Build kernels that are broken in ways that QEMU does not show, and see that the TLB sanitizer does
    SanitizerCheck(sanitizer::Options),
    /// Damage what the kernel reads from outside, and make random system calls
    Fuzz(fuzz::Options),
    /// Boot random machines under a random mix of work, for hours
    Soak(soak::Options),
    /// Write an initramfs
    Cpio {
        /// The archive to write
        out: PathBuf,
        /// SOURCE=TARGET for a file or a folder; a bare folder becomes the root
        #[arg(required = true)]
        files: Vec<String>,
    },
    /// Make a raw Image of an ELF kernel, with a program and a device tree inside if they are given
    Image {
        /// The file to write
        out: PathBuf,
        /// The kernel (ELF or raw Image)
        #[arg(long)]
        kernel: PathBuf,
        /// The archive to put in
        #[arg(long)]
        initrd: Option<PathBuf>,
        /// The kernel command line to put in
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        cmdline: String,
        /// The device tree to put in, for a loader that hands over none
        #[arg(long, requires = "initrd")]
        tree: Option<PathBuf>,
    },
    /// Write a card image for the Raspberry Pi 4
    Card {
        /// The image to write
        out: PathBuf,
        #[command(flatten)]
        options: card::Options,
    },
    /// Prepare a folder from which the Raspberry Pi 4 boots over the network, and say how
    Netboot {
        /// The folder
        out: PathBuf,
        #[command(flatten)]
        options: card::Options,
    },
    /// Write a card image to a removable disk, after asking
    Flash {
        /// The disk, such as /dev/sdb
        #[arg(long)]
        device: PathBuf,
        /// The image
        #[arg(long)]
        image: PathBuf,
    },
    /// Copy the standard input, adding names to `  at 0x…` lines
    Symbols {
        /// The kernel's ELF file
        elf: PathBuf,
    },
    /// Fail if a file is larger than allowed
    Size {
        /// The file
        file: PathBuf,
        /// The most it may have, such as 512K
        #[arg(long)]
        max: String,
    },
    /// Fail if QEMU is missing; warn if it is too old for the Raspberry Pi 4
    CheckQemu,
}

fn main() -> ExitCode {
    match guest::stop_guests_on_signals().and_then(|()| execute(Tool::parse())) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("lazuli: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(tool: Tool) -> Result<ExitCode> {
    let from = |good: bool| {
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    };
    match tool {
        Tool::Run { timeout, machine } => return run(machine, timeout),
        Tool::Line { mut machine } => {
            machine.kernel = qemu::raw_kernel(&machine.kernel)?;
            println!("{}", machine.shell_line());
        }
        Tool::Bars(options) => return bars::run(options).map(from),
        Tool::Count(options) => return count::run(options).map(from),
        Tool::Choice(options) => return choice::run(options).map(from),
        Tool::Bench(options) => return bench::run(options).map(from),
        Tool::BenchCheck(options) => return check::run(options).map(from),
        Tool::BenchLinux(options) => return beside::run(options).map(from),
        Tool::Matrix(options) => return matrix::run(options).map(from),
        Tool::Litmus(options) => return litmus::run(&options).map(from),
        Tool::Report(options) => page::run(&options)?,
        Tool::Trace(options) => return trace::run(options).map(from),
        Tool::Mutants(options) => return mutants::run(&options).map(from),
        Tool::Simulate(options) => return simulate::run(&options).map(from),
        Tool::Scale(options) => return scale::run(&options).map(from),
        Tool::Test(options) => return test::run(&options).map(from),
        Tool::SanitizerCheck(options) => return sanitizer::run(&options).map(from),
        Tool::Fuzz(options) => return fuzz::run(options).map(from),
        Tool::Soak(options) => return soak::run(options).map(from),
        Tool::Cpio { out, files } => {
            let mut archive = cpio::Archive::default();
            files.iter().try_for_each(|spec| archive.add(spec))?;
            write(&out, &archive.bytes())?;
        }
        Tool::Image { out, kernel, initrd, cmdline, tree } => {
            let mut image = image::raw(&read(&kernel)?).with_context(|| kernel.display().to_string())?;
            if let Some(initrd) = initrd {
                let tree = tree.map_or(Ok(Vec::new()), |tree| read(&tree))?;
                image = image::bundle(&image, &read(&initrd)?, &cmdline, &tree)?;
            }
            write(&out, &image)?;
        }
        Tool::Card { out, options } => {
            card::write_image(&card::files(&options)?, &out)?;
            println!("{}; write it with: make flash DEVICE=/dev/sdX", out.display());
        }
        Tool::Netboot { out, options } => card::write_folder(&card::files(&options)?, &out)?,
        Tool::Flash { device, image } => return flash::run(&device, &image).map(from),
        Tool::Symbols { elf } => annotate(&elf)?,
        Tool::Size { file, max } => check_size(&file, &max)?,
        Tool::CheckQemu => check_qemu()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(mut machine: Machine, timeout: Option<u64>) -> Result<ExitCode> {
    let symbols = Symbols::open(&machine.kernel).ok();
    machine.kernel = qemu::raw_kernel(&machine.kernel)?;
    let mut show = |bytes: &[u8]| {
        // A console that nobody reads any more ends the boot by SIGPIPE's error elsewhere; nothing to do here.
        let _ = stdout().write_all(bytes).and_then(|()| stdout().flush());
    };
    let outcome = guest::boot(&machine, timeout.map(Duration::from_secs), symbols.as_ref(), &mut show)?;
    if outcome.status == HANG {
        eprintln!("lazuli: {}", outcome.hang_text());
    }
    Ok(ExitCode::from(u8::try_from(outcome.status).unwrap_or(u8::MAX)))
}

fn annotate(elf: &Path) -> Result<()> {
    let symbols = Symbols::open(elf)?;
    let mut annotator = Annotator::new(Some(&symbols));
    let mut line = Vec::new();
    let mut input = stdin().lock();
    while input.read_until(b'\n', &mut line).context("cannot read the standard input")? > 0 {
        stdout().write_all(&annotator.feed(&line)).context("cannot write")?;
        line.clear();
    }
    Ok(())
}

fn check_size(file: &Path, max: &str) -> Result<()> {
    let (size, limit) = (read(file)?.len() as u64, image::parse_size(max)?);
    ensure!(size <= limit, "{} has {size} bytes, {} more than the {max} allowed", file.display(), size - limit);
    println!("{}: {size} bytes of {limit}", file.display());
    Ok(())
}

fn check_qemu() -> Result<()> {
    let version = qemu::version()?;
    let first = Board::Rpi4.first_qemu();
    if version < first {
        eprintln!("note: QEMU {version} has no raspi4b (since {first}); only `virt` is run");
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
