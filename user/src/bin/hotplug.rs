//! `hotplug N`: CPUs are taken down and brought back N times while processes fork, execute, compute in threads and exit.
//! Nothing of that may go wrong, and memory must come back.
//@ smp: 2 4
//@ args: 12
//@ timeout: 240
//@ sanitize: tlb

use std::{
    arch::asm,
    fs::{self, OpenOptions},
    io::{self, Write},
    process::ExitCode,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use lazuli_user::{
    bench::counters::Counters,
    report::{Failed, Report, Verdict, ensure},
    sys::{
        cpu,
        process::{self, Ended},
    },
};

const CPUS: &str = "/sys/devices/system/cpu";
/// As the program's own child it just exits, with this code.
const CHILD: (&str, i32) = ("child", 42);
/// Frames that may be gone at the end: caches of the kernel grow when more than before happens at a time.
const TOLERATED: i64 = 32;
/// How long dead address spaces may take to be freed.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_else(|| "10".to_string());
    if word == CHILD.0 {
        return ExitCode::from(CHILD.1 as u8);
    }
    let Ok(rounds @ 1..=1_000_000) = word.parse::<u32>() else {
        eprintln!("usage: hotplug N, with N from 1 to 1000000");
        return ExitCode::from(2);
    };
    let mut report = Report::default();
    report.add("files", files());
    report.add("nonsense-is-refused", nonsense());
    report.add("registers-survive", registers());
    // Twice the same: the first time also touches all the memory that this program itself needs, code included.
    let free = (0..2).map(|_| under_load(rounds.div_ceil(2)).and_then(|()| free_frames()));
    let free = free.collect::<Result<Vec<_>, _>>();
    report.add("under-load", free.clone().map(drop));
    report.add("frames-come-back", free.and_then(|free| frames_come_back(free[0], free[1])));
    report.end()
}

fn read(file: &str) -> String {
    fs::read_to_string(format!("{CPUS}/{file}")).unwrap_or_else(|error| error.to_string())
}

fn write(file: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(format!("{CPUS}/{file}"))?.write_all(text.as_bytes())
}

/// How many CPUs there are, all online.
fn count() -> usize {
    let online = read("online");
    online.trim().rsplit(['-', ',']).next().and_then(|last| last.parse().ok()).map_or(1, |last: usize| last + 1)
}

fn files() -> Verdict {
    let last = count() - 1;
    let (all, rest) = (format!("0-{last}\n"), if last == 1 { "0\n".to_string() } else { format!("0-{}\n", last - 1) });
    let own = format!("cpu{last}/online");
    let look = || (read("online"), read(&own));
    ensure(read("present") == all && read("possible") == all, || format!("present: {}", read("present")))?;
    ensure(look() == (all.clone(), "1\n".into()), || format!("at first: {:?}", look()))?;
    for (down, up) in [("0", "1"), ("off\n", "on\n"), ("n", "Y")] {
        write(&own, down)?;
        ensure(look() == (rest.clone(), "0\n".into()), || format!("after {down:?}: {:?}", look()))?;
        let columns = fs::read_to_string("/proc/interrupts")?;
        let columns = columns.lines().next().unwrap_or_default().split_whitespace().count();
        ensure(columns == last, || format!("{columns} columns in /proc/interrupts"))?;
        write(&own, up)?;
        ensure(look() == (all.clone(), "1\n".into()), || format!("after {up:?}: {:?}", look()))?;
    }
    Ok(())
}

fn nonsense() -> Verdict {
    let refusal = |file, text| write(file, text).err().and_then(|error| error.raw_os_error());
    for (file, text, wanted) in [
        ("cpu1/online", "2", libc::EINVAL),
        ("cpu1/online", "-1", libc::EINVAL),
        ("cpu1/online", "down", libc::EINVAL),
        ("cpu1/online", "\n0", libc::EINVAL),
        ("cpu0/online", "0", libc::EPERM),
        ("online", "0", libc::EACCES),
    ] {
        let seen = refusal(file, text);
        ensure(seen == Some(wanted), || format!("{text:?} into {file}: {seen:?}, must be {wanted}"))?;
    }
    ensure(read("cpu1/online") == "1\n", || "CPU 1 went".to_string())
}

