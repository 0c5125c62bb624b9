//! `lazuli matrix`: every configuration that means something under the same workloads; one table, and the bars.

mod bars;
pub(crate) mod configuration;
mod page;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::json;

use crate::board::Board;
use crate::ground::Ground;
use crate::guest::{self, HANG};
use crate::marked;
use crate::qemu::{self, Machine};
use crate::results::{self, Measurement};
use crate::store::Store;
use crate::table;
use crate::workers;
use configuration::Configuration;

/// What every configuration runs, in the order in which lazybench does: user↔idle ping-pong, kernel threads that borrow,
/// a storm of munmap, fork and exec (the latter also without ever leaving the CPU), a storm of exits, exits after a walk
/// over all CPUs.
const WORKLOADS: &str =
    "kthread ctx-threads-pipe-other munmap-storm fork-exec stay-fork stay-exec exit-single exit-walk";
/// One CPU idles for ever while many processes live and die on the others.
const HOLD: &str = "hold-idle";
/// How many.
const HELD: u32 = 100_000;
/// The configurations for which that is measured: those whose dead wait for others' CPUs.
const HOLDERS: [&str; 3] = ["shootdown+batch16", "handoff", "qsbr"];
/// Numbers of CPUs.
const CPUS: [u32; 2] = [4, 8];
/// The configurations of the short run: every scheme, every modifier and every way to flush once, and all that a bar
/// concerns.
const QUICK: [&str; 14] = [
    "refcount",
    "shootdown",
    "shootdown+exit",
    "shootdown+slot",
    "shootdown+slot+trim",
    "shootdown+batch16",
    "shootdown ipi",
    "shootdown ipi+piggyback",
    "shootdown+slot auto",
    "shootdown auto+retire",
    "handoff",
    "handoff+shoot5",
    "qsbr",
    "eager",
];

/// Options of `lazuli matrix`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Few configurations, on 4 CPUs only
    #[arg(long)]
    quick: bool,
    /// Only configurations whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Measure the real board behind this serial port, which waits in its chain loader
    #[arg(long)]
    serial: Option<PathBuf>,
    /// Print the configurations and what each adds to the kernel's command line
    #[arg(long)]
    list: bool,
    /// Seconds that one boot may take
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// The Markdown file between whose marks the table goes
    #[arg(long)]
    page: Option<PathBuf>,
    /// Where the table, the figures and what each boot measured are kept
    #[arg(long, default_value = "build")]
    folder: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// One boot.
struct Boot {
    configuration: Configuration,
    cpus: u32,
    name: String,
    machine: Machine,
}

/// What one workload cost in one configuration.
struct Row {
    configuration: Configuration,
    cpus: u32,
    measurement: Measurement,
}

/// Runs the matrix. Returns whether every boot ended well and every bar is met.
pub(crate) fn run(options: Options) -> Result<bool> {
    if options.list {
        for configuration in configuration::all() {
            println!("{:<32} {}", configuration.name, configuration.words);
        }
        return Ok(true);
    }
    let kernel = qemu::raw_kernel(&options.machine.kernel)?;
    let init = Some("/bin/lazybench".to_owned());
    let mut machine = Machine { kernel, icount: true, init, ..options.machine.clone() };
    let ground = Ground::open(options.serial.as_deref(), &mut machine)?;
    let boots = boots(&options, &machine);
    ensure!(!boots.is_empty(), "no configuration is named `{}`; --list prints them all", options.only);
    let runner = Runner {
        store: Store::open(&options.folder.join(ground.file_stem("matrix", &machine)), &machine, &[])?,
        ground,
        limit: Duration::from_secs(options.timeout),
        bar: workers::progress_bar(boots.len())?,
    };
    let (rows, failures) = runner.run_all(&boots)?;
    runner.bar.finish_and_clear();
    ensure!(!guest::stopped(), "interrupted; what was measured is kept, the same command goes on from there");
    report(&options, &runner.ground, &machine, &rows, &failures)
}

fn boots(options: &Options, machine: &Machine) -> Vec<Boot> {
    // The Raspberry Pi 4 has the first number of them.
    let cpus = if options.quick || machine.board == Board::Rpi4 { &CPUS[..1] } else { &CPUS };
    let wanted = |configuration: &Configuration| {
        let is_quick = QUICK.contains(&configuration.name.as_str());
        configuration.name.contains(&options.only) && (is_quick || !options.quick)
    };
    let mut boots = Vec::new();
    for configuration in configuration::all().into_iter().filter(wanted) {
        // The long boots first, so that the last worker does not end with one.
        if HOLDERS.contains(&configuration.name.as_str()) {
            let boot = Boot::new(&configuration, CPUS[0], machine, format!("{HOLD} --ops {HELD}"), " hold");
            boots.insert(0, boot);
        }
        for &cpus in cpus {
            boots.push(Boot::new(&configuration, cpus, machine, WORKLOADS.to_owned(), ""));
        }
    }
    boots
}

impl Boot {
    fn new(configuration: &Configuration, cpus: u32, machine: &Machine, args: String, suffix: &str) -> Self {
        let cmdline = [configuration.words.as_str(), &machine.cmdline].join(" ").trim_end().to_owned();
        let place = match machine.board {
            Board::Virt => format!("smp{cpus}"),
            Board::Rpi4 => machine.board.name().to_owned(),
        };
        Self {
            name: format!("{} {place}{suffix}", configuration.name).replace(' ', "_"),
            machine: Machine { smp: cpus, cmdline, args, ..machine.clone() },
            configuration: configuration.clone(),
            cpus,
        }
    }

