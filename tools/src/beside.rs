//! `lazuli bench-linux`: the same operations on Lazuli and on Linux in the same QEMU, counted by the same plugin.

mod program;
mod spread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::bars::{BARS, Bar, Counting, MEANING};
use crate::counted::Counted;
use crate::linux;
use crate::qemu::{self, Machine};
use crate::store::Store;
use crate::table;
use crate::watched::Mode;
use crate::workers;

/// Options of `lazuli bench-linux`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    counting: Counting,
    /// Linux: an arm64 Image, or a folder that a package of it was unpacked to
    #[arg(long)]
    linux: PathBuf,
    /// Boots at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How often an operation of two CPUs is also counted with a host thread for each
    #[arg(long, default_value_t = 0)]
    spread: usize,
    /// Only operations whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Where the figures go; what each boot counted is kept in a folder beside it
    #[arg(long, default_value = "build/bench-linux.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// One of the kernels that are compared.
struct Kernel {
    name: &'static str,
    /// What it calls itself.
    version: String,
    machine: Machine,
    /// Its command line's words; none of Lazuli's own.
    words: Option<&'static str>,
    store: Store,
}

impl Kernel {
    fn run(&self, bar: &Bar) -> Machine {
        match self.words {
            None => bar.work.on_lazuli(&self.machine),
            Some(words) => bar.work.on_linux(&self.machine, words),
        }
    }
}

/// Measures all. Returns whether every boot counted something.
pub(crate) fn run(options: Options) -> Result<bool> {
    let kernels = kernels(&options)?;
    if let Some(program) = &options.machine.init {
        return program::run(&options, &kernels, program);
    }
    let bars: Vec<&Bar> = BARS.iter().filter(|bar| bar.what.contains(&options.only)).collect();
    ensure!(!bars.is_empty(), "no operation is called `{}`", options.only);
    let tasks: Vec<_> = bars.iter().flat_map(|bar| kernels.iter().map(move |kernel| (*bar, kernel))).collect();
    let counted = workers::collect(&tasks, options.jobs, |(operation, kernel), bar| {
        let found = count(operation, kernel, &options.counting.plugin, bar)?;
        Ok(found.map(|found| ((operation.what, kernel.name), found)))
    })?;
    let counted: BTreeMap<_, _> = counted.into_iter().collect();
    let spreads = spread::measure(&options, &kernels, &bars)?;
    let mut file = to_json(&options, &kernels, &bars, &counted)?;
    file["spread"] = spreads.iter().map(spread::Spread::to_json).collect();
    std::fs::write(&options.json, format!("{file:#}\n"))
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    print!("{}", text(&kernels, &bars, &counted));
    if !spreads.is_empty() {
        print!("\n{}\n", spread::text(&spreads));
    }
    println!("{MEANING} -icount, -seed 1. All counts are in {}.", options.json.display());
    Ok(counted.len() == tasks.len())
}

fn kernels(options: &Options) -> Result<Vec<Kernel>> {
    let image = linux::image(&options.linux)?;
    let folder = options.json.with_extension("");
    let ours = options.counting.machine(&options.machine)?;
    let theirs = Machine { kernel: image.clone(), ..options.machine.clone() };
    let version = linux::version(&image)?;
    let own = concat!("Lazuli ", env!("CARGO_PKG_VERSION")).to_owned();
    let kinds = [
        ("Lazuli", own, ours, None),
        ("Linux", version.clone(), theirs.clone(), Some(linux::DEFAULT)),
        ("Linux tuned", version, theirs, Some(linux::TUNED)),
    ];
    let open = |(name, version, machine, words)| {
        let store = Store::open(&folder, &machine, &[&options.counting.plugin])?;
        Ok(Kernel { name, version, machine, words, store })
    };
    kinds.into_iter().map(open).collect()
}

/// What one operation cost on one kernel; and where two CPUs do it, by another boot, which lines of memory moved. None, and
/// the reason on standard error, if that failed.
fn count(bar: &Bar, kernel: &Kernel, plugin: &Path, progress: &ProgressBar) -> Result<Option<Counted>> {
    let machine = kernel.run(bar);
    let in_mode = |mode: Mode| {
        let name = format!("{} {}{}", kernel.name, bar.work.workload, mode.suffix());
        boot(kernel, &machine, &name, || Counted::of(&machine, plugin, bar.work, mode), progress)
    };
    let mut counted = in_mode(Mode::Instructions)?;
    if let Some(counted) = counted.as_mut().filter(|_| bar.work.moves_lines())
        && let Some(lines) = in_mode(Mode::Lines)?
    {
        counted.join(lines);
    }
    Ok(counted)
}

/// What one boot counts, now or earlier.
fn boot(
    kernel: &Kernel,
    machine: &Machine,
    name: &str,
    count: impl FnOnce() -> Result<Result<Counted, String>>,
    progress: &ProgressBar,
) -> Result<Option<Counted>> {
    let file = name.replace(' ', "_");
    if let Some(kept) = kernel.store.load(&file, machine).and_then(|kept| Counted::from_json(&kept)) {
        return Ok(Some(kept));
    }
    progress.set_message(name.to_owned());
    let say = |line: &str| if progress.is_hidden() { eprintln!("{line}") } else { progress.println(line) };
    match count()? {
        Ok(counted) => {
            kernel.store.save(&file, machine, &counted.to_json())?;
            say(&format!("ok   {name}"));
            Ok(Some(counted))
        }
        Err(why) => {
            say(&format!("{name}\n{why}"));
            Ok(None)
        }
    }
}

type Table = BTreeMap<(&'static str, &'static str), Counted>;

fn to_json(options: &Options, kernels: &[Kernel], bars: &[&Bar], counted: &Table) -> Result<Value> {
    let of_bar = |bar: &&Bar| {
        let run = |kernel: &Kernel| {
            let counted = counted.get(&(bar.what, kernel.name))?;
            let line = kernel.run(bar).shell_line();
            Some(json!({"kernel": kernel.name, "line": line, "cost": counted.cost(), "each": counted.all_each()}))
        };
        let runs: Vec<_> = kernels.iter().filter_map(run).collect();
        let work = bar.work;
        json!({
            "operation": bar.what, "workload": work.workload, "cpus": work.cpus, "operations": work.operations,
            "runs": runs,
        })
    };
    let kernel = |kernel: &Kernel| json!({"name": kernel.name, "version": kernel.version, "words": kernel.words});
    Ok(json!({
        "command": "make bench-linux", "qemu": qemu::version_text()?, "cpu": options.machine.cpu, "seed": 1,
        "kernels": kernels.iter().map(kernel).collect::<Vec<_>>(),
        "rows": bars.iter().map(of_bar).collect::<Vec<_>>(),
    }))
}

fn text(kernels: &[Kernel], bars: &[&Bar], counted: &Table) -> String {
    let row = |bar: &&Bar| {
        let cost = |kernel: &Kernel| {
            let counted = counted.get(&(bar.what, kernel.name));
            counted.map_or("-".to_owned(), |counted| table::number(counted.cost()))
        };
        std::iter::once(bar.what.to_owned()).chain(kernels.iter().map(cost)).collect()
    };
    let heads: Vec<_> = std::iter::once("operation").chain(kernels.iter().map(|kernel| kernel.name)).collect();
    table::render(&heads, 1, &bars.iter().map(row).collect::<Vec<_>>())
}
