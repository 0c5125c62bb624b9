//! What Cargo builds and tests: the test kernels, and the sums of the host's own tests.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::report::Tally;

const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
const USER_TARGET: &str = "aarch64-unknown-linux-musl";

/// A test that Cargo built: its name, its ELF file, its source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestBinary {
    pub(crate) name: String,
    pub(crate) elf: PathBuf,
    pub(crate) source: PathBuf,
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds the kernels of `tests/`, with the fault-injection points that only they have.
pub(crate) fn test_kernels() -> Result<Vec<TestBinary>> {
    let arguments = ["--package", "lazuli", "--target", KERNEL_TARGET, "--features", "fault-points"];
    let mut kernels = build_tests(&arguments)?;
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kernels)
}

/// Builds the unit tests of `user/` as a program for EL0.
pub(crate) fn user_unit_tests() -> Result<PathBuf> {
    let built = build_tests(&["--package", "lazuli-user", "--lib", "--release", "--target", USER_TARGET])?;
    Ok(built.into_iter().next().context("cargo built no unit tests of lazuli-user")?.elf)
}

fn build_tests(arguments: &[&str]) -> Result<Vec<TestBinary>> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--no-run", "--message-format=json-render-diagnostics"]).args(arguments);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests on target do not build: cargo test {}", arguments.join(" "));
    Ok(parse_artifacts(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_artifacts(messages: &str) -> Vec<TestBinary> {
    messages.lines().filter_map(parse_artifact).collect()
}

fn parse_artifact(line: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    is_test.then_some(TestBinary {
        name: text(&message["target"]["name"])?,
        elf: text(&message["executable"])?.into(),
        source: text(&message["target"]["src_path"])?.into(),
    })
}

/// Runs the tests of the packages that run on the host, passing their output through, and adds them up.
pub(crate) fn host_tests() -> Result<Tally> {
    let mut child = cargo().arg("test").stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut tally = Tally::default();
    if let Some(stream) = child.stdout.take() {
        for line in BufReader::new(stream).lines() {
            let line = line.context("cannot read cargo's output")?;
            println!("{line}");
            count(&line, &mut tally);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && tally.failures.is_empty() {
        tally.failures.push("host: cargo test failed before any test did".to_owned());
    }
    Ok(tally)
}

/// Reads one line of cargo's test output: `test NAME ... FAILED`, or a sum.
fn count(line: &str, tally: &mut Tally) {
    if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
        tally.failures.push(format!("host: {name}"));
    } else if let Some(sum) = line.strip_prefix("test result: ") {
        let number = |word: &str| {
            let before = sum.split_once(word)?.0;
            before.rsplit([' ', '.', ';']).find(|part| !part.is_empty())?.parse().ok()
        };
        tally.passed += number(" passed").unwrap_or(0);
        tally.skipped += number(" ignored").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_are_taken_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":true},"target":{"name":"smp","src_path":"/s/tests/smp.rs"},"executable":"/t/smp-1"}
{"reason":"compiler-artifact","profile":{"test":false},"target":{"name":"lazuli","src_path":"/s/src/main.rs"},"executable":"/t/lazuli"}
{"reason":"compiler-artifact","profile":{"test":true},"target":{"name":"boot","src_path":"/s/tests/boot.rs"},"executable":"/t/boot-2"}
{"reason":"build-finished","success":true}
not json"#;
        let seen = parse_artifacts(messages);
        assert_eq!(seen.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["smp", "boot"]);
        assert_eq!(seen[0].elf, PathBuf::from("/t/smp-1"));
    }

    #[test]
    fn cargos_sums_are_added() {
        let mut tally = Tally::default();
        let output = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\n\
            test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        output.lines().for_each(|line| count(line, &mut tally));
        assert_eq!((tally.passed, tally.skipped, tally.failures), (7, 4, vec!["host: c".to_owned()]));
    }
}
