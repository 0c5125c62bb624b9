//! `lazuli simulate`: how each scheme would do on up to 512 CPUs, from what few virtual ones show. docs/scaling.md says how.

mod machine;
mod network;
mod published;
mod scheme;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use self::scheme::{CPUS, Lines, Scheme, TRACED};
use self::trace::Trace;
use crate::options;
use crate::qemu::{self, Machine};
use crate::sanitizer;
use crate::store::Store;
use crate::table;
use crate::workers;

/// Options of `lazuli simulate`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Schemes, with modifiers behind a plus sign
    #[arg(
        long,
        value_delimiter = ' ',
        default_value = "refcount shootdown shootdown+slot shootdown+exit handoff qsbr eager"
    )]
    schemes: Vec<String>,
    /// The plugin that follows lines of memory
    #[arg(long)]
    plugin: PathBuf,
    /// Boots at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where the figures go; what each boot showed is kept in a folder beside it
    #[arg(long, default_value = "build/simulate.json")]
    json: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// What a boot does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Switches,
    Lives,
}

impl Work {
    /// The arguments of lazybench. Enough operations for each CPU that the start and the end do not count.
    fn arguments(self, cpus: u32) -> String {
        match self {
            Self::Switches => format!("ctx-threads-pipe-other --pairs {} --ops {}", cpus / 2, 100 * cpus),
            Self::Lives => format!("exit-walk --ops {}", cpus.max(32)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Switches => "switches",
            Self::Lives => "lives",
        }
    }
}

/// One boot.
struct Boot<'a> {
    scheme: &'a str,
    work: Work,
    cpus: u32,
    machine: Machine,
}

/// The scheme that the others are compared with.
const REFERENCE: &str = "refcount";

type Traces<'a> = BTreeMap<(&'a str, Work, u32), Trace>;

/// Traces, simulates, writes and prints. Returns whether every boot ended well.
pub(crate) fn run(options: &Options) -> Result<bool> {
    sanitizer::check_qemu()?;
    let kernel = qemu::raw_kernel(&options.machine.kernel)?;
    let init = Some("/bin/lazybench".to_owned());
    let machine = Machine { kernel, icount: true, init, ..options.machine.clone() };
    let store = Store::open(&options.json.with_extension(""), &machine, &[&options.plugin])?;
    let boots = boots(options, &machine)?;
    let traces = workers::collect(&boots, options.jobs, |boot, bar| {
        let trace = boot.trace(&store, options, bar)?;
        Ok(trace.map(|trace| ((boot.scheme, boot.work, boot.cpus), trace)))
    })?;
    let mut traces: Traces = traces.into_iter().collect();
    if traces.len() < boots.len() {
        return Ok(false);
    }
    let mut all =
        |scheme, work| CPUS[..TRACED].iter().filter_map(|&cpus| traces.remove(&(scheme, work, cpus))).collect();
    let schemes = options.schemes.iter().map(|name| Scheme {
        name: name.clone(),
        switches: all(name.as_str(), Work::Switches),
        lives: all(name.as_str(), Work::Lives),
    });
    let file = to_json(&schemes.collect::<Vec<_>>(), &machine.shell_line());
    write(&options.json, &file)?;
    print(&file);
    println!("All figures are in {}; docs/scaling.md says what they mean.", options.json.display());
    Ok(true)
}

fn write(path: &Path, file: &Value) -> Result<()> {
    std::fs::write(path, format!("{file:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// The long ones first, so that the last worker does not end with one.
fn boots<'a>(options: &'a Options, machine: &Machine) -> Result<Vec<Boot<'a>>> {
    let mut boots = Vec::new();
    for &cpus in CPUS[..TRACED].iter().rev() {
        for scheme in &options.schemes {
            let (name, words) = options::of(scheme)?;
            for work in [Work::Lives, Work::Switches] {
                let cmdline = format!("{words} {}", machine.cmdline).trim().to_owned();
                let args = work.arguments(cpus);
                let machine = Machine { smp: cpus, scheme: Some(name.clone()), cmdline, args, ..machine.clone() };
                boots.push(Boot { scheme, work, cpus, machine });
            }
        }
    }
    Ok(boots)
}

impl Boot<'_> {
    /// What it shows, now or earlier. None, and the reason on standard error, if it failed.
    fn trace(&self, store: &Store, options: &Options, bar: &ProgressBar) -> Result<Option<Trace>> {
        let name = format!("{}_{}_smp{}", self.scheme, self.work.name(), self.cpus);
        if let Some(kept) = store.load(&name, &self.machine).and_then(|kept| Trace::from_json(&kept)) {
            return Ok(Some(kept));
        }
        bar.set_message(name.clone());
        let say = |line: &str| if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) };
        match Trace::of(&self.machine, &options.plugin, &options.machine.kernel)? {
            Ok(trace) => {
                store.save(&name, &self.machine, &trace.to_json())?;
                say(&format!("ok   {name}"));
                Ok(Some(trace))
            }
            Err(why) => {
                say(&format!("{name}\n{why}"));
                Ok(None)
            }
        }
    }
}

