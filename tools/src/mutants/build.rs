//! Builds the tests with all mutants in them, but those that the compiler refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::list::Mutant;
use super::switch::{CHOICE, Source, mutant_at};

/// Test programs by name.
pub(super) type Programs = BTreeMap<String, PathBuf>;

/// All the tests that may notice.
const EVERYTHING: &[&str] = &["--lib", "--test", "tables", "--test", "model"];

/// What came of it.
pub(super) struct Built {
    /// The test programs.
    pub(super) programs: Programs,
    /// The mutants in them.
    pub(super) switched: BTreeSet<u32>,
    /// Those that do not compile.
    pub(super) unviable: BTreeSet<u32>,
}

/// The files of the copy that have mutants.
struct Files<'a> {
    tree: &'a Path,
    sources: BTreeMap<&'a str, Source>,
    mutants: &'a [Mutant],
    unviable: BTreeSet<u32>,
    /// Functions that have to stay `const`.
    fixed: Vec<String>,
}

/// Builds in `tree`, a copy of the repository, without those that are known to mean nothing.
pub(super) fn build(tree: &Path, mutants: &[Mutant], unviable: BTreeSet<u32>) -> Result<Built> {
    let mut sources = BTreeMap::new();
    for mutant in mutants {
        if !sources.contains_key(mutant.file.as_str()) {
            let text = fs::read_to_string(tree.join(&mutant.file)).with_context(|| mutant.file.clone())?;
            sources.insert(mutant.file.as_str(), Source::new(text).with_context(|| mutant.file.clone())?);
        }
    }
    let mut files = Files { tree, sources, mutants, unviable, fixed: Vec::new() };
    let library = tree.join("mm/src/lib.rs");
    let text = fs::read_to_string(&library)?;
    fs::write(&library, text + CHOICE)?;
    loop {
        files.write()?;
        let output = compile(tree, EVERYTHING)?;
        let errors: Vec<&Value> = output.iter().filter_map(error).collect();
        if errors.is_empty() {
            let programs = output.iter().filter_map(program).collect();
            return Ok(Built { programs, switched: files.switched(), unviable: files.unviable });
        }
        files.learn_from(&errors)?;
        println!("{} mutants do not compile, {} functions stay const", files.unviable.len(), files.fixed.len());
    }
}

impl Files<'_> {
    fn switched(&self) -> BTreeSet<u32> {
        let can = |(number, mutant): &(u32, &Mutant)| {
            !self.unviable.contains(number) && self.sources[mutant.file.as_str()].can_switch(mutant, &self.fixed)
        };
        (0..).zip(self.mutants).filter(can).map(|(number, _)| number).collect()
    }

    fn write(&self) -> Result<()> {
        let switched = self.switched();
        for (file, source) in &self.sources {
            let here =
                (0..).zip(self.mutants).filter(|(number, mutant)| mutant.file == *file && switched.contains(number));
            let mut text = source.with(&here.collect::<Vec<_>>(), &self.fixed);
            if *file == "mm/src/lib.rs" {
                text += CHOICE;
            }
            fs::write(self.tree.join(file), text)?;
        }
        Ok(())
    }

    /// Takes out what the compiler complains about.
    fn learn_from(&mut self, errors: &[&Value]) -> Result<()> {
        let known = (self.unviable.len(), self.fixed.len());
        for error in errors {
            let message = error["message"].as_str().unwrap_or_default();
            if error["code"]["code"] == "E0015" {
                let path = message.split('`').nth(1).unwrap_or_default();
                let name = path.rsplit("::").next().unwrap_or_default().to_owned();
                let name = name.split('<').next().unwrap_or_default().to_owned();
                if !self.fixed.contains(&name) {
                    self.fixed.push(name);
                }
                continue;
            }
            for span in error["spans"].as_array().into_iter().flatten().filter(|span| span["is_primary"] == true) {
                self.blame(span)?;
            }
        }
        let first = errors.first().and_then(|error| error["rendered"].as_str()).unwrap_or_default();
        ensure!(known != (self.unviable.len(), self.fixed.len()), "the copy does not compile:\n{first}");
        Ok(())
    }

    /// The mutant in whose part an error lies; of a match that lacks an arm, those that took one out.
    fn blame(&mut self, span: &Value) -> Result<()> {
        let file = span["file_name"].as_str().unwrap_or_default();
        let number = |field: &str| span[field].as_u64().unwrap_or(0) as usize;
        let text = fs::read_to_string(self.tree.join(file)).with_context(|| file.to_owned())?;
        if let Some(mutant) = mutant_at(&text, number("byte_start")) {
            self.unviable.insert(mutant);
        } else if let Some(source) = self.sources.get(file) {
            let in_match =
                |(_, mutant): &(u32, &Mutant)| mutant.file == file && source.is_in_match(number("line_start"), mutant);
            self.unviable.extend((0..).zip(self.mutants).filter(in_match).map(|(number, _)| number));
        }
        Ok(())
    }
}

/// The test programs of a part of the tests, built as they stand in `tree`; `None` if the compiler refuses them.
pub(super) fn programs(tree: &Path, part: &[&str]) -> Result<Option<Programs>> {
    let output = compile(tree, part)?;
    let refused = output.iter().any(|line| error(line).is_some());
    Ok((!refused).then(|| output.iter().filter_map(program).collect()))
}

/// What Cargo says, line by line.
fn compile(tree: &Path, part: &[&str]) -> Result<Vec<Value>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Beside the copy, which is made anew each time.
    cargo.env("CARGO_TARGET_DIR", "../build").env("RUSTFLAGS", "--cap-lints=allow");
    cargo.current_dir(tree).stderr(Stdio::null());
    cargo.args(["test", "--package", "mm", "--no-run", "--quiet", "--message-format", "json"]).args(part);
    let output = cargo.output().context("cannot run cargo")?;
    let lines = String::from_utf8(output.stdout).context("Cargo writes no UTF-8")?;
    let values: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() && !values.iter().any(|value| error(value).is_some()) {
        bail!("cargo test --no-run fails in {}", tree.display());
    }
    Ok(values)
}

fn error(value: &Value) -> Option<&Value> {
    let message = (value["reason"] == "compiler-message").then(|| &value["message"])?;
    let summary = message["spans"].as_array().is_none_or(Vec::is_empty) && message["code"].is_null();
    (message["level"] == "error" && !summary).then_some(message)
}

fn program(value: &Value) -> Option<(String, PathBuf)> {
    let path = value["executable"].as_str()?;
    Some((value["target"]["name"].as_str()?.to_owned(), path.into()))
}
