//! `lazuli soak`: boots random machines, one after the other, in each of which `soak` runs for minutes; one table of what
//! became of them.
//!
//! Everything is chosen by the seed: scheme, modifiers, way to flush, size of the ASID space, interrupt controller, CPU model,
//! exception level, and the order of what the program does. The same seed runs the same boots.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use crate::guest;
use crate::job::{Expect, Job, Judged};
use crate::matrix::configuration::{self, Configuration};
use crate::qemu::{self, Machine};
use crate::report::Tally;

/// What begins a line that the program prints of a period, and of its start.
const PERIOD: &str = "soak: period ";
const START: &str = "soak: seed ";
/// Seconds that a boot may take beyond its minutes before the kernel panics and says what ran, and before it is ended:
/// within these the program itself finds a member of its crew that does not go on, and names it.
const GRACE_S: u64 = 480;
const LIMIT_S: u64 = 600;

/// Options of `lazuli soak`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long, in hours
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Of the random choices; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes that one machine runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
    each: u64,
    /// Where consoles and the table are kept
    #[arg(long, default_value = "build/soak")]
    folder: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// One machine, by what the seed chose.
struct Boot {
    name: String,
    minutes: u64,
    machine: Machine,
}

/// Runs the soak. Returns whether every boot ended well.
pub(crate) fn run(options: Options) -> Result<bool> {
    let elf = options.machine.kernel.clone();
    let machine = Machine { kernel: qemu::raw_kernel(&elf)?, init: Some("/bin/soak".to_owned()), ..options.machine };
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let minutes = (options.hours * 60.0).ceil() as u64;
    ensure!(minutes > 0, "--hours is the time in hours, such as 0.5");
    std::fs::create_dir_all(&options.folder).with_context(|| format!("cannot make {}", options.folder.display()))?;
    println!("soak: {minutes} minutes on {} CPUs; the same boots again: SEED={seed}", machine.smp);
    // The boots' seeds come from one generator: of neighbours the first choices would be alike.
    let mut seeds = Rng::with_seed(seed);
    let mut table = Table::new(minutes, machine.smp, seed);
    let mut total = Tally::default();
    for (number, begin) in (0..minutes).step_by(options.each as usize).enumerate() {
        let minutes = options.each.min(minutes - begin);
        let boot = Boot::choose(seeds.u32(..).into(), minutes, &machine);
        println!("\nboot {number}: {}", boot.name);
        let judged = boot.run(&format!("smp{}-{seed}-{number}", machine.smp), &elf, &options.folder)?;
        ensure!(!guest::stopped(), "interrupted");
        table.add(&boot, &judged);
        let mut tally = judged.tally;
        tally.failures.iter_mut().for_each(|failure| *failure = format!("boot {number}, {}: {failure}", boot.name));
        total.add(tally);
    }
    let page = options.folder.join(format!("smp{}-{seed}.md", machine.smp));
    std::fs::write(&page, &table.0).with_context(|| format!("cannot write {}", page.display()))?;
    println!("\n{}\nthis table and the consoles are in {}", table.0, options.folder.display());
    total.failures.iter().for_each(|failure| println!("FAIL {failure}"));
    println!("{} passed, {} failed", total.passed, total.failures.len());
    Ok(total.failures.is_empty())
}

impl Boot {
    fn choose(seed: u64, minutes: u64, machine: &Machine) -> Self {
        let mut random = Rng::with_seed(seed);
        let all = configuration::all();
        let Configuration { name, words, .. } = &all[random.usize(..all.len())];
        let cpu = ["cortex-a72", "max"][random.usize(..2)].to_owned();
        // More than eight CPUs are too many for a GICv2.
        let gic = if machine.smp > 8 { 3 } else { random.u8(2..=3) };
        let virtualization = random.bool();
        // The smallest that serves so many CPUs, or twice that: rollovers all the time.
        let asid_bits = (machine.smp + 2).next_power_of_two().trailing_zeros() + random.u32(..2);
        let debug = if random.bool() { " lazy_tlb.debug=1" } else { "" };
        let el = if virtualization { 2 } else { 1 };
        Self {
            name: format!("{name}{debug} asid_bits={asid_bits}, {cpu}, GICv{gic}, EL{el}"),
            minutes,
            machine: Machine {
                cpu,
                gic,
                virtualization,
                cmdline: format!("{words}{debug} asid_bits={asid_bits} watchdog={}", minutes * 60 + GRACE_S),
                args: format!("{minutes} 60 {seed}"),
                ..machine.clone()
            },
        }
    }

