//! The frames that the kernel has free, if it tells: what must come back when programs end.

use std::{thread, time::Duration};

use crate::bench::counters::Counters;
use crate::report::{Failed, Verdict, ensure};

/// A gauge of `/proc/lazy_tlb`, if the kernel has it.
const FREE: &str = "free_frames_now";

/// Frames that may be gone: a lazy CPU keeps the root of a dead address space, and when more children than before happen
/// to be alive at a time, caches of the kernel grow. A leak is one per lifetime, or one per some dozen.
const TOLERATED: i64 = 16;

/// Looks at memory, a moment apart: what the last lifetime held may still be on its way back.
const LOOKS: u32 = 10;
const MOMENT: Duration = Duration::from_millis(5);

/// The most frames that are free within a few moments, if the kernel tells.
pub fn free() -> Option<i64> {
    let look = |_| {
        thread::sleep(MOMENT);
        let gauges = Counters::read().since(&Counters::default());
        gauges.into_iter().find_map(|(name, value)| (name == FREE).then_some(value))
    };
    (0..LOOKS).filter_map(look).max()
}

/// Whether as many are free now as before something that should have given all of its frames back.
///
/// # Errors
/// If they are not, or if this kernel does not tell.
pub fn come_back(before: Option<i64>, now: Option<i64>) -> Verdict {
    let (Some(before), Some(now)) = (before, now) else {
        return Err(Failed::Skip(format!("this kernel tells no {FREE}")));
    };
    ensure(now >= before - TOLERATED, || format!("{before} frames were free before, {now} are now"))
}