    fn rows(&self, measurements: Vec<Measurement>) -> impl Iterator<Item = Row> {
        let row = |measurement| Row { configuration: self.configuration.clone(), cpus: self.cpus, measurement };
        measurements.into_iter().map(row)
    }
}

struct Runner {
    store: Store,
    ground: Ground,
    limit: Duration,
    bar: ProgressBar,
}

impl Runner {
    /// Runs all boots, one on each core. Gives what was measured, in their order, and what failed.
    fn run_all(&self, boots: &[Boot]) -> Result<(Vec<Row>, Vec<String>)> {
        let workers = self.ground.workers();
        let done = Mutex::new((Vec::new(), Vec::new()));
        workers::share(boots.iter().enumerate(), workers, |(index, boot)| {
            let outcome = self.measure(boot)?;
            let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match outcome {
                Ok(measurements) => done.0.extend(boot.rows(measurements).map(|row| (index, row))),
                Err(why) => done.1.push(why),
            }
            self.bar.inc(1);
            Ok(())
        })?;
        let (mut rows, failures) = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        rows.sort_by_key(|(index, _)| *index);
        Ok((rows.into_iter().map(|(_, row)| row).collect(), failures))
    }

    /// What one boot measured, now or earlier; or why it failed.
    fn measure(&self, boot: &Boot) -> Result<Result<Vec<Measurement>, String>> {
        if let Some(kept) = self.store.load(&boot.name, &boot.machine) {
            return Ok(Ok(results::measurements(&kept)));
        }
        self.bar.set_message(boot.name.clone());
        let outcome = self.ground.boot(&boot.machine, self.limit, None, &mut |_| {})?;
        if guest::stopped() {
            return Ok(Err(format!("{}: interrupted", boot.name)));
        }
        let measurements = results::parse(&boot.configuration.name, &outcome.console);
        let wanted = boot.machine.args.split(' ').take_while(|word| !word.starts_with("--")).count();
        if outcome.status == 0 && measurements.len() == wanted {
            let kept = measurements.iter().map(Measurement::to_json).collect();
            self.store.save(&boot.name, &boot.machine, &kept)?;
            self.say(&format!("ok   {:<48} {:>5.1} s", boot.name, outcome.elapsed.as_secs_f64()));
            return Ok(Ok(measurements));
        }
        let why = match outcome.status {
            HANG => format!("hang: no end within {} s", outcome.elapsed.as_secs()),
            status => format!("exit status {status}"),
        };
        let log = self.store.keep_console(&boot.name, &boot.machine, &outcome.console)?;
        let (seen, log) = (measurements.len(), log.display());
        let failure = format!("{}: {why}, after {seen} of {wanted} workloads; its console is in {log}", boot.name);
        self.say(&format!("FAIL {failure}"));
        Ok(Err(failure))
    }

    /// Above the bar, or where there is none because nobody watches, as a line of its own.
    fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }
}

/// Writes table and figures, and prints the bars.
fn report(options: &Options, ground: &Ground, machine: &Machine, rows: &[Row], failures: &[String]) -> Result<bool> {
    let verdicts = bars::judge(rows);
    let place = match (ground, machine.board) {
        (Ground::Board(_), _) => " SERIAL=/dev/ttyUSB0",
        (Ground::Qemu, Board::Rpi4) => " BOARD=rpi4",
        (Ground::Qemu, Board::Virt) => "",
    };
    let command = format!("make matrix{place}{}", if options.quick { " QUICK=1" } else { "" });
    let page = page::markdown(&command, ground, machine, rows, &verdicts);
    let stem = options.folder.join(ground.file_stem("matrix", machine));
    let write = |extension: &str, text: &str| {
        let file = stem.with_extension(extension);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write("md", &page)?;
    let results = rows.iter().map(|row| {
        json!({
            "configuration": row.configuration.name, "options": row.configuration.words, "cpus": row.cpus,
            "measured": row.measurement.to_json(),
        })
    });
    let bars = verdicts.iter().map(bars::Verdict::to_json);
    let all = json!({
        "command": command, "clocks": ground.ticking(machine), "failures": failures,
        "bars": bars.collect::<Vec<_>>(), "results": results.collect::<Vec<_>>(),
    });
    write("json", &format!("{all:#}\n"))?;
    println!("{}", table::render(&bars::HEADS, 3, &verdicts.iter().map(bars::Verdict::row).collect::<Vec<_>>()));
    println!("The table is in {0}.md, all figures are in {0}.json.", stem.display());
    failures.iter().for_each(|failure| println!("FAIL {failure}"));
    let missed = verdicts.iter().filter(|verdict| !verdict.is_met()).count();
    println!("{} boots failed, {missed} of {} bars missed", failures.len(), verdicts.len());
    let good = failures.is_empty() && missed == 0;
    if let Some(file) = options.page.as_ref().filter(|_| good) {
        marked::insert(file, "matrix", &page)?;
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_run_and_the_long_boots_name_configurations_that_exist() {
        let all = configuration::all();
        for name in QUICK.iter().chain(&HOLDERS) {
            assert!(all.iter().any(|configuration| configuration.name == *name), "{name}");
        }
    }
}
