//! One boot that is to be judged: what it boots, what must come of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest::{self, ENOUGH, HANG, Outcome};
use crate::qemu::Machine;
use crate::report::Tally;
use crate::sanitizer;
use crate::symbols::Symbols;
use crate::trace;

/// The kernel's exit status after a panic.
const PANIC: i32 = 101;

/// What makes a boot good.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// It reports tests, and all passed.
    Report,
    /// It ends with that exit status and the console says each of these.
    End(i32, Vec<String>),
    /// It ends well, and what it recorded becomes a sound file in which each of these events occurs.
    Trace(Vec<String>),
    /// It ends with failure, by its own will, and the console says each of these.
    Refusal(Vec<String>),
    /// The console says each of these, and there the machine stands: it does not know how it could be switched off.
    Halt(Vec<String>),
    /// The kernel panics, says each of these, and all other CPUs stop but those of which one of these says otherwise.
    Panic(Vec<String>),
}

/// What a panic says of a CPU that it could not stop.
const DID_NOT_STOP: &str = "did not stop";

/// One boot.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    /// The kernel's ELF file, for the symbols.
    pub(crate) elf: PathBuf,
    pub(crate) timeout_s: u64,
    pub(crate) expect: Expect,
}

/// A boot that was judged.
pub(crate) struct Judged {
    pub(crate) tally: Tally,
    pub(crate) outcome: Outcome,
}

