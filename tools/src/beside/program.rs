//! Any program that the user names, on each kernel: what the machine did between its marks, or in its whole life.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Kernel, Options, boot};
use crate::counted::{Counted, SETTLE};
use crate::qemu::{self, Machine};
use crate::table;
use crate::watched::Mode;
use crate::workers;

/// What starts it: it marks the program's life, from fork to wait, where the program marks nothing.
const INIT: &str = "/bin/init";

/// Counts the program that `--init` names. Returns whether it ran on every kernel.
pub(super) fn run(options: &Options, kernels: &[Kernel], program: &str) -> Result<bool> {
    let modes = if options.machine.smp > 1 { vec![Mode::Instructions, Mode::Lines] } else { vec![Mode::Instructions] };
    let tasks: Vec<_> = kernels.iter().flat_map(|kernel| modes.iter().map(move |mode| (kernel, *mode))).collect();
    let found = workers::collect(&tasks, options.jobs, |(kernel, mode), bar| {
        let machine = machine(kernel, program, &options.machine.args);
        let name = format!("{} program{}", kernel.name, mode.suffix());
        let count = || Counted::of_program(&machine, &options.counting.plugin, *mode);
        let counted = boot(kernel, &machine, &name, count, bar)?;
        Ok(counted.map(|counted| ((kernel.name, *mode), counted)))
    })?;
    let found: BTreeMap<_, _> = found.into_iter().collect();
    let all_of = |kernel: &Kernel| {
        let both = modes.iter().filter_map(|mode| found.get(&(kernel.name, *mode)));
        both.flat_map(Counted::all_each).collect::<BTreeMap<_, _>>()
    };
    let runs: Vec<_> = kernels.iter().map(|kernel| (kernel, all_of(kernel))).collect();
    let path = options.json.with_file_name("bench-linux-app.json");
    let file = to_json(options, program, &runs)?;
    std::fs::write(&path, format!("{file:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{}", text(&runs));
    println!(
        "What {program} made all CPUs do, between its marks or in its whole life; -icount, -seed 1. {}",
        path.display()
    );
    Ok(found.len() == tasks.len())
}

/// A kernel that runs the program once it has settled.
fn machine(kernel: &Kernel, program: &str, arguments: &str) -> Machine {
    let args = format!("--settle {SETTLE} --mark {program} {arguments}").trim_end().to_owned();
    let machine = Machine { icount: true, args, init: None, ..kernel.machine.clone() };
    match kernel.words {
        None => Machine { init: Some(INIT.to_owned()), ..machine },
        Some(words) => {
            let cmdline = format!("{words} panic=-1 rdinit={INIT}");
            Machine { hardware_end: true, scheme: None, cmdline, ..machine }
        }
    }
}

type Run<'a> = (&'a Kernel, BTreeMap<String, f64>);

fn to_json(options: &Options, program: &str, runs: &[Run<'_>]) -> Result<Value> {
    let run = |(kernel, counts): &Run<'_>| {
        let line = machine(kernel, program, &options.machine.args).shell_line();
        json!({"kernel": kernel.name, "version": kernel.version, "words": kernel.words, "line": line, "counts": counts})
    };
    Ok(json!({
        "command": "make bench-linux APP=", "program": program, "arguments": options.machine.args,
        "qemu": qemu::version_text()?, "cpu": options.machine.cpu, "seed": 1,
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    }))
}

/// A row for each count, a column for each kernel.
fn text(runs: &[Run<'_>]) -> String {
    let mut names: Vec<&String> = runs.iter().flat_map(|(_, counts)| counts.keys()).collect();
    names.sort();
    names.dedup();
    let heads: Vec<_> = std::iter::once("count").chain(runs.iter().map(|(kernel, _)| kernel.name)).collect();
    let row = |name: &&String| {
        let cell = |(_, counts): &Run<'_>| match counts.get(*name) {
            Some(count) => table::number(*count),
            None if counts.is_empty() => "-".to_owned(),
            None => "0".to_owned(),
        };
        std::iter::once((*name).clone()).chain(runs.iter().map(cell)).collect()
    };
    table::render(&heads, 1, &names.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn kernel(name: &'static str, words: Option<&'static str>) -> Kernel {
        // Tests run in threads of one process, each of which makes its kernels one after the other.
        let (process, thread) = (std::process::id(), std::thread::current().id());
        let folder = std::env::temp_dir().join(format!("lazuli-program-{process}-{thread:?}"));
        let machine =
            Machine { scheme: Some("eager".into()), init: Some("/app/x".into()), ..Machine::of("/dev/null".into()) };
        let store = Store::open(&folder, &machine, &[]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        Kernel { name, version: String::new(), machine, words, store }
    }

    #[test]
    fn both_kernels_start_the_program_by_the_same_line() {
        let run = "-- --settle 30 --mark /app/x -l \"a b\"";
        let ours = machine(&kernel("Lazuli", None), "/app/x", "-l \"a b\"");
        assert_eq!(ours.append(), format!("exit=semihosting lazy_tlb=eager init=/bin/init {run}"));
        let theirs = machine(&kernel("Linux", Some("quiet")), "/app/x", "-l \"a b\"");
        assert_eq!(theirs.append(), format!("quiet panic=-1 rdinit=/bin/init {run}"));
        assert!(ours.icount && theirs.icount && theirs.hardware_end);
    }

    #[test]
    fn a_count_that_a_kernel_lacks_is_zero_and_a_run_that_failed_is_none() {
        let (one, two, three) = (kernel("Lazuli", None), kernel("Linux", Some("")), kernel("Linux 2", Some("")));
        let counts = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let text = text(&[(&one, counts("el1", 200.0)), (&two, counts("isb", 3.0)), (&three, BTreeMap::new())]);
        let expected = "count  Lazuli  Linux  Linux 2\nel1       200      0        -\nisb         0   3.00        -\n";
        assert_eq!(text, expected);
    }
}
