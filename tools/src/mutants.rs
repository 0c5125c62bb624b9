//! `lazuli mutants`: breaks the mm layer in every way that cargo-mutants knows, and sees which test notices.
//!
//! cargo-mutants builds anew for each of its mutants, which takes a day. Here one build has all of them, and a number
//! in the environment picks one. What is known already is read from the log, so that a run can be broken off.

mod build;
mod list;
mod record;
mod switch;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};

use list::Mutant;
use record::{Outcome, Record};
use trial::{Trial, Verdict};

use crate::workers;

/// Which, and where.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The K-th of N parts, as K/N
    #[arg(long, default_value = "1/1", value_parser = shard)]
    shard: (usize, usize),
    /// Only mutants whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Of which commit
    #[arg(long, default_value = "HEAD")]
    commit: String,
    /// Only write the page, from what the log has
    #[arg(long)]
    report: bool,
    /// Where the copy is built and the log is kept
    #[arg(long, default_value = "target/all-mutants")]
    out: PathBuf,
    /// Why which survivor is none: a line for each
    #[arg(long, default_value = "mm/equivalent-mutants.txt")]
    equivalent: PathBuf,
    /// Where the sums and the survivors are written
    #[arg(long, default_value = "docs/mutants.md")]
    page: PathBuf,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(k, n)| (1..=*n).contains(k)).ok_or_else(|| format!("`{text}` is not K/N"))
}

/// Tries what is not tried yet; says whether enough are caught and every survivor has its reason.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tree = options.out.join("tree");
    let commit = copy_commit(&options.commit, &tree)?;
    let mutants = list::parse(&list_of(&tree)?)?;
    let mut record = Record::open(&options.out.join("log.txt"), &options.equivalent)?;
    if !options.report {
        try_out(options, &tree, &mutants, &mut record)?;
    }
    let page = record.page(&mutants, &commit);
    crate::write(&options.page, page.text.as_bytes())?;
    println!("{}", page.sum);
    Ok(page.good)
}

fn try_out(options: &Options, tree: &Path, mutants: &[Mutant], record: &mut Record) -> Result<()> {
    let unviable = (0..).zip(mutants).filter(|(_, mutant)| record.is_unviable(mutant)).map(|(number, _)| number);
    let built = build::build(tree, mutants, unviable.collect())?;
    let new = |(number, mutant): &(u32, &Mutant)| built.unviable.contains(number) && !record.is_unviable(mutant);
    for (_, mutant) in (0..).zip(mutants).filter(new).collect::<Vec<_>>() {
        record.note(mutant, Outcome::Unviable)?;
    }
    let trial = Trial::new(built.programs, &options.out)?;
    let (part, parts) = options.shard;
    let wanted = |(number, mutant): &(u32, &Mutant)| {
        let mine = *number as usize % parts == part - 1 && mutant.name.contains(&options.only);
        mine && built.switched.contains(number) && !record.is_caught(mutant)
    };
    let mut wanted: Vec<_> = (0..).zip(mutants).filter(wanted).collect();
    // Survivors are tried again, after the others: a test may have been added for them.
    wanted.sort_by_key(|(_, mutant)| record.is_known(mutant));
    let record = Mutex::new(record);
    let known = || record.lock().expect("no thread panics with it");
    let processors = thread::available_parallelism().map_or(1, usize::from);
    workers::share(wanted.into_iter(), processors, |(number, mutant)| {
        // Of what is said to change nothing, the long stages would only say the same.
        let quick = known().is_equivalent(mutant);
        let outcome = match trial.of(number, quick)? {
            Verdict::Caught(test) => Outcome::Caught(test),
            Verdict::Hangs(tests) => Outcome::Caught(format!("{tests} never ends")),
            Verdict::Survived => Outcome::Survived,
        };
        println!("{:<90} {outcome}", mutant.name);
        known().note(mutant, outcome)
    })
}

/// A copy of a commit, and its name.
fn copy_commit(commit: &str, tree: &Path) -> Result<String> {
    let _ = fs::remove_dir_all(tree);
    fs::create_dir_all(tree).with_context(|| tree.display().to_string())?;
    let name = Command::new("git").args(["rev-parse", "--short=12", commit]).output().context("cannot run git")?;
    let mut archive = Command::new("git").args(["archive", commit]).stdout(Stdio::piped()).spawn()?;
    let pipe = archive.stdout.take().context("git has no output")?;
    let unpacked = Command::new("tar").arg("-x").arg("-C").arg(tree).stdin(pipe).status().context("cannot run tar")?;
    ensure!(archive.wait()?.success() && unpacked.success(), "git archive {commit} | tar -x fails");
    Ok(String::from_utf8_lossy(&name.stdout).trim().to_owned())
}

fn list_of(tree: &Path) -> Result<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The machines of the tests are modules of the package, and no part of what is tested.
    cargo
        .args(["mutants", "--list", "--json", "--package", "mm", "--dir", ".", "--exclude", "**/tests/**"])
        .current_dir(tree);
    let output = cargo.output().context("cannot run cargo")?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "cargo mutants fails; cargo install cargo-mutants puts it here: {why}");
    Ok(String::from_utf8(output.stdout)?)
}
