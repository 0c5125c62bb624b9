//! The crew: forked processes that do random deeds until the time is up, and one that takes CPUs down and up.

use std::{
    fmt, io,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::deeds::{self, Worker};
use super::hotplug::Hotplug;
use crate::{
    random::Random,
    report::{Failed, Verdict},
    sys::{
        cpu,
        memory::SharedPage,
        process::{self, Ended},
    },
};

/// How often the crew is looked after, and how long a member may take for one deed before it is taken for stuck.
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(180);
/// Members for each CPU, and at most.
const FOR_EACH_CPU: usize = 2;
const MOST: usize = 12;
/// Words of the shared page that a member has: what it does, and how much it has done.
const WORDS: usize = 2;

/// What a crew has done.
pub(super) struct Done {
    deeds: u64,
    hotplugs: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} deeds, {} hotplugs", self.deeds, self.hotplugs)
    }
}

/// A member as its parent sees it.
struct Member {
    number: usize,
    child: i32,
    /// What it had done when it was last seen to have done more, and when that was.
    seen: (u32, Instant),
}

/// Lets a crew work for that time. The same seed and part give each member the same order of deeds.
pub(super) fn run(time: Duration, seed: u64, part: u64) -> Result<Done, Failed> {
    let page = SharedPage::new()?;
    let until = Instant::now() + time;
    let count = (FOR_EACH_CPU * cpu::allowed()?.len()).min(MOST);
    let mut members = Vec::new();
    // The last is the one that changes the number of CPUs.
    for number in 0..=count {
        let random = Random::new(seed, part << 8 | number as u64);
        let child = process::spawn(|| {
            let worked = if number == count {
                Hotplug::new(random).and_then(|own| work(own, number, until, &page))
            } else {
                Worker::new(number, random).and_then(|own| work(own, number, until, &page))
            };
            i32::from(worked.inspect_err(|why| println!("soak: member {number}: {why:?}")).is_err())
        })?;
        members.push(Member { number, child, seen: (0, Instant::now()) });
    }
    while !members.is_empty() {
        thread::sleep(LOOK);
        let mut gone = Vec::new();
        for member in &mut members {
            if look(member, &page)? {
                gone.push(member.number);
            }
        }
        members.retain(|member| !gone.contains(&member.number));
    }
    let done = |number: usize| u64::from(page[number * WORDS + 1].load(Ordering::Relaxed));
    Ok(Done { deeds: (0..count).map(done).sum(), hotplugs: done(count) })
}

/// What a member does over and over.
pub(super) trait Work {
    /// What it is about to do: a number for [`deeds::name`].
    fn choose(&mut self) -> u32;
    /// Does it.
    fn go(&mut self) -> Verdict;
    /// When the time is up.
    fn end(&mut self) -> Verdict;
}

fn work(mut own: impl Work, number: usize, until: Instant, page: &SharedPage) -> Verdict {
    let words = &page[number * WORDS..][..WORDS];
    while Instant::now() < until {
        // Relaxed, both: numbers for the parent to print.
        words[0].store(own.choose(), Ordering::Relaxed);
        own.go()?;
        words[1].fetch_add(1, Ordering::Relaxed);
    }
    own.end()
}

/// Whether a member has ended well; a failure if it has ended badly or not gone on for long.
fn look(member: &mut Member, page: &SharedPage) -> Result<bool, Failed> {
    let what = || {
        let deed = page[member.number * WORDS].load(Ordering::Relaxed);
        format!("member {} in `{}`", member.number, deeds::name(deed))
    };
    match process::try_wait(member.child)? {
        Some(Ended::Exited(0)) => return Ok(true),
        Some(ended) => return Err(Failed::Because(format!("{}: {ended:?}", what()))),
        None => {}
    }
    let done = page[member.number * WORDS + 1].load(Ordering::Relaxed);
    if done != member.seen.0 {
        member.seen = (done, Instant::now());
    } else if member.seen.1.elapsed() > PATIENCE {
        return Err(Failed::Because(format!("hang: {} for {} s", what(), PATIENCE.as_secs())));
    }
    Ok(false)
}

/// Children that end as they should.
pub(super) fn expect(child: io::Result<i32>, ended: Ended) -> Verdict {
    let seen = process::wait(child?)?.1;
    if seen == ended { Ok(()) } else { Err(Failed::Because(format!("a child: {seen:?}, not {ended:?}"))) }
}
