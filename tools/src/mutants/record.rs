//! What became of each mutant: the log that a later run goes on from, and the page that is committed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::list::Mutant;

/// The least part of the viable ones that has to be caught, in percent.
const BAR: f64 = 95.0;

/// What a page has at its end about those that were tried after the others.
const SINCE: &str = "\n## Tried since";

/// What became of one.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Outcome {
    /// By this test.
    Caught(String),
    Survived,
    /// It does not compile.
    Unviable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(test) => write!(f, "caught\t{test}"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::Unviable => f.write_str("unviable"),
        }
    }
}

/// All that is known.
pub(super) struct Record {
    log: File,
    /// By name.
    outcomes: BTreeMap<String, Outcome>,
    /// By key: why it changes nothing.
    equivalent: BTreeMap<String, String>,
}

/// The page, and what it comes to.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) sum: String,
    pub(super) good: bool,
}

impl Record {
    pub(super) fn open(log: &Path, equivalent: &Path) -> Result<Self> {
        let known = fs::read_to_string(log).unwrap_or_default();
        let outcomes = known.lines().filter_map(outcome).collect();
        let reasons = fs::read_to_string(equivalent).with_context(|| equivalent.display().to_string())?;
        let equivalent = reasons.lines().filter(|line| !line.starts_with('#')).filter_map(reason).collect();
        let log = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        Ok(Self { log, outcomes, equivalent })
    }

    /// Whether it was caught before, or refused by the compiler.
    pub(super) fn is_settled(&self, mutant: &Mutant) -> bool {
        matches!(self.outcomes.get(&mutant.name), Some(Outcome::Caught(_) | Outcome::Unviable))
    }

    /// Whether it was tried before.
    pub(super) fn is_known(&self, mutant: &Mutant) -> bool {
        self.outcomes.contains_key(&mutant.name)
    }

    /// Whether there is a reason why it changes nothing.
    pub(super) fn is_equivalent(&self, mutant: &Mutant) -> bool {
        self.equivalent.contains_key(&mutant.key())
    }

    /// Whether it is known not to compile.
    pub(super) fn is_unviable(&self, mutant: &Mutant) -> bool {
        self.outcomes.get(&mutant.name) == Some(&Outcome::Unviable)
    }

    pub(super) fn note(&mut self, mutant: &Mutant, outcome: Outcome) -> Result<()> {
        writeln!(self.log, "{}\t{outcome}", mutant.name).context("cannot write the log")?;
        self.outcomes.insert(mutant.name.clone(), outcome);
        Ok(())
    }

    /// A page that is older, with what became of these since.
    pub(super) fn page_with(&self, page: &str, mutants: &[&Mutant], commit: &str) -> String {
        let older = page.split_once(SINCE).map_or(page, |(older, _)| older);
        let mut text = format!("{older}{SINCE}\n\nThese alone, of {commit}; what stands above is older.\n\n");
        text += "| mutant | what became of it |\n|---|---|\n";
        for mutant in mutants {
            let became = match (self.outcomes.get(&mutant.name), self.equivalent.get(&mutant.key())) {
                (None, _) => "not tried".to_owned(),
                (Some(Outcome::Caught(test)), _) => format!("caught by `{test}`"),
                (Some(Outcome::Unviable), _) => "does not compile".to_owned(),
                (Some(Outcome::Survived), Some(why)) => format!("changes nothing: {why}"),
                (Some(Outcome::Survived), None) => "**missed**".to_owned(),
            };
            text += &format!("| `{}` | {became} |\n", mutant.name.replace('|', "\\|"));
        }
        text
    }

    /// The sums, file by file, and the survivors.
    pub(super) fn page(&self, mutants: &[Mutant], commit: &str) -> Page {
        let mut files: BTreeMap<&str, Sums> = BTreeMap::new();
        let (mut same, mut missed) = (String::new(), String::new());
        for mutant in mutants {
            let sums = files.entry(&mutant.file).or_default();
            match self.outcomes.get(&mutant.name) {
                None => sums.untried += 1,
                Some(Outcome::Unviable) => sums.unviable += 1,
                Some(Outcome::Caught(_)) => sums.caught += 1,
                Some(Outcome::Survived) => match self.equivalent.get(&mutant.key()) {
                    Some(why) => {
                        sums.equivalent += 1;
                        same += &format!("| `{}` | {why} |\n", mutant.name.replace('|', "\\|"));
                    }
                    None => {
                        sums.missed += 1;
                        missed += &format!("* `{}`\n", mutant.name);
                    }
                },
            }
        }
        let all = files.values().fold(Sums::default(), |all, some| all.plus(some));
        let sum = format!(
            "{} mutants: {} do not compile, {} not tried, {} change nothing; of the other {} tried {} are caught: {:.1} %",
            mutants.len(),
            all.unviable,
            all.untried,
            all.equivalent,
            all.caught + all.missed,
            all.caught,
            all.score(),
        );
        let mut text = format!("# Mutants of `mm`\n\nMade by `make mutants`, of {commit}. {sum}.\n\n");
        text += "| file | caught | missed | change nothing | do not compile | not tried |\n|---|---:|---:|---:|---:|---:|\n";
        for (file, sums) in files {
            text += &sums.row(file);
        }
        let section =
            |title: &str, body: String| if body.is_empty() { body } else { format!("\n## {title}\n\n{body}") };
        text += &section("Missed", missed);
        let heads = "| mutant | why nothing can tell |\n|---|---|\n";
        text += &section("Those that change nothing", if same.is_empty() { same } else { heads.to_owned() + &same });
        Page { text, sum, good: all.score() >= BAR && all.untried == 0 }
    }
}

/// Numbers of mutants.
#[derive(Default)]
struct Sums {
    caught: usize,
    missed: usize,
    equivalent: usize,
    unviable: usize,
    untried: usize,
}

impl Sums {
    fn plus(self, other: &Self) -> Self {
        Self {
            caught: self.caught + other.caught,
            missed: self.missed + other.missed,
            equivalent: self.equivalent + other.equivalent,
            unviable: self.unviable + other.unviable,
            untried: self.untried + other.untried,
        }
    }

    fn score(&self) -> f64 {
        100.0 * self.caught as f64 / (self.caught + self.missed).max(1) as f64
    }

    fn row(&self, file: &str) -> String {
        let Self { caught, missed, equivalent, unviable, untried } = self;
        format!("| `{file}` | {caught} | {missed} | {equivalent} | {unviable} | {untried} |\n")
    }
}

fn outcome(line: &str) -> Option<(String, Outcome)> {
    let mut fields = line.split('\t');
    let name = fields.next()?.to_owned();
    let outcome = match fields.next()? {
        "caught" => Outcome::Caught(fields.next()?.to_owned()),
        "SURVIVED" => Outcome::Survived,
        _ => Outcome::Unviable,
    };
    Some((name, outcome))
}

/// A line of the list of equivalent mutants: key and reason. The key may name the operator `|`, the reason may not.
fn reason(line: &str) -> Option<(String, String)> {
    let (key, why) = line.rsplit_once(" | ")?;
    Some((key.trim().to_owned(), why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn a_key_may_name_the_bar() {
        let (key, why) = reason("mm/src/a.rs: replace & with | in f | because").unwrap();
        assert_eq!((key.as_str(), why.as_str()), ("mm/src/a.rs: replace & with | in f", "because"));
        assert_eq!(reason("no reason"), None);
    }
}
