//! `lazuli litmus`: the orderings that comments rely on, judged by Arm's memory model.
//!
//! Each file of mm/litmus is a small concurrent program and an outcome that must never happen. herd7 says whether the
//! model allows it: never as written, and sometimes without any one of its barriers. So a barrier that is not
//! needed is noticed, too, and so is a condition that nothing can reach.

mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use text::{Litmus, verdict};

/// Which tests, and who judges them.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder with the tests
    folder: PathBuf,
    /// The herd7 to run; `sh tools/setup.sh herd` fetches it
    #[arg(long, default_value = "build/herd/herd7")]
    herd: PathBuf,
    /// Where the tests without a barrier are written
    #[arg(long, default_value = "build/litmus")]
    out: PathBuf,
}

/// Judges all; says whether every verdict is as it should be.
pub(crate) fn run(options: &Options) -> Result<bool> {
    fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let entries = fs::read_dir(&options.folder).with_context(|| format!("cannot read {}", options.folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "litmus"));
    files.sort();
    ensure!(!files.is_empty(), "no test in {}", options.folder.display());
    let (mut verdicts, mut wrong) = (0, 0);
    for file in &files {
        let (some, bad) = judge(options, file).with_context(|| file.display().to_string())?;
        verdicts += some;
        wrong += bad;
    }
    println!("{} litmus tests, {verdicts} verdicts, {wrong} of them wrong", files.len());
    Ok(wrong == 0)
}

/// How many verdicts there are on a test, and how many of them are wrong.
fn judge(options: &Options, file: &Path) -> Result<(usize, usize)> {
    let litmus: Litmus = crate::read(file).and_then(|bytes| String::from_utf8(bytes)?.parse())?;
    litmus.check_sequences()?;
    let weakened = litmus.weakened();
    ensure!(!weakened.is_empty(), "it has nothing that orders");
    let herd = |name: &str, text: &str| {
        let file = options.out.join(format!("{name}.litmus"));
        crate::write(&file, text.as_bytes())?;
        let output = Command::new(&options.herd).args(["-variant", &litmus.variant]).arg(&file).output();
        let output = output.with_context(|| format!("cannot run {}; see `make litmus`", options.herd.display()))?;
        verdict(name, &(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)))
    };
    let mut wrong = 0;
    let mut say = |what: &str, verdict: &str, expected: &str| {
        let good = verdict == expected;
        wrong += usize::from(!good);
        println!("{what:<60} {verdict}{}", if good { String::new() } else { format!(", not {expected}: WRONG") });
    };
    println!("{}: {}", litmus.name(), litmus.claim());
    say("  as written", &herd(litmus.name(), litmus.text())?, "Never");
    for (number, (what, text)) in weakened.iter().enumerate() {
        say(&format!("  {what}"), &herd(&format!("{}-{}", litmus.name(), number + 1), text)?, "Sometimes");
    }
    Ok((weakened.len() + 1, wrong))
}
