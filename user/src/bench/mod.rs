//! The workloads of `lazybench`, and how one of them is run and reported.

mod boot;
mod calls;
pub mod counters;
mod ctx;
mod lifetimes;
pub mod measure;
mod memory;
pub mod options;
pub mod team;

use std::io;

pub use lifetimes::NOOP;
use measure::Sample;

use crate::sys::cpu;
use options::Length;

/// Operations of a `--once` run, and of the trial that `--seconds` plans with.
const FEW: u64 = 4;

type Run = Box<dyn Fn(u64) -> io::Result<(u64, Sample)>>;

/// One thing to measure.
pub struct Workload {
    /// What the result line calls it. The part before the first `-` is its group.
    pub name: String,
    default_ops: u64,
    cpus_needed: usize,
    run: Run,
}

/// What became of a workload.
pub enum Outcome {
    /// Its result line, and the line that tells the same per operation.
    Measured(String),
    /// Why this kernel or machine cannot run it.
    Skipped(String),
}

impl Workload {
    /// `run` gets the wanted number of operations and gives the number done, which may be rounded up.
    fn new(
        name: impl Into<String>,
        default_ops: u64,
        run: impl Fn(u64) -> io::Result<(u64, Sample)> + 'static,
    ) -> Self {
        Self { name: name.into(), default_ops, cpus_needed: 1, run: Box::new(run) }
    }

    fn on_cpus(self, cpus_needed: usize) -> Self {
        Self { cpus_needed, ..self }
    }

    /// Whether the word on the command line means this workload: its name, its group, the start of its
    /// name, or `all`.
    pub fn answers_to(&self, word: &str) -> bool {
        let rest = self.name.strip_prefix(word);
        word == "all" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Runs it for that long.
    pub fn measure(&self, length: Length) -> io::Result<Outcome> {
        let cpus = cpu::allowed()?.len();
        if cpus < self.cpus_needed {
            return Ok(Outcome::Skipped(format!("needs {} CPUs, has {cpus}", self.cpus_needed)));
        }
        let result = self.plan(length).and_then(|ops| (self.run)(ops));
        match result {
            Ok((ops, sample)) => {
                let both = format!("{}\n{}", sample.line(&self.name, ops), sample.per_operation(ops));
                Ok(Outcome::Measured(both))
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Outcome::Skipped(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn plan(&self, length: Length) -> io::Result<u64> {
        Ok(match length {
            Length::Default => self.default_ops,
            Length::Once => FEW,
            Length::Ops(ops) => ops,
            Length::Seconds(seconds) => {
                let (ops, trial) = (self.run)(FEW)?;
                let wanted = u128::from(seconds) * 1_000_000_000 * u128::from(ops);
                (wanted / u128::from(trial.ns.max(1))).clamp(1, u32::MAX.into()) as u64
            }
        })
    }
}

/// All workloads, in the order in which they run.
pub fn workloads(pairs: usize) -> Vec<Workload> {
    [boot::workloads(), calls::workloads(), ctx::workloads(pairs), memory::workloads(), lifetimes::workloads()]
        .into_iter()
        .flatten()
        .collect()
}
