//! Mutants of what the compiler computes, constants and `const fn`s: nothing can choose among them at run time, so each is
//! built alone, and no more of it than it takes to notice.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::build;
use super::list::Mutant;
use super::record::Outcome;
use super::trial::{Trial, Verdict};

/// What Cargo is asked to build, one after the other: the unit tests notice most.
const PARTS: &[&[&str]] = &[&["--lib"], &["--test", "tables", "--test", "model"]];

/// What becomes of a mutant in `tree`, a copy of the repository, which is left as it was.
pub(super) fn outcome(tree: &Path, mutant: &Mutant, trial: &Trial, quick: bool) -> Result<Outcome> {
    let path = tree.join(&mutant.file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut mutated = text.clone();
    mutated.replace_range(mutant.range(&text), &mutant.replacement);
    fs::write(&path, mutated)?;
    let outcome = of_parts(tree, trial, quick);
    fs::write(&path, text)?;
    outcome
}

fn of_parts(tree: &Path, trial: &Trial, quick: bool) -> Result<Outcome> {
    for part in PARTS {
        let Some(programs) = build::programs(tree, part)? else { return Ok(Outcome::Unviable) };
        match trial.of_alone(&programs, quick)? {
            Verdict::Survived => {}
            verdict => return Ok(verdict.into()),
        }
    }
    Ok(Outcome::Survived)
}
