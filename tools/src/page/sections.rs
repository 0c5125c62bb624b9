//! The parts of the report, each from the file that another command wrote.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::chart::{Bar, Group, bars};
use super::counted;
use super::paths;
use super::scaling;
use super::section::{Section, Table};
use super::timeline::Timeline;
use crate::results::{self, Measurement};
use crate::{options, table};

/// All parts, in their order.
pub(super) fn all(folder: &Path) -> Result<Vec<Section>> {
    let file = |name: &str| read(&folder.join(name));
    let bench = file("bench.json")?.map(|file| results::measurements(&file["results"])).unwrap_or_default();
    Ok(vec![
        costs(&bench),
        laziness(&bench),
        counted::operations(file("bars.json")?.as_ref()),
        counted::beside_linux(file("bench-linux.json")?.as_ref()),
        counted::events(file("bench-linux.json")?.as_ref()),
        counted::spread(file("bench-linux.json")?.as_ref()),
        paths::switch(file("bars.json")?.as_ref()),
        paths::boot(file("bars.json")?.as_ref()),
        shoots(file("matrix.json")?.as_ref()),
        scaling::switches(file("simulate.json")?.as_ref()),
        scaling::lives(file("simulate.json")?.as_ref()),
        scaling::published(file("simulate.json")?.as_ref()),
        scene(&SHOOTDOWN, file("trace-shootdown.json")?.as_ref()),
        scene(&HANDOFF, file("trace-handoff.json")?.as_ref()),
    ])
}

/// The table of what operations cost on both kernels, if that was measured.
pub(super) fn of_both_kernels(folder: &Path) -> Result<Option<Table>> {
    Ok(read(&folder.join("bench-linux.json"))?.and_then(|file| counted::both(&file)))
}

/// A file of figures, if it was written.
fn read(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is no JSON", path.display()))
}

/// The colour of a scheme.
pub(super) fn series(scheme: &str) -> usize {
    options::SCHEMES.iter().position(|&known| known == scheme).unwrap_or(options::SCHEMES.len())
}

/// A figure of one workload under each scheme.
fn group(all: &[Measurement], workload: &str, title: String, figure: impl Fn(&Measurement) -> Option<f64>) -> Group {
    let bar = |m: &Measurement| {
        let value = figure(m)?;
        Some(Bar { name: m.scheme.clone(), value, limit: None, series: series(&m.scheme) })
    };
    Group { name: title, bars: all.iter().filter(|m| m.workload == workload).filter_map(bar).collect() }
}

/// A section about bars, or one that says how they come to be.
pub(super) fn with_bars(mut section: Section, groups: Vec<Group>) -> Section {
    let groups: Vec<_> = groups.into_iter().filter(|group| !group.bars.is_empty()).collect();
    if groups.is_empty() {
        return Section::absent(section.id, section.title, &section.command);
    }
    section.figure = Some(bars(section.title, &groups));
    section
}

fn costs(all: &[Measurement]) -> Section {
    const WORKLOADS: [&str; 5] =
        ["ctx-threads-pipe-other", "ctx-processes-pipe-same", "fork-exit", "exit-threads", "munmap-lazy"];
    let groups = WORKLOADS.map(|name| group(all, name, name.to_owned(), |m| Some(m.ns_per_op())));
    let (heads, rows) = results::cells(all);
    let section = Section {
        id: "costs",
        title: "What an operation costs, scheme by scheme",
        text: "Instructions of all CPUs for one operation of a workload of lazybench, on four CPUs. Bars are compared within \
               a workload. In the table: shared read-modify-writes of mm_count for laziness (RMW), writes of TTBR0_EL1, \
               IPIs by reason, broadcast and local invalidations, all per operation; and address spaces that wait to be \
               freed, at the end and at most."
            .to_owned(),
        command: "make bench".to_owned(),
        figure: None,
        table: Some(Table { heads, words: 2, rows }),
    };
    with_bars(section, groups.into())
}

