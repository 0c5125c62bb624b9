//! The on-target suite on a real board: pushed to its chain loader over a serial line, or started by its card; judged
//! by what comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::frames::Frames;
use crate::guest::{self, HANG, Outcome};
use crate::image;
use crate::job::{Expect, Job, judge};
use crate::push;
use crate::qemu::Machine;
use crate::report::Tally;
use crate::serial::{Serial, Wire, listen};
use crate::symbols::{Annotator, Symbols};

/// The exit status of a boot that ended well on a line that did not keep what it said.
const BAD_LINE: i32 = 125;

/// Runs the jobs, one after the other, on the board at this port, which waits in its chain loader.
pub(crate) fn run(port: &Path, jobs: &[Job]) -> Result<Tally> {
    let mut wire = Serial::open(port)?;
    println!("waiting for the chain loader on {}", port.display());
    let mut total = Tally::default();
    for (index, job) in jobs.iter().enumerate() {
        let heard = run_one(&mut wire, job);
        let is_reached = heard.is_ok();
        let tally = heard.map_or_else(|error| failure(format!("{error:#}")), |heard| heard.judge(&job.expect));
        report(&format!("[{:>3}/{}]", index + 1, jobs.len()), job, &tally);
        total.add(named(tally, job));
        if guest::stopped() {
            break;
        }
        if !is_reached {
            let left = jobs.len() - index - 1;
            total.failures.extend((left > 0).then(|| format!("{left} more were not run: the board is gone")));
            break;
        }
    }
    Ok(total)
}

/// Listens to what the card of the board at this port starts, and judges it.
pub(crate) fn listen_to_card(port: &Path, job: &Job) -> Result<Tally> {
    let mut wire = Serial::open(port)?;
    println!("listening on {}; now switch the board on", port.display());
    let tally = hear(&mut wire, Duration::from_secs(job.timeout_s), None, &mut |_| {})?.judge(&job.expect);
    report("[1/1]", job, &tally);
    Ok(named(tally, job))
}

fn failure(why: String) -> Tally {
    Tally { failures: vec![why], ..Tally::default() }
}

fn report(place: &str, job: &Job, tally: &Tally) {
    let verdict = if tally.failures.is_empty() { "ok  " } else { "FAIL" };
    println!("{place} {verdict} {:<48} {:>3} passed {:>2} failed", job.name, tally.passed, tally.failures.len());
    tally.failures.iter().for_each(|failure| println!("  {failure}"));
}

fn named(mut tally: Tally, job: &Job) -> Tally {
    tally.failures.iter_mut().for_each(|failure| *failure = format!("{} {failure}", job.name));
    tally
}

/// What came over the line.
pub(crate) struct Heard {
    outcome: Outcome,
    /// What was wrong with the line, if anything.
    fault: Option<String>,
    /// How much of the image had to be sent again.
    pub(crate) repeated: u32,
}

impl Heard {
    /// What it is worth. A line that lost something is a failure, however well the rest went.
    pub(crate) fn judge(&self, expect: &Expect) -> Tally {
        let mut tally = judge(expect, &self.outcome);
        tally.failures.extend(self.fault.clone());
        tally
    }

    /// The same as one outcome.
    pub(crate) fn into_outcome(mut self) -> Outcome {
        if let Some(fault) = self.fault {
            self.outcome.console += &format!("{fault}\n");
            self.outcome.status = if self.outcome.status == 0 { BAD_LINE } else { self.outcome.status };
        }
        self.outcome
    }
}

/// Pushes one job's kernel and hears it to its end.
pub(crate) fn run_one(wire: &mut dyn Wire, job: &Job) -> Result<Heard> {
    let symbols = Symbols::open(&job.elf).ok();
    boot(wire, &job.machine, Duration::from_secs(job.timeout_s), symbols.as_ref(), &mut |_| {})
}

/// Pushes a machine's kernel and hears it to its end, at most `limit` from its start.
pub(crate) fn boot(
    wire: &mut dyn Wire,
    machine: &Machine,
    limit: Duration,
    symbols: Option<&Symbols>,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Heard> {
    let repeated = push::push(wire, &bundle(machine, limit)?)?;
    Ok(Heard { repeated, ..hear(wire, limit, symbols, sink)? })
}

/// Hears a kernel to its end.
pub(crate) fn hear(
    wire: &mut dyn Wire,
    limit: Duration,
    symbols: Option<&Symbols>,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Heard> {
    let start = Instant::now();
    let (mut frames, mut passed_on) = (Frames::default(), 0);
    let status = listen(wire, limit, |bytes| {
        frames.feed(bytes);
        sink(&frames.text.as_bytes()[passed_on..]);
        passed_on = frames.text.len();
        frames.exit_status()
    })?;
    let console = Annotator::new(symbols).feed(frames.text.as_bytes());
    let outcome = Outcome {
        status: status.unwrap_or(HANG),
        console: String::from_utf8_lossy(&console).into_owned(),
        elapsed: start.elapsed(),
    };
    Ok(Heard { outcome, fault: frames.fault(), repeated: 0 })
}

/// What makes a kernel fit for a serial line: each line is guarded, and a run that hangs ends itself.
pub(crate) fn words(machine: &Machine, limit: Duration) -> String {
    let machine = Machine { hardware_end: true, ..machine.clone() };
    format!("frames=on watchdog={} {}", limit.as_secs(), machine.append())
}

/// The machine's kernel, archive and command line as one image. In the end the loader is back.
fn bundle(machine: &Machine, limit: Duration) -> Result<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let archive = machine.initrd.as_deref().map_or_else(|| Ok(Archive::default().bytes()), read)?;
    image::bundle(&read(&machine.kernel)?, &archive, &format!("exit=restart {}", words(machine, limit)), b"")
}
