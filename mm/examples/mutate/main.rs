//! Breaks the mm layer, one rule at a time, and watches the tests of the lying machine go red.
//!
//! Each mutation is a handful of replacements in a copy of the package under `target/mutants`. A
//! mutation that no test notices is a hole in the tests, and the exit status says so. The first test
//! that notices is enough: the others are not waited for. Names on the command line choose mutations
//! by part of their name; `--worlds` asks the small worlds (`tests/worlds`) instead of the model, and prints which of
//! them noticed after how many steps.

mod list;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use list::{MUTATIONS, Mutation};

/// Random programs for each mutation.
const SEEDS: &str = "100";
/// Longer than any run that is going to end, on a busy host as well.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What the tests said of a mutation.
enum Verdict {
    /// These tests failed.
    Caught(Vec<String>),
    /// All passed.
    Survived,
    /// Not a mutation at all: it does not apply, does not compile, or never ends.
    Broken(String),
}

fn main() -> ExitCode {
    let (options, wanted): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|word| word.starts_with("--"));
    let suite = if options.is_empty() { &MODEL } else { &WORLDS };
    let copy = Copy::new(suite).expect("the package can be copied to target/mutants");
    if let verdict @ (Verdict::Caught(_) | Verdict::Broken(_)) = copy.test() {
        println!("the tests fail without any mutation: {}", describe(&verdict));
        return ExitCode::FAILURE;
    }
    let chosen = |mutation: &&Mutation| wanted.is_empty() || wanted.iter().any(|part| mutation.name.contains(part));
    let mut missed = 0;
    for mutation in MUTATIONS.iter().chain(waiting::MUTATIONS).filter(chosen) {
        let verdict = copy.try_out(mutation);
        missed += usize::from(!matches!(verdict, Verdict::Caught(_)));
        println!("{:<58} {}", mutation.name, describe(&verdict));
    }
    println!("{missed} mutations not caught");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Survived => "SURVIVED".to_string(),
        Verdict::Broken(why) => format!("BROKEN: {why}"),
        Verdict::Caught(tests) if tests.is_empty() => "the test program died".to_string(),
        Verdict::Caught(tests) => {
            let shown = tests.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = tests.len().saturating_sub(3);
            if more == 0 { shown } else { format!("{shown} and {more} more") }
        }
    }
}

/// Tests that are asked.
struct Suite {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What a line that tells of a failure begins and ends with.
    line: [&'static str; 2],
}

const MODEL: Suite = Suite { name: "model", arguments: &[], line: ["test ", " ... FAILED"] };
const WORLDS: Suite = Suite { name: "worlds", arguments: &["--nocapture"], line: ["FOUND ", ""] };

/// A workspace of its own that holds nothing but a copy of this package.
struct Copy {
    root: PathBuf,
    suite: &'static Suite,
}

impl Copy {
    fn new(suite: &'static Suite) -> io::Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().expect("the package lies in a workspace");
        let copy = root.join("target/mutants");
        let _ = fs::remove_dir_all(copy.join("mm"));
        for part in ["src", "tests"] {
            copy_tree(&package.join(part), &copy.join("mm").join(part))?;
        }
        fs::copy(package.join("Cargo.toml"), copy.join("mm/Cargo.toml"))?;
        fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
        fs::write(copy.join("Cargo.toml"), workspace_of_one(&fs::read_to_string(root.join("Cargo.toml"))?))?;
        Ok(Self { root: copy, suite })
    }

    fn try_out(&self, mutation: &Mutation) -> Verdict {
        let mut originals = Vec::new();
        let mut verdict = None;
        for (file, from, to) in mutation.edits {
            let path = self.root.join("mm/src").join(file);
            let source = fs::read_to_string(&path).unwrap_or_default();
            if source.matches(from).count() != 1 {
                verdict = Some(Verdict::Broken(format!("{file} does not have exactly one `{}`", first_line(from))));
                break;
            }
            fs::write(&path, source.replacen(from, to, 1)).expect("the copy can be written");
            originals.push((path, source));
        }
        let verdict = verdict.unwrap_or_else(|| self.test());
        for (path, source) in originals.into_iter().rev() {
            fs::write(path, source).expect("the copy can be written");
        }
        verdict
    }

    fn test(&self) -> Verdict {
        let (build, log) = (self.root.join("build.log"), self.root.join("test.log"));
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["test", "--package", "mm", "--test", self.suite.name, "--no-run", "--color", "never"]);
        if self.run(cargo, Stdio::null(), output_to(&build), || false) != Some(true) {
            return Verdict::Broken(format!("it does not compile, see {}", build.display()));
        }
        // Run without Cargo in between, so that tests which never end can be ended.
        let built = fs::read_to_string(&build).unwrap_or_default();
        let Some(program) = executable(&built) else {
            return Verdict::Broken("Cargo does not say where the tests are".to_string());
        };
        let noticed = || failures(&fs::read_to_string(&log).unwrap_or_default(), self.suite.line);
        let mut tests = Command::new(self.root.join(program));
        tests.args(self.suite.arguments);
        match self.run(tests, output_to(&log), Stdio::null(), || !noticed().is_empty()) {
            Some(true) => Verdict::Survived,
            Some(false) => Verdict::Caught(noticed()),
            None => Verdict::Broken("the tests never end".to_string()),
        }
    }

    /// Runs to the end; gives its success, or `None` if it took too long. A run that has failed
    /// `enough` is ended.
    fn run(&self, mut command: Command, stdout: Stdio, stderr: Stdio, enough: impl Fn() -> bool) -> Option<bool> {
        command.current_dir(&self.root).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.env("LAZULI_SEEDS", SEEDS).env("LAZULI_WORLDS", "all").env("RUST_BACKTRACE", "0");
        let mut child = command.spawn().ok()?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().ok()? {
                return Some(status.success());
            }
            if enough() {
                let _ = child.kill();
                let _ = child.wait();
                return Some(false);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

fn output_to(log: &Path) -> Stdio {
    fs::File::create(log).map_or(Stdio::null(), Stdio::from)
}

/// The test program that Cargo says it built: `Executable tests/NAME/main.rs (path)`.
fn executable(log: &str) -> Option<&str> {
    let line = log.lines().find(|line| line.trim_start().starts_with("Executable"))?;
    line.split_once('(')?.1.split_once(')').map(|(path, _)| path)
}

/// What has failed so far.
fn failures(log: &str, [begin, end]: [&str; 2]) -> Vec<String> {
    let failed = |line: &str| Some(line.strip_prefix(begin)?.strip_suffix(end)?.to_string());
    log.lines().filter_map(failed).collect()
}

/// The workspace's manifest with this package as its only member.
fn workspace_of_one(manifest: &str) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            keep = line.starts_with("[workspace") || line == "[profile.dev]";
        }
        let line = if line.starts_with("members") { "members = [\"mm\"]" } else { line };
        if keep && !line.starts_with("default-members") {
            kept += line;
            kept += "\n";
        }
    }
    kept
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.trim_start().lines().next().unwrap_or_default()
}