/// A thread sleeps while its CPU is down, and wakes up there: its FP registers are its own, not what the CPU came with.
fn registers() -> Verdict {
    let sleeper = process::spawn(|| {
        let second = [1i64, 0];
        let seen: u64;
        if cpu::pin(1).is_err() {
            return 2;
        }
        // SAFETY: nanosleep reads the time, which lives on, and v8 is declared.
        unsafe {
            asm!(
                "fmov d8, {value}",
                "svc #0",
                "fmov {seen}, d8",
                value = in(reg) 0x4045_0000_0000_0000u64,
                seen = lateout(reg) seen,
                in("x8") libc::SYS_nanosleep,
                inout("x0") second.as_ptr() => _,
                in("x1") 0,
                out("v8") _,
            );
        }
        i32::from(seen != 0x4045_0000_0000_0000)
    })?;
    thread::sleep(Duration::from_millis(300));
    write("cpu1/online", "0")?;
    write("cpu1/online", "1")?;
    expect_exit(sleeper, 0)
}

/// What must go on while CPUs come and go.
fn under_load(rounds: u32) -> Verdict {
    let cpus = count();
    let workers: Vec<i32> = [lifetimes, programs, threads, lifetimes]
        .into_iter()
        .map(|work| process::spawn(move || i32::from(work().inspect_err(|why| eprintln!("hotplug: {why:?}")).is_err())))
        .collect::<Result<_, _>>()?;
    for round in 0..rounds {
        let all = || (1..cpus).map(|cpu| format!("cpu{cpu}/online"));
        all().try_for_each(|file| write(&file, "0"))?;
        thread::sleep(Duration::from_millis(u64::from(round % 3)));
        all().rev().try_for_each(|file| write(&file, "1"))?;
    }
    for worker in workers {
        let ended = process::wait(worker)?.1;
        ensure(ended == Ended::Exited(0), || format!("a worker: {ended:?}"))?;
    }
    ensure(count() == cpus, || format!("online at the end: {}", read("online")))
}

fn expect_exit(child: i32, code: i32) -> Verdict {
    let ended = process::wait(child)?.1;
    ensure(ended == Ended::Exited(code), || format!("{ended:?}, not {code}"))
}

fn lifetimes() -> Verdict {
    (0..150).try_for_each(|life| expect_exit(process::spawn(|| life % 100)?, life % 100))
}

fn programs() -> Verdict {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    (0..50).try_for_each(|_| expect_exit(process::spawn_program(&own, &[&own, CHILD.0])?, CHILD.1))
}

fn threads() -> Verdict {
    for _ in 0..20 {
        let sum = Arc::new(Mutex::new(0.0));
        let crew: Vec<_> = (1..=4)
            .map(|addend| {
                let sum = sum.clone();
                thread::spawn(move || {
                    for _ in 0..25 {
                        *sum.lock().unwrap() += f64::from(addend);
                        thread::sleep(Duration::from_micros(50));
                    }
                })
            })
            .collect();
        let ended = crew.into_iter().all(|one| one.join().is_ok());
        let sum = *sum.lock().unwrap();
        ensure(ended && sum == 250.0, || format!("four threads came to {sum}"))?;
    }
    Ok(())
}

fn gauge(name: &str) -> Option<i64> {
    Counters::read().since(&Counters::default()).into_iter().find_map(|(own, value)| (own == name).then_some(value))
}

/// The frames that are free once all dead address spaces are freed, but for one on each CPU.
fn free_frames() -> Result<Option<i64>, Failed> {
    let (cpus, start) = (count() as i64, Instant::now());
    while let Some(dead) = gauge("dead_now").filter(|&dead| dead > cpus) {
        ensure(start.elapsed() < PATIENCE, || format!("{dead} dead address spaces wait on {cpus} CPUs"))?;
        thread::sleep(Duration::from_millis(5));
    }
    ensure(gauge("mms_leaked").unwrap_or(0) == 0, || "a failed check kept an address space".to_string())?;
    Ok(gauge("free_frames_now"))
}

fn frames_come_back(before: Option<i64>, now: Option<i64>) -> Verdict {
    let (Some(before), Some(now)) = (before, now) else {
        return Err(Failed::Skip("this kernel tells no number of free frames".to_string()));
    };
    ensure(now >= before - TOLERATED, || format!("{before} frames were free halfway, {now} are now"))
}
