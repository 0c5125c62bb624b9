//! The on-target suite on a real board: pushed to its chain loader over a serial line, judged by what comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::frames::Frames;
use crate::guest::{self, HANG, Outcome};
use crate::image;
use crate::job::{Job, judge};
use crate::push;
use crate::qemu::Machine;
use crate::report::Tally;
use crate::serial::{Serial, Wire, listen};

/// What makes a kernel fit for it: each line guarded, and the loader back at the end.
const LINE: &str = "frames=on exit=restart";

/// Runs the jobs, one after the other, on the board at this port.
pub(crate) fn run(port: &Path, jobs: &[Job]) -> Result<Tally> {
    let mut wire = Serial::open(port)?;
    println!("waiting for the chain loader on {}", port.display());
    let mut total = Tally::default();
    for (index, job) in jobs.iter().enumerate() {
        let (mut tally, seconds, _) = run_one(&mut wire, job)?;
        let verdict = if tally.failures.is_empty() { "ok  " } else { "FAIL" };
        println!(
            "[{:>3}/{}] {verdict} {:<48} {:>3} passed {:>2} failed {seconds:>5.1} s",
            index + 1,
            jobs.len(),
            job.name,
            tally.passed,
            tally.failures.len()
        );
        tally.failures.iter_mut().for_each(|failure| *failure = format!("{} {failure}", job.name));
        tally.failures.iter().for_each(|failure| println!("  {failure}"));
        total.add(tally);
        if guest::stopped() {
            break;
        }
    }
    Ok(total)
}

/// Pushes one kernel and judges its console. Also says how long that took, and how much was sent again.
pub(crate) fn run_one(wire: &mut dyn Wire, job: &Job) -> Result<(Tally, f64, u32)> {
    let start = Instant::now();
    let repeated = push::push(wire, &bundle(&job.machine)?)?;
    let mut frames = Frames::default();
    let limit = Duration::from_secs(job.timeout_s);
    let status = listen(wire, limit, |bytes| {
        frames.feed(bytes);
        frames.exit_status()
    })?;
    let elapsed = start.elapsed();
    let fault = frames.fault();
    let outcome = Outcome { status: status.unwrap_or(HANG), console: frames.text, elapsed };
    let mut tally = judge(&job.expect, &outcome);
    tally.failures.extend(fault);
    Ok((tally, elapsed.as_secs_f64(), repeated))
}

/// The machine's kernel, archive and command line as one image.
fn bundle(machine: &Machine) -> Result<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let archive = machine.initrd.as_deref().map_or_else(|| Ok(Archive::default().bytes()), read)?;
    let machine = Machine { hardware_end: true, ..machine.clone() };
    image::bundle(&read(&machine.kernel)?, &archive, &format!("{LINE} {}", machine.append()), b"")
}