impl Job {
    /// Boots and judges. The console is kept in the folder `logs`.
    pub(crate) fn run(&self, logs: &Path, sink: &mut dyn FnMut(&[u8])) -> Result<Judged> {
        // Kernels without debug information are judged all the same.
        let symbols = Symbols::open(&self.elf).ok();
        let limit = Duration::from_secs(self.timeout_s);
        let mut heard = String::new();
        let mut watch = |bytes: &[u8]| {
            sink(bytes);
            let Expect::Halt(texts) = &self.expect else { return ControlFlow::Continue(()) };
            heard.push_str(&String::from_utf8_lossy(bytes));
            let all = texts.iter().all(|text| heard.contains(text));
            if all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = guest::boot_until(&self.machine, Some(limit), symbols.as_ref(), &mut watch)?;
        let log = logs.join(format!("{}.log", self.name));
        let text = format!("{}\n{}", self.machine.shell_line(), outcome.console);
        std::fs::write(&log, text).with_context(|| format!("cannot write {}", log.display()))?;
        let mut tally = judge(&self.expect, &outcome);
        if self.machine.sanitizer.is_some() {
            tally.failures.extend(sanitizer::complaint(&outcome.console));
        }
        Ok(Judged { tally, outcome })
    }
}

/// What one boot is worth.
pub(crate) fn judge(expect: &Expect, outcome: &Outcome) -> Tally {
    if outcome.status == HANG {
        let mut tally = Tally::of_boot(&outcome.console, 1);
        tally.failures = vec![outcome.hang_text()];
        return tally;
    }
    let texts = match expect {
        Expect::Report => return Tally::of_boot(&outcome.console, outcome.status),
        Expect::Trace(_) => &Vec::new(),
        Expect::End(_, texts) | Expect::Refusal(texts) | Expect::Halt(texts) | Expect::Panic(texts) => texts,
    };
    let missing = texts.iter().filter(|text| !outcome.console.contains(*text));
    let mut failures: Vec<_> = missing.map(|text| format!("the console does not say `{text}`")).collect();
    match (expect, outcome.status) {
        (Expect::End(wanted, _), status) if status != *wanted => {
            failures.push(format!("exit status {status} instead of {wanted}"));
        }
        (Expect::Trace(_), status @ 1..) => failures.push(format!("exit status {status}")),
        (Expect::Trace(events), _) => {
            failures.extend(trace::judge(&outcome.console, events).err().map(|error| format!("{error:#}")));
        }
        (Expect::Refusal(_), PANIC) => failures.push("the kernel panicked over bad input".to_owned()),
        (Expect::Refusal(_), status) if status == 0 || status > HANG => {
            failures.push(format!("exit status {status} instead of a refusal"));
        }
        (Expect::Halt(_), status) if status != ENOUGH => failures.push(format!("it ended with exit status {status}")),
        (Expect::Panic(_), status) => {
            if status != PANIC {
                failures.push(format!("exit status {status} instead of a panic"));
            }
            let named = texts.iter().filter(|text| text.contains(DID_NOT_STOP)).count();
            if outcome.console.matches(DID_NOT_STOP).count() > named {
                failures.push("another CPU went on after the panic".to_owned());
            }
        }
        _ => {}
    }
    // One boot that shows one thing is one test, however much of it is wrong.
    let passed = usize::from(failures.is_empty());
    let failures = if failures.is_empty() { Vec::new() } else { vec![failures.join("; ")] };
    Tally { passed, skipped: 0, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: i32, console: &str) -> Outcome {
        Outcome { status, console: console.to_owned(), elapsed: Duration::from_secs(60) }
    }

    #[test]
    fn a_hang_is_one_failure_that_names_the_last_test() {
        let tally = judge(&Expect::Report, &outcome(HANG, "ok a\nok b\n"));
        assert_eq!(tally.passed, 2);
        assert_eq!(tally.failures, ["hang: no end within 60 s; last test seen: b"]);
        let silent = judge(&Expect::Refusal(vec![]), &outcome(HANG, ""));
        assert_eq!(silent.failures, ["hang: no end within 60 s; no test had reported"]);
    }

    #[test]
    fn a_refusal_is_held_to_its_words_and_to_its_status() {
        let expect = Expect::Refusal(vec!["lazy_tlb".into(), "refcount".into()]);
        let why = |status, console| judge(&expect, &outcome(status, console)).failures.join("\n");
        assert_eq!(why(1, "lazy_tlb= is one of refcount"), "");
        assert_eq!(why(1, "lazy_tlb"), "the console does not say `refcount`");
        assert_eq!(why(PANIC, "lazy_tlb refcount"), "the kernel panicked over bad input");
        assert_eq!(why(139, "lazy_tlb refcount"), "exit status 139 instead of a refusal");
        assert_eq!(
            why(0, ""),
            "the console does not say `lazy_tlb`; the console does not say `refcount`; exit status 0 instead of a refusal"
        );
    }

    #[test]
    fn a_halt_is_ended_by_us_and_a_panic_by_the_kernel() {
        let halt = Expect::Halt(vec!["no device tree".into()]);
        let good = |expect, status, console| judge(expect, &outcome(status, console)).failures.is_empty();
        assert!(good(&halt, ENOUGH, "no device tree"));
        assert!(!good(&halt, 1, "no device tree"));
        assert!(!good(&halt, HANG, ""));
        let panic = Expect::Panic(vec!["on purpose".into()]);
        assert!(good(&panic, PANIC, "KERNEL PANIC on CPU 1: on purpose"));
        assert!(!good(&panic, PANIC, "KERNEL PANIC on CPU 1: on purpose\nCPU 2 did not stop"));
        let deaf = Expect::Panic(vec!["CPU 2 did not stop".into()]);
        assert!(good(&deaf, PANIC, "CPU 2 did not stop"));
        assert!(!good(&deaf, PANIC, "CPU 2 did not stop\nCPU 3 did not stop"));
        assert!(!good(&panic, 1, "KERNEL PANIC on CPU 1: on purpose"));
    }

    #[test]
    fn an_end_is_held_to_its_words_and_to_its_status() {
        let expect = Expect::End(7, vec!["seven".into()]);
        let good = |status, console| judge(&expect, &outcome(status, console)).failures.is_empty();
        assert_eq!([good(7, "seven"), good(0, "seven"), good(7, ""), good(101, "")], [true, false, false, false]);
    }
}
