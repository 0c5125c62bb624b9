//! Runs the tests on one mutant, the quick ones first, until one notices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::build::Programs;
use super::record::Outcome;

/// A program, and which of its tests.
type Stage = (&'static str, &'static [&'static str]);
/// How much of a processor, and how long.
type Limit = (Duration, Duration);

/// The tests, in the order in which they run: a program, and what the names of its tests begin with; without any, those
/// that no other stage of that program names.
const STAGES: &[Stage] = &[
    ("mm", &[]),
    ("model", &["contract::"]),
    ("tables", &[]),
    ("model", &["schemes::", "modifiers::", "lifetimes::", "hotplug::", "patience::", "random::", "litmus::"]),
    ("model", &[]),
];
/// How many of them take less than a second.
const QUICK: usize = 3;
/// Random programs of the model for each mutant.
const SEEDS: &str = "20";
/// No stage is ended before it had so much of a processor, nor so much time.
const LEAST_PROCESSOR: Duration = Duration::from_secs(10);
const LEAST_TIME: Duration = Duration::from_secs(60);
/// How many times as long as without a mutant a stage may take, in either.
const PATIENCE: u32 = 4;

/// What a stage adds to the command line of its program.
fn arguments((program, names): &Stage) -> Vec<&'static str> {
    if !names.is_empty() {
        return names.to_vec();
    }
    let others = STAGES.iter().filter(|(other, _)| other == program).flat_map(|(_, names)| *names);
    others.flat_map(|name| ["--skip", name]).collect()
}

/// What the tests said.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// This test failed.
    Caught(String),
    /// A stage did not end.
    Hangs(String),
    Survived,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Caught(test) => Self::Caught(test),
            Verdict::Hangs(tests) => Self::Caught(format!("{tests} never ends")),
            Verdict::Survived => Self::Survived,
        }
    }
}

/// The test programs, and how long they take without a mutant.
pub(super) struct Trial {
    programs: Programs,
    /// Where each run's output is kept while it runs.
    out: PathBuf,
    limits: Vec<Limit>,
}

impl Trial {
    /// Runs everything once without a mutant; it must pass.
    pub(super) fn new(programs: Programs, out: &Path) -> Result<Self> {
        let mut trial = Self { programs, out: out.to_owned(), limits: Vec::new() };
        for stage in STAGES {
            let never = (Duration::MAX, Duration::MAX);
            let start = Instant::now();
            let (verdict, processor) = trial.stage(&trial.programs, None, stage, never)?;
            let took = start.elapsed();
            anyhow::ensure!(verdict == Verdict::Survived, "without a mutant: {verdict:?}");
            println!("{} {}: {:.1} s without a mutant", stage.0, stage.1.join(" "), took.as_secs_f32());
            let limit = ((processor * PATIENCE).max(LEAST_PROCESSOR), (took * PATIENCE).max(LEAST_TIME));
            trial.limits.push(limit);
        }
        Ok(trial)
    }

    /// What the tests say of a mutant, or only the quick ones.
    pub(super) fn of(&self, number: u32, quick: bool) -> Result<Verdict> {
        self.ask(&self.programs, number, quick)
    }

    /// What these tests say, into which one mutant is built: those stages that run them.
    pub(super) fn of_alone(&self, programs: &Programs, quick: bool) -> Result<Verdict> {
        // Nobody looks at the number.
        self.ask(programs, u32::MAX, quick)
    }

    fn ask(&self, programs: &Programs, number: u32, quick: bool) -> Result<Verdict> {
        let stages = if quick { QUICK } else { STAGES.len() };
        let built = |((program, _), _): &(&Stage, &Limit)| programs.contains_key(*program);
        for (stage, limit) in STAGES.iter().zip(&self.limits).take(stages).filter(built) {
            let (verdict, _) = self.stage(programs, Some(number), stage, *limit)?;
            if verdict != Verdict::Survived {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Survived)
    }

    /// The verdict of one stage, and how much of a processor it took.
    fn stage(
        &self,
        programs: &Programs,
        mutant: Option<u32>,
        stage: &Stage,
        limit: Limit,
    ) -> Result<(Verdict, Duration)> {
        let program = stage.0;
        let path = programs.get(program).with_context(|| format!("Cargo built no tests `{program}`"))?;
        let mut tests = Command::new(path);
        tests.args(arguments(stage)).env("LAZULI_SEEDS", SEEDS).env("RUST_BACKTRACE", "0").env("PROPTEST_CASES", "32");
        tests.stdin(Stdio::null()).stderr(Stdio::null());
        let log = self.out.join(mutant.map_or("sound.log".to_owned(), |number| format!("{number}.log")));
        tests.stdout(File::create(&log).with_context(|| log.display().to_string())?);
        if let Some(number) = mutant {
            tests.env("LAZULI_MUTANT", number.to_string());
        }
        let start = Instant::now();
        let mut child = tests.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        let mut processor = Duration::ZERO;
        let verdict = loop {
            let ended = child.try_wait().context("cannot wait for the tests")?;
            if let Some(test) = first_failure(&log) {
                break Verdict::Caught(test);
            }
            match ended {
                Some(status) if status.success() => break Verdict::Survived,
                Some(_) => break Verdict::Caught(format!("{program} died")),
                None => processor = processor_time(&child).unwrap_or(processor),
            }
            if processor > limit.0 || start.elapsed() > limit.1 {
                break Verdict::Hangs(program.to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        };
        // It may have ended by itself meanwhile.
        let _ = child.kill();
        child.wait().context("cannot wait for the tests")?;
        if mutant.is_some() {
            fs::remove_file(&log).with_context(|| log.display().to_string())?;
        }
        Ok((verdict, processor))
    }
}

fn first_failure(log: &Path) -> Option<String> {
    let log = fs::read(log).ok()?;
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    String::from_utf8_lossy(&log).lines().find_map(failed)
}

/// The time that a program has had on processors: fields 14 and 15 of its `stat`, in hundredths of a second.
fn processor_time(child: &Child) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_runs_what_no_other_does() {
        assert_eq!(arguments(&("tables", &[])), [""; 0]);
        let rest = arguments(&("model", &[]));
        assert!(rest.windows(2).any(|pair| pair == ["--skip", "contract::"]), "{rest:?}");
        assert_eq!(arguments(&("model", &["contract::"])), ["contract::"]);
    }
}
