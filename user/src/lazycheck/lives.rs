//! Many address spaces on the same CPUs: each sees its own memory, from its birth to its end.

use std::{fs, io, path::Path, thread, time::Duration};

use super::Check;
use crate::{
    kept::Kept,
    report::{Failed, Verdict, ensure},
    sys::{
        cpu,
        memory::{Mapping, PAGE},
        process::{self, Ended},
        sched_yield,
    },
};

pub(super) const CHECKS: &[Check] = &[
    ("memory-stays-across-sleep", across_sleep),
    ("memory-stays-across-yields", across_yields),
    ("memory-stays-across-cpus", across_cpus),
    ("many-alive-at-once", many_alive),
    ("many-in-a-row", many_in_a_row),
    ("exit-after-a-walk", exit_after_a_walk),
    ("exit-over-sleeping-threads", exit_over_sleepers),
    ("exec-after-a-walk", exec_after_a_walk),
    ("borrowed-by-kernel-threads", borrowed),
];

/// Where a kernel that can do so takes the number of times that a kernel thread shall borrow this address space.
const BORROW: &str = "/proc/lazy_tlb_borrow";

fn children(count: u8, life: impl Fn(u8) -> Verdict) -> io::Result<Vec<i32>> {
    let start = |number| {
        process::spawn(|| match life(number) {
            Ok(()) => 0,
            Err(why) => {
                eprintln!("lazycheck: child {number}: {why:?}");
                1
            }
        })
    };
    (0..count).map(start).collect()
}

fn all_well(children: Vec<i32>) -> Verdict {
    let mut ends = Vec::new();
    for child in children {
        ends.push(process::wait(child)?.1);
    }
    ensure(ends.iter().all(|&end| end == Ended::Exited(0)), || format!("not all children were well: {ends:?}"))
}

/// User, idle, same user: nothing of one's own may change meanwhile, nor may another's shine through.
fn across_sleep() -> Verdict {
    let cpus = cpu::allowed()?;
    all_well(children(2 * cpus.len() as u8, |number| {
        cpu::pin(cpus[usize::from(number) % cpus.len()])?;
        let own = Kept::new(number)?;
        (0..40).try_for_each(|_| {
            thread::sleep(Duration::from_micros(300));
            own.check()
        })
    })?)
}

fn across_yields() -> Verdict {
    let home = cpu::allowed()?[0];
    all_well(children(4, |number| {
        cpu::pin(home)?;
        let own = Kept::new(number)?;
        (0..300).try_for_each(|_| {
            sched_yield();
            own.check()
        })
    })?)
}

fn walk(cpus: &[usize], first: usize, each: impl Fn() -> Verdict) -> Verdict {
    (0..cpus.len()).try_for_each(|step| {
        cpu::pin(cpus[(first + step) % cpus.len()])?;
        each()
    })
}

fn across_cpus() -> Verdict {
    let cpus = cpu::allowed()?;
    all_well(children(6, |number| {
        let own = Kept::new(number)?;
        (0..15).try_for_each(|turn| walk(&cpus, turn + usize::from(number), || own.check()))
    })?)
}

/// More address spaces than CPUs, all alive, all at the same addresses.
fn many_alive() -> Verdict {
    all_well(children(40, |number| {
        let own = Kept::new(number)?;
        (0..10).try_for_each(|_| {
            thread::sleep(Duration::from_millis(1));
            own.check()
        })
    })?)
}

/// More address spaces than there are 8-bit ASIDs. Fresh memory is zero, whoever had the number before.
fn many_in_a_row() -> Verdict {
    let cpus = cpu::allowed()?;
    for life in 0..300usize {
        all_well(children(1, |_| {
            cpu::pin(cpus[life % cpus.len()])?;
            let fresh = Mapping::private(16 * PAGE)?;
            // SAFETY: the first byte of a readable mapping.
            let found = unsafe { fresh.start().read_volatile() };
            ensure(found == 0, || format!("fresh memory holds {found}"))?;
            drop(fresh);
            Kept::new(life as u8)?.check()
        })?)?;
    }
    Ok(())
}

fn exit_after_a_walk() -> Verdict {
    let cpus = cpu::allowed()?;
    let kept = Kept::new(77)?;
    for life in 0..50 {
        all_well(children(1, |number| {
            let own = Kept::new(number)?;
            walk(&cpus, life, || own.check())
        })?)?;
        kept.check()?;
    }
    Ok(())
}

/// The process ends while its threads sleep on other CPUs, which may keep its address space loaded.
fn exit_over_sleepers() -> Verdict {
    let cpus = cpu::allowed()?;
    let kept = Kept::new(78)?;
    for _ in 0..20 {
        all_well(children(1, |number| {
            let own = Kept::new(number)?;
            let (told, mut tell) = io::pipe()?;
            for &home in &cpus {
                let mut tell = tell.try_clone()?;
                thread::Builder::new().spawn(move || {
                    let moved = cpu::pin(home).is_ok();
                    io::Write::write_all(&mut tell, &[u8::from(moved)]).expect("the pipe is open");
                    loop {
                        thread::park();
                    }
                })?;
            }
            let mut answers = vec![0; cpus.len()];
            io::Read::read_exact(&mut &told, &mut answers)?;
            io::Write::flush(&mut tell)?;
            ensure(answers.iter().all(|&moved| moved == 1), || "a thread could not move".to_string())?;
            own.check()
        })?)?;
        kept.check()?;
    }
    Ok(())
}

fn exec_after_a_walk() -> Verdict {
    let path = std::env::current_exe()?.to_string_lossy().into_owned();
    let cpus = cpu::allowed()?;
    let kept = Kept::new(79)?;
    for life in 0..20 {
        walk(&cpus, life, || kept.check())?;
        let child = process::spawn_program(&path, &[&path, "--noop"])?;
        match process::wait(child)?.1 {
            Ended::Exited(0) => kept.check()?,
            Ended::Exited(126) => return Err(Failed::Skip(format!("this kernel does not know the format of {path}"))),
            other => return Err(Failed::Because(format!("the new program should exit with 0, but: {other:?}"))),
        }
    }
    cpu::pin_to(&cpus)?;
    Ok(())
}

fn borrowed() -> Verdict {
    if !Path::new(BORROW).exists() {
        return Err(Failed::Skip(format!("this kernel has no {BORROW}")));
    }
    let cpus = cpu::allowed()?;
    all_well(children(cpus.len() as u8, |number| {
        let own = Kept::new(number)?;
        walk(&cpus, number.into(), || {
            fs::write(BORROW, "20")?;
            own.check()
        })
    })?)
}
