//! `lifetimes N`: N processes are forked, exit and are reaped. Memory must come back.
//@ args: 3000
//@ timeout: 240
//@ sanitize: tlb

use std::process::ExitCode;

use lazuli_user::{
    frames,
    report::{Report, Verdict, ensure},
    sys::{
        cpu,
        memory::{Mapping, PAGE},
        process::{self, Ended},
    },
};

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).map_or(Ok(1000), |word| word.parse::<u64>());
    let Ok(count @ 1..=10_000_000) = wanted else {
        eprintln!("usage: lifetimes N, with N from 1 to 10000000");
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    // Thrice the same: the first third also touches all the memory that this program itself needs, code included.
    let free = (0..3).map(|_| live(count.div_ceil(3)).map(|()| frames::free())).collect::<Result<Vec<_>, _>>();
    println!("lifetimes: {count} done");
    report.add("lifetimes", free.clone().map(drop));
    report.add("frames-come-back", free.and_then(|free| frames::come_back(free[1], free[2])));
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
