//! A copy of the package that can be broken, built and tested.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use super::list::Mutation;
use super::{Suite, Verdict};

/// Random programs for each mutation.
const SEEDS: &str = "100";
/// Longer than any run that is going to end, on a busy host as well.
const PATIENCE: Duration = Duration::from_secs(1200);

/// A workspace of its own that holds nothing but a copy of this package.
pub(super) struct Copy {
    root: PathBuf,
    suite: &'static Suite,
}

impl Copy {
    /// The copy of this number, each of which a thread of its own may use.
    pub(super) fn new(suite: &'static Suite, number: usize) -> io::Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().expect("the package lies in a workspace");
        let copy = root.join(format!("target/mutants/{number}"));
        let _ = fs::remove_dir_all(copy.join("mm"));
        for part in ["src", "tests"] {
            copy_tree(&package.join(part), &copy.join("mm").join(part))?;
        }
        fs::copy(package.join("Cargo.toml"), copy.join("mm/Cargo.toml"))?;
        fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
        fs::write(copy.join("Cargo.toml"), workspace_of_one(&fs::read_to_string(root.join("Cargo.toml"))?))?;
        Ok(Self { root: copy, suite })
    }

    /// What the tests say of a mutation.
    pub(super) fn try_out(&self, mutation: &Mutation) -> Verdict {
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
        let by = Some(mutation.by).filter(|_| self.suite.listed);
        let verdict = verdict.unwrap_or_else(|| self.test(by));
        for (path, source) in originals.into_iter().rev() {
            fs::write(path, source).expect("the copy can be written");
        }
        verdict
    }

    /// What the tests say of the copy as it is: the one named, and if it does not notice, all.
    pub(super) fn test(&self, by: Option<&str>) -> Verdict {
        let build = self.root.join("build.log");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["test", "--package", "mm", "--test", self.suite.name, "--no-run", "--color", "never"]);
        if self.run(cargo, Stdio::null(), output_to(&build), || false) != Some(true) {
            return Verdict::Broken(format!("it does not compile, see {}", build.display()));
        }
        // Run without Cargo in between, so that tests which never end can be ended.
        let built = fs::read_to_string(&build).unwrap_or_default();
        let Some(program) = executable(&built).map(|program| self.root.join(program)) else {
            return Verdict::Broken("Cargo does not say where the tests are".to_string());
        };
        let Some(by) = by else { return self.ask(&program, self.suite.arguments) };
        match self.ask(&program, &["--exact", by]) {
            Verdict::Survived => match self.ask(&program, self.suite.arguments) {
                Verdict::Caught(others) => Verdict::Elsewhere(others),
                verdict => verdict,
            },
            Verdict::Caught(tests) if tests.is_empty() => Verdict::Caught(vec![by.to_string()]),
            verdict => verdict,
        }
    }

    fn ask(&self, program: &Path, arguments: &[&str]) -> Verdict {
        let log = self.root.join("test.log");
        let noticed = || failures(&fs::read_to_string(&log).unwrap_or_default(), self.suite.line);
        let mut tests = Command::new(program);
        tests.args(arguments);
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
        // Nobody debugs it, and it builds in half the time.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
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
