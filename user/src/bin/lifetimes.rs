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

/// Lifetimes before memory is first looked at: caches of the kernel fill.
const WARM_UP: u64 = 100;

/// How long frames may be on their way back.
const PATIENCE: u32 = 100;

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).map_or(Ok(1000), |word| word.parse());
    let Ok(count @ 1..=10_000_000) = wanted else {
        eprintln!("usage: lifetimes N, with N from 1 to 10000000");
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    let warm = live(WARM_UP);
    let before = free_frames();
    report.add("lifetimes", warm.and_then(|()| live(count)));
    println!("lifetimes: {count} done");
    report.add("frames-come-back", frames_come_back(before));
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

fn free_frames() -> Option<i64> {
    Counters::read().since(&Counters::default()).into_iter().find_map(|(name, value)| (name == FREE).then_some(value))
}

fn frames_come_back(before: Option<i64>) -> Verdict {
    let Some(before) = before else {
        return Err(Failed::Skip(format!("this kernel tells no {FREE}")));
    };
    let mut now = free_frames().unwrap_or(0);
    for _ in 0..PATIENCE {
        if now >= before {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
        now = free_frames().unwrap_or(0);
    }
    Err(Failed::Because(format!("{before} frames were free before, {now} are now")))
}