    fn run(&self, name: &str, elf: &Path, logs: &Path) -> Result<Judged> {
        let job = Job {
            name: name.to_owned(),
            machine: self.machine.clone(),
            elf: elf.to_owned(),
            timeout_s: self.minutes * 60 + LIMIT_S,
            expect: Expect::Report,
        };
        let mut judged = job.run(logs, &mut |bytes| print!("{}", String::from_utf8_lossy(bytes)))?;
        if judged.tally.failures.is_empty() && judged.tally.passed as u64 != self.minutes {
            judged.tally.failures.push(format!("{} minutes of {} were looked at", judged.tally.passed, self.minutes));
        }
        Ok(judged)
    }
}

/// The summary, in Markdown.
struct Table(String);

impl Table {
    fn new(minutes: u64, smp: u32, seed: u64) -> Self {
        let hours = minutes as f64 / 60.0;
        Self(format!(
            "`make soak HOURS={hours} SMP={smp} SEED={seed}`\n\n\
             | machine | minutes | deeds | hotplugs | freed | rollovers | shoots | frames free, first and last | |\n\
             |---|---|---|---|---|---|---|---|---|\n"
        ))
    }

    fn add(&mut self, boot: &Boot, judged: &Judged) {
        let lines: Vec<&str> = judged.outcome.console.lines().collect();
        let periods: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with(PERIOD)).collect();
        let start = lines.iter().find(|line| line.starts_with(START)).copied().unwrap_or_default();
        let sum = |word: &str| periods.iter().filter_map(|line| before(line, word)).sum::<u64>();
        let free = |line: &str| before(line, "frames free").map_or("?".to_owned(), |frames| frames.to_string());
        let verdict = if judged.tally.failures.is_empty() { "ok" } else { "FAIL" };
        // Into a string nothing fails.
        let _ = writeln!(
            self.0,
            "| {} | {} | {} | {} | {} | {} | {} | {}, {} | {verdict} |",
            boot.name,
            periods.len(),
            sum("deeds"),
            sum("hotplugs"),
            sum("mms freed"),
            sum("rollovers"),
            sum("shoots"),
            free(start),
            free(periods.last().copied().unwrap_or_default()),
        );
    }
}

/// The number that stands before these words.
fn before(line: &str, words: &str) -> Option<u64> {
    line.split_once(&format!(" {words}"))?.0.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Outcome;
    use std::time::Duration;

    const CONSOLE: &str = "soak: seed 7, 2 periods of 60 s, 0 dead, 500 frames free\n\
        soak: period 1: 40 deeds, 3 hotplugs; 20 mms freed, 5 rollovers, 0 shoots; 1 dead, 490 frames free\nok period-1\n\
        soak: period 2: 60 deeds, 4 hotplugs; 30 mms freed, 6 rollovers, 1 shoots; 0 dead, 489 frames free\nok period-2\n";

    #[test]
    fn the_same_seed_chooses_the_same_machine_and_others_choose_others() {
        let line =
            |seed| Boot::choose(seed, 5, &Machine { smp: 8, ..Machine::of("k.img".into()) }).machine.shell_line();
        assert_eq!(line(3), line(3));
        let lines: std::collections::BTreeSet<_> = (0..20).map(line).collect();
        assert_eq!(lines.len(), 20);
        assert!(line(3).contains(" watchdog=780 ") && line(3).contains(" 5 60 3"), "{}", line(3));
    }

    #[test]
    fn a_boot_is_one_row() {
        let boot = Boot::choose(1, 2, &Machine::of("k.img".into()));
        let outcome = Outcome { status: 0, console: CONSOLE.to_owned(), elapsed: Duration::ZERO };
        let mut table = Table::new(30, 4, 1);
        table.add(&boot, &Judged { tally: Tally::default(), outcome });
        assert!(table.0.starts_with("`make soak HOURS=0.5 SMP=4 SEED=1`"), "{}", table.0);
        assert!(table.0.ends_with("| 2 | 100 | 7 | 50 | 11 | 1 | 500, 489 | ok |\n"), "{}", table.0);
    }
}
