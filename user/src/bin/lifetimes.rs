//! `lifetimes N`: N processes are forked, exit and are reaped. Memory must come back.
//@ args: 3000
//@ timeout: 240

use std::{process::ExitCode, thread, time::Duration};

use lazuli_user::{
    bench::counters::Counters,
    report::{Failed, Report, Verdict, ensure},
    sys::{
        cpu,
        memory::{Mapping, PAGE},
        process::{self, Ended},
    },
};

/// A gauge of `/proc/lazy_tlb`, if the kernel has it.
const FREE: &str = "free_frames_now";

/// Frames that may be gone: a lazy CPU keeps the root of a dead address space, and when more children than before happen
/// to be alive at a time, caches of the kernel grow. A leak is one per lifetime, or one per some dozen.
const TOLERATED: i64 = 16;

/// Looks at memory, a moment apart: what the last lifetime held may still be on its way back.
const LOOKS: u32 = 10;
const MOMENT: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).map_or(Ok(1000), |word| word.parse::<u64>());
    let Ok(count @ 1..=10_000_000) = wanted else {
        eprintln!("usage: lifetimes N, with N from 1 to 10000000");
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    // Thrice the same: the first third also touches all the memory that this program itself needs, code included.
    let free = (0..3).map(|_| live(count.div_ceil(3)).map(|()| free_frames())).collect::<Result<Vec<_>, _>>();
    println!("lifetimes: {count} done");
    report.add("lifetimes", free.clone().map(drop));
    report.add("frames-come-back", free.and_then(|free| frames_come_back(free[1], free[2])));
    report.end()
}

/// Each lifetime touches memory of its own, on the next CPU.
fn live(count: u64) -> Verdict {
    let cpus = cpu::allowed()?;
    for life in 0..count as usize {
        let child = process::spawn(|| {
            let own = cpu::pin(cpus[life % cpus.len()]).and_then(|()| Mapping::private(8 * PAGE));
            own.map_or(1, |own| {
                (0..8).for_each(|page| own.touch(page));
                0
            })
        })?;
        let ended = process::wait(child)?.1;
        ensure(ended == Ended::Exited(0), || format!("lifetime {life}: {ended:?}"))?;
        if life % 10_000 == 9_999 {
            eprintln!("lifetimes: {}", life + 1);
        }
    }
    Ok(())
}

/// The most frames that are free within a few moments, if the kernel tells.
fn free_frames() -> Option<i64> {
    let look = |_| {
        thread::sleep(MOMENT);
        let gauges = Counters::read().since(&Counters::default());
        gauges.into_iter().find_map(|(name, value)| (name == FREE).then_some(value))
    };
    (0..LOOKS).filter_map(look).max()
}

fn frames_come_back(before: Option<i64>, now: Option<i64>) -> Verdict {
    let (Some(before), Some(now)) = (before, now) else {
        return Err(Failed::Skip(format!("this kernel tells no {FREE}")));
    };
    ensure(now >= before - TOLERATED, || {
        format!("{before} frames were free after two thirds of the lifetimes, {now} are now")
    })
}
