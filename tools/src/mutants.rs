//! `lazuli mutants`: breaks the mm layer in every way that cargo-mutants knows, and sees which test notices.
//!
//! cargo-mutants builds anew for each of its mutants, which takes a day. Here one build has all of them, and a number
//! in the environment picks one; the few that change what the compiler computes are built alone ([`alone`]). What is known
//! already is read from the log, so that a run can be broken off.

mod alone;
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
use trial::Trial;

use crate::workers;

/// Which, and where.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The K-th of N parts, as K/N
    #[arg(long, default_value = "1/1", value_parser = shard)]
    shard: (usize, usize),
    /// Only mutants whose names contain this, or one of these; what becomes of them is added to the page
    #[arg(long)]
    only: Vec<String>,
    /// Only mutants that have to be built alone, beside those of --only
    #[arg(long)]
    alone: bool,
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

impl Options {
    /// Whether a mutant is meant that has to be built alone, or not.
    fn means(&self, mutant: &Mutant, alone: bool) -> bool {
        let named = self.only.iter().any(|text| mutant.name.contains(text));
        named || self.alone && alone || !self.is_choosy()
    }

    fn is_choosy(&self) -> bool {
        self.alone || !self.only.is_empty()
    }
}

/// Tries what is not tried yet; says whether enough are caught and every survivor has its reason.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tree = options.out.join("tree");
    let commit = copy_commit(&options.commit, &tree)?;
    let mutants = list::parse(&list_of(&tree)?)?;
    let mut record = Record::open(&options.out.join("log.txt"), &options.equivalent)?;
    let meant = if options.report { Vec::new() } else { try_out(options, &tree, &mutants, &mut record)? };
    if options.is_choosy() {
        let known = fs::read_to_string(&options.page).with_context(|| options.page.display().to_string())?;
        crate::write(&options.page, record.page_with(&known, &meant, &commit).as_bytes())?;
        return Ok(true);
    }
    let page = record.page(&mutants, &commit);
    crate::write(&options.page, page.text.as_bytes())?;
    println!("{}", page.sum);
    Ok(page.good)
}

/// Tries those that are meant and not known to be caught; gives all that are meant.
fn try_out<'a>(options: &Options, tree: &Path, mutants: &'a [Mutant], record: &mut Record) -> Result<Vec<&'a Mutant>> {
    let unviable = (0..).zip(mutants).filter(|(_, mutant)| record.is_unviable(mutant)).map(|(number, _)| number);
    let built = build::build(tree, mutants, unviable.collect())?;
    let new = |(number, mutant): &(u32, &Mutant)| built.unviable.contains(number) && !record.is_unviable(mutant);
    for (_, mutant) in (0..).zip(mutants).filter(new).collect::<Vec<_>>() {
        record.note(mutant, Outcome::Unviable)?;
    }
    let is_alone = |number| !built.switched.contains(&number) && !built.unviable.contains(&number);
    let meant = (0..).zip(mutants).filter(|&(number, mutant)| options.means(mutant, is_alone(number)));
    let meant: Vec<(u32, &Mutant)> = meant.collect();
    let (part, parts) = options.shard;
    let open = |(number, mutant): &&(u32, &Mutant)| *number as usize % parts == part - 1 && !record.is_settled(mutant);
    let (alone, mut together): (Vec<_>, Vec<_>) =
        meant.iter().filter(open).copied().partition(|(number, _)| is_alone(*number));
    // Survivors are tried again, after the others: a test may have been added for them.
    together.sort_by_key(|(_, mutant)| record.is_known(mutant));
    let trial = Trial::new(built.programs, &options.out)?;
    let record = Mutex::new(record);
    let known = || record.lock().expect("no thread panics with it");
    let note = |mutant: &Mutant, outcome: Outcome| {
        println!("{:<90} {outcome}", mutant.name);
        known().note(mutant, outcome)
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    workers::share(together.into_iter(), processors, |(number, mutant)| {
        // Of what is said to change nothing, the long stages would only say the same.
        let quick = known().is_equivalent(mutant);
        note(mutant, trial.of(number, quick)?.into())
    })?;
    if !alone.is_empty() {
        let tree = options.out.join("alone");
        copy_commit(&options.commit, &tree)?;
        for (_, mutant) in alone {
            let quick = known().is_equivalent(mutant);
            note(mutant, alone::outcome(&tree, mutant, &trial, quick)?)?;
        }
    }
    Ok(meant.into_iter().map(|(_, mutant)| mutant).collect())
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