fn laziness(all: &[Measurement]) -> Section {
    let each = |keys: &'static [&'static str]| move |m: &Measurement| m.sum_each(|key| keys.contains(&key));
    let (pipe, storm) = ("ctx-threads-pipe-other", "exit-threads");
    let groups = vec![
        group(all, pipe, format!("writes of mm_count, {pipe}"), each(&["lazy_grabs", "lazy_drops"])),
        group(all, pipe, format!("writes of TTBR0, {pipe}"), each(&["ttbr0_writes"])),
        group(all, storm, format!("IPIs that shoot lazy CPUs, {storm}"), each(&["ipi_shoot"])),
        group(all, storm, format!("IPIs of all kinds, {storm}"), |m| m.sum_each(|key| key.starts_with("ipi_"))),
        group(all, storm, format!("dead at once, at most, {storm}"), |m| m.told("dead_max")),
    ];
    let section = Section {
        id: "laziness",
        title: "What keeps a lazily used address space alive, and its price",
        text: "The same runs by what the schemes differ in: counts per operation, and how many dead address spaces waited at \
               once. A losing scheme is shown like a winning one."
            .to_owned(),
        command: "make bench".to_owned(),
        figure: None,
        table: None,
    };
    with_bars(section, groups)
}

fn shoots(file: Option<&Value>) -> Section {
    const WORKLOAD: &str = "exit-walk";
    let rows = || file.and_then(|file| file["results"].as_array()).into_iter().flatten();
    let cpus = rows().filter_map(|row| row["cpus"].as_u64()).max().unwrap_or(0);
    let of_row = |row: &Value| {
        let name = row["configuration"].as_str()?.to_owned();
        let measured = Measurement::from_json(&row["measured"]).filter(|m| m.workload == WORKLOAD)?;
        let value = measured.each("ipi_shoot").filter(|_| row["cpus"] == cpus)?;
        let scheme = name.split('+').next().unwrap_or_default();
        Some(Bar { series: series(scheme), name, value, limit: None })
    };
    // A name with a blank has a way to flush, too.
    let bars: Vec<_> = rows().filter_map(of_row).filter(|bar| !bar.name.contains(' ')).collect();
    let words = |bar: &Bar| vec![bar.name.clone(), table::number(bar.value)];
    let rows = bars.iter().map(words).collect();
    let section = Section {
        id: "shoots",
        title: "IPIs to shoot lazy CPUs, by modifier",
        text: format!(
            "IPIs for one process that ran on every one of {cpus} CPUs and exits ({WORKLOAD}): what lazy_tlb.target=slot, \
             lazy_tlb.batch=N and the other modifiers save."
        ),
        command: file.and_then(|file| file["command"].as_str()).unwrap_or("make matrix").to_owned(),
        figure: None,
        table: Some(Table { heads: ["configuration", "IPIs"].map(str::to_owned).into(), words: 1, rows }),
    };
    with_bars(section, vec![Group { name: "IPIs for one exit".to_owned(), bars }])
}

/// What a time line is about.
struct Story {
    id: &'static str,
    title: &'static str,
    text: &'static str,
    command: &'static str,
    /// What must happen in it.
    event: &'static str,
}

const SHOOTDOWN: Story = Story {
    id: "shootdown",
    title: "The end of an address space under shootdown",
    text: "Its last reference goes; whoever dropped it asks every CPU that may have it loaded (lines, to the handler), the lazy \
           one loads init_mm, all acknowledge, and it is freed. The thin line shows what a CPU is lazy on; numbers are steps of \
           the table.",
    command: "make report",
    event: "shoot_found_lazy",
};

const HANDOFF: Story = Story {
    id: "handoff",
    title: "The end of an address space under handoff",
    text: "Its last reference goes; the slots of CPUs that have it loaded are tagged, nobody is asked. The last of them to leave \
           it, when it has something else to run, frees it.",
    command: "make report",
    event: "slots_tagged",
};

fn scene(story: &Story, file: Option<&Value>) -> Section {
    let Some(scene) = file.and_then(|file| Timeline::of(file).shortest(story.event)) else {
        return Section::absent(story.id, story.title, story.command);
    };
    Section {
        id: story.id,
        title: story.title,
        text: story.text.to_owned(),
        command: story.command.to_owned(),
        figure: Some(scene.figure),
        table: Some(scene.table),
    }
}