/// All that is known and simulated.
fn to_json(schemes: &[Scheme], line: &str) -> Value {
    let refcount = schemes.iter().find(|scheme| scheme.name == REFERENCE);
    let of_scheme = |scheme: &Scheme| {
        let curve = |&cpus: &u32| {
            let switches = scheme.switches_a_second(cpus, Lines::All);
            json!({
                "cpus": cpus, "switches": switches, "switches_mm": scheme.switches_a_second(cpus, Lines::Mm),
                "ipis": switches * scheme.switch(cpus).ipis,
                "cheaper_from": refcount.and_then(|refcount| scheme::cheaper_from(scheme, refcount, cpus)),
                "ipis_life": scheme.ipis_of_a_life(cpus), "seconds_life": scheme.of_a_life(cpus),
            })
        };
        let traced = |traces: &[Trace]| traces.iter().map(Trace::to_json).collect::<Vec<_>>();
        json!({
            "scheme": scheme.name, "curve": CPUS.iter().map(curve).collect::<Vec<_>>(),
            "traced": {"switches": traced(&scheme.switches), "lives": traced(&scheme.lives)},
        })
    };
    let wins = |&cpus: &u32| {
        let from = |(from, scheme): (u64, &str)| json!({"from": from, "scheme": scheme});
        json!({"cpus": cpus, "winners": scheme::winners(schemes, cpus).into_iter().map(from).collect::<Vec<_>>()})
    };
    let parameter = |of: &&machine::Parameter| json!({"name": of.name, "value": of.value, "source": of.source});
    json!({
        "command": "make simulate", "machine": line, "traced": CPUS[..TRACED],
        "parameters": machine::PARAMETERS.iter().map(parameter).collect::<Vec<_>>(),
        "published": published::checks().iter().map(published::Check::to_json).collect::<Vec<_>>(),
        "schemes": schemes.iter().map(of_scheme).collect::<Vec<_>>(),
        "crossings": CPUS.iter().map(wins).collect::<Vec<_>>(),
    })
}

/// The tables, from the file.
fn print(file: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let heads: Vec<String> = ["scheme".to_owned()].into_iter().chain(CPUS.map(|cpus| format!("{cpus} CPUs"))).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let tables = [
        ("Switches per second", "switches"),
        ("Switches per second, if only the mm layer's lines were shared", "switches_mm"),
        ("IPIs in the life of a process that runs on every CPU", "ipis_life"),
    ];
    for (title, key) in tables {
        let row = |scheme: &Value| {
            let cells = list(&scheme["curve"]);
            let cells = cells.iter().map(|at| table::number(at[key].as_f64().unwrap_or(0.0)));
            std::iter::once(scheme["scheme"].as_str().unwrap_or_default().to_owned()).chain(cells).collect()
        };
        println!("{title}\n{}", table::render(&heads, 1, &list(&file["schemes"]).iter().map(row).collect::<Vec<_>>()));
    }
    println!("Cheapest by how many switches a process makes in its life");
    for row in list(&file["crossings"]) {
        println!("{:>4} CPUs: {}", row["cpus"], winners_in_words(&row["winners"]));
    }
    println!();
}

/// `refcount from 0, shootdown from 12`.
pub(crate) fn winners_in_words(winners: &Value) -> String {
    let words = |of: &Value| format!("{} from {}", of["scheme"].as_str().unwrap_or_default(), of["from"]);
    winners.as_array().into_iter().flatten().map(words).collect::<Vec<_>>().join(", ")
}
