//! One boot: starts QEMU, follows its console, ends it when it hangs, returns the kernel's verdict.

use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::qemu::Machine;
use crate::symbols::{Annotator, Symbols};

/// Exit status of a boot that did not end in time, as timeout(1) has it.
pub(crate) const HANG: i32 = 124;
/// Exit status of a boot that was ended because it had said enough: none that a program can have.
pub(crate) const ENOUGH: i32 = -1;
/// Exit status after ^C, as shells have it.
const INTERRUPTED: i32 = 130;
/// How often a silent guest is checked for its time and for ^C.
const TICK: Duration = Duration::from_millis(100);

/// Set by ^C or a termination signal; read by every boot under way. It guards no other data, so Relaxed will do.
static STOP: AtomicBool = AtomicBool::new(false);

/// Makes ^C and a termination signal end the guests, and then this program, instead of leaving QEMU behind.
pub(crate) fn stop_guests_on_signals() -> Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot catch ^C")
}

/// Whether ^C was seen.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// How a boot ended.
pub(crate) struct Outcome {
    /// The kernel's verdict, [`HANG`], [`ENOUGH`], or 128 and the signal that ended QEMU.
    pub(crate) status: i32,
    /// All that the console said, with names in backtraces.
    pub(crate) console: String,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// The name of the last test that reported.
    pub(crate) fn last_test(&self) -> Option<&str> {
        crate::report::lines(&self.console).last().map(|line| line.name)
    }

    /// What to say of a boot that ran out of time.
    pub(crate) fn hang_text(&self) -> String {
        let seconds = self.elapsed.as_secs();
        let last = self.last_test().map_or("no test had reported".to_owned(), |name| format!("last test seen: {name}"));
        format!("hang: no end within {seconds} s; {last}")
    }
}

/// What somebody types on the console, once it has said something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typing {
    pub(crate) after: &'static str,
    pub(crate) text: &'static str,
}

/// Boots `machine` and waits for its end, at most `limit`. Each piece of console goes to `sink` as it comes.
pub(crate) fn boot(
    machine: &Machine,
    limit: Option<Duration>,
    symbols: Option<&Symbols>,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Outcome> {
    boot_until(machine, limit, symbols, &mut |bytes| {
        sink(bytes);
        ControlFlow::Continue(())
    })
}

/// The same, but `sink` may end the boot, with [`ENOUGH`], once it has seen what it waits for.
pub(crate) fn boot_until(
    machine: &Machine,
    limit: Option<Duration>,
    symbols: Option<&Symbols>,
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Outcome> {
    // A terminal may type to the guest. Anything else (a CI job, a pipe) must not end it by its own end.
    let mut typing = machine.typing;
    let input = match typing {
        Some(_) => Stdio::piped(),
        None if std::io::stdin().is_terminal() => Stdio::inherit(),
        None => Stdio::null(),
    };
    let mut command = machine.command();
    let start = Instant::now();
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}; run `make setup`", command.get_program().to_string_lossy()))?;
    let console = follow(&mut child);
    let mut annotator = Annotator::new(symbols);
    let mut log = Vec::new();
    let ended_by_us = loop {
        if stopped() || limit.is_some_and(|limit| start.elapsed() >= limit) {
            break Some(HANG);
        }
        match console.recv_timeout(TICK) {
            Ok(bytes) => {
                let bytes = annotator.feed(&bytes);
                let enough = sink(&bytes).is_break();
                log.extend(bytes);
                if let Some(now) = typing.take_if(|typing| contains(&log, typing.after.as_bytes()))
                    && let Some(keyboard) = &mut child.stdin
                {
                    keyboard.write_all(now.text.as_bytes()).context("QEMU takes no input")?;
                }
                if enough {
                    break Some(ENOUGH);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    if ended_by_us.is_some() {
        child.kill().context("cannot end QEMU")?;
    }
    let status = verdict(child.wait().context("cannot wait for QEMU")?, ended_by_us);
    Ok(Outcome { status, console: String::from_utf8_lossy(&log).into_owned(), elapsed: start.elapsed() })
}

fn contains(log: &[u8], text: &[u8]) -> bool {
    log.windows(text.len()).any(|window| window == text)
}

/// Both output streams of QEMU in one channel, which closes when QEMU has closed both.
fn follow(child: &mut Child) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    if let Some(stream) = child.stdout.take() {
        forward(stream, sender.clone());
    }
    if let Some(stream) = child.stderr.take() {
        forward(stream, sender);
    }
    receiver
}

fn forward(mut stream: impl Read + Send + 'static, sender: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
}

/// The last lines of a console.
pub(crate) fn tail(console: &str, lines: usize) -> String {
    let all: Vec<&str> = console.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn verdict(status: ExitStatus, ended_by_us: Option<i32>) -> i32 {
    match (ended_by_us, status.code()) {
        _ if stopped() => INTERRUPTED,
        (Some(why), _) => why,
        (None, Some(code)) => code,
        (None, None) => 128 + status.signal().unwrap_or(0),
    }
}
