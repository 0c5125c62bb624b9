//! The work of `fuzz`: random system calls with nasty arguments, made by children that may die of them.
//!
//! Every child makes a batch of calls that depends on the seed and its number only, so a run can be made again. It
//! counts them in a page that it shares with the parent; when it dies, the parent goes on with the next batch.

mod calls;
mod values;

use std::{
    io,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::sys::{
    self,
    memory::SharedPage,
    process::{self, Ended},
};
use values::{Random, Values};

/// Calls that one child makes if it lives so long.
const BATCH: u64 = 100;

/// How often the parent looks, and how long a child may go without a new call before it is taken for stuck.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls made.
    pub calls: u64,
    /// Children that a signal ended.
    pub killed: u64,
}

/// Makes `count` calls; tells of every ten thousand.
pub fn run(seed: u64, count: u64) -> io::Result<Tally> {
    let page = SharedPage::new()?;
    let mut tally = Tally::default();
    for number in 0.. {
        let batch = BATCH.min(count - tally.calls);
        page[0].store(0, Ordering::Relaxed);
        let child = process::spawn(|| misbehave(Random::new(seed, number), batch, &page))?;
        let killed = watch(child, &page)?;
        // A child may have written anything here. It did make a call, and no more than it was asked for.
        let made = u64::from(page[0].load(Ordering::Relaxed)).clamp(1, batch);
        if (tally.calls + made) / 10_000 > tally.calls / 10_000 {
            println!("fuzz: {} calls, {} children killed so far", tally.calls + made, tally.killed);
        }
        tally.calls += made;
        tally.killed += u64::from(killed);
        if tally.calls >= count {
            break;
        }
    }
    Ok(tally)
}

/// The child: it must not allocate or print once the calls have begun, because they may have broken anything.
fn misbehave(random: Random, batch: u64, page: &SharedPage) -> i32 {
    let Ok(mut values) = Values::prepare(random) else {
        return 1;
    };
    for call in 1..=batch {
        let (number, arguments) = calls::choose(&mut values);
        // Before the call, because it may not return. Read by the parent when this child is gone.
        page[0].store(call as u32, Ordering::Relaxed);
        calls::make(number, arguments);
    }
    0
}

/// Waits for the child, whatever else there is to reap; ends it if it is stuck. Says whether a signal ended it.
fn watch(child: i32, page: &SharedPage) -> io::Result<bool> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        // Most children are quick: give them this CPU before sleeping.
        sys::sched_yield();
        if let Some(ended) = process::try_wait(child)? {
            reap_strays();
            return Ok(matches!(ended, Ended::Killed(_)));
        }
        thread::sleep(LOOK);
        let now = page[0].load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            // SAFETY: the child is ours and not reaped yet, so the number names it.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }
}

/// Children of children come to the first process when their parents die: this one, if it is that.
fn reap_strays() {
    while let Ok(Some(_)) = process::try_wait(-1) {}
}
