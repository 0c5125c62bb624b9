//! The work of `fuzz`: random system calls with nasty arguments, made by children that may die of them.
//!
//! Every child makes a batch of calls that depends on the seed and its number only, so a run can be made again; some do so
//! in several threads at once. It counts them in a page that it shares with the parent; when it dies, the parent goes on with
//! the next batch.

mod calls;
mod values;

use std::{
    fs, io,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::random::Random;
use crate::sys::{
    self,
    memory::SharedPage,
    process::{self, Ended},
};
pub use values::NESTED;
use values::Values;

/// Calls that one child makes if it lives so long, and that it makes as another program.
const BATCH: u32 = 100;
const NESTED_BATCH: u32 = 20;

/// How often the parent looks, and how long a child may go without a new call before it is taken for stuck.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a child that was killed may take to be gone.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls made.
    pub calls: u64,
    /// Children that a signal ended.
    pub killed: u64,
    /// Children that went without a new call for long, and were killed.
    pub stuck: u64,
}

/// Makes `count` calls; tells of every ten thousand.
///
/// # Errors
/// If a child cannot be made, or cannot be ended.
pub fn run(seed: u64, count: u64) -> io::Result<Tally> {
    // For ever: the threads of a child outlive what they were made by.
    let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()?));
    let mut tally = Tally::default();
    for number in 0.. {
        let batch = u64::from(BATCH).min(count - tally.calls) as u32;
        page[0].store(0, Ordering::Relaxed);
        let child = process::spawn(|| misbehave(seed, number, batch, page))?;
        watch(child, page, &mut tally)?;
        // A child may have written anything here. It did make a call, and no more than it was asked for.
        let made = u64::from(page[0].load(Ordering::Relaxed).clamp(1, batch));
        if (tally.calls + made) / 10_000 > tally.calls / 10_000 {
            println!("fuzz: {} calls, {} children killed so far", tally.calls + made, tally.killed);
        }
        tally.calls += made;
        if tally.calls >= count {
            break;
        }
    }
    clear("/tmp");
    Ok(tally)
}

/// What a child does that was executed by a child: a few calls, by its number.
///
/// # Errors
/// If there is no memory.
pub fn nested() -> io::Result<()> {
    let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()?));
    misbehave(std::process::id().into(), 0, NESTED_BATCH, page)
}

/// The child: it must not allocate or print once the calls have begun, because they may have broken anything.
fn misbehave(seed: u64, number: u64, batch: u32, page: &'static SharedPage) -> ! {
    let mut random = Random::new(seed, number << 2);
    let others = random.pick(&[0, 0, 1, 3]);
    let Ok(values) = Values::prepare(random) else {
        process::exit_now(1);
    };
    for other in 1..=others {
        let values = values.another(Random::new(seed, number << 2 | other));
        // Without memory for a thread there are fewer.
        let _ = thread::Builder::new().spawn(move || make_calls(values, batch, page));
    }
    make_calls(values, batch, page)
}

/// Together the threads of a child make as many calls as it shall. Whoever finds that they have ends them all, at once: the
/// first thread may be gone, and what the C library does at the end of a thread may no longer work.
fn make_calls(mut values: Values, batch: u32, page: &SharedPage) -> ! {
    // Counted before the call, because it may not return. Read by the parent when this child is gone.
    while page[0].fetch_add(1, Ordering::Relaxed) < batch {
        let (number, arguments) = calls::choose(&mut values);
        note(page, number, arguments);
        calls::make(number, arguments);
    }
    process::exit_now(0)
}

/// Writes a call down, to be told of a child that is stuck; of several threads, the one that was last.
fn note(page: &SharedPage, number: i64, arguments: [u64; 6]) {
    page[1].store(number as u32, Ordering::Relaxed);
    for (argument, words) in arguments.iter().zip(page[2..].chunks_exact(2)) {
        words[0].store((argument >> 32) as u32, Ordering::Relaxed);
        words[1].store(*argument as u32, Ordering::Relaxed);
    }
}

fn noted(page: &SharedPage) -> String {
    let word = |at: usize| page[at].load(Ordering::Relaxed);
    let argument = |number: usize| u64::from(word(2 * number + 2)) << 32 | u64::from(word(2 * number + 3));
    format!("number {} with {:x?}", word(1), std::array::from_fn::<_, 6, _>(argument))
}

/// Waits for the child, whatever else there is to reap; ends it if it is stuck.
fn watch(child: i32, page: &SharedPage, tally: &mut Tally) -> io::Result<()> {
    let (mut seen, mut since, mut killed) = (0, Instant::now(), false);
    loop {
        // Most children are quick: give them this CPU before sleeping.
        sys::sched_yield();
        if let Some(ended) = process::try_wait(child)? {
            reap_strays();
            tally.killed += u64::from(matches!(ended, Ended::Killed(_)));
            if killed {
                tally.stuck += 1;
                println!("fuzz: child {child} was stuck after {seen} calls; the last was {}", noted(page));
            }
            return Ok(());
        }
        thread::sleep(LOOK);
        let now = page[0].load(Ordering::Relaxed);
        if now != seen && !killed {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > LAST_PATIENCE {
            return Err(io::Error::other(format!(
                "child {child}, after call {now}, does not end, though it was killed"
            )));
        } else if since.elapsed() > PATIENCE {
            killed = true;
            // SAFETY: the child is ours and not reaped yet, so the number names it.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }
}

/// Children of children come to the first process when their parents die: this one, if it is that.
fn reap_strays() {
    while let Ok(Some(_)) = process::try_wait(-1) {}
}

/// Removes what children left: their files take memory.
fn clear(folder: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // What cannot be removed shows as memory that does not come back.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}
