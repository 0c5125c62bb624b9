//! The first process: starts one program, reaps whatever is orphaned, and ends as the program ends.
//!
//! `init [--trace] [--settle SECONDS] [--mark] [PROGRAM [ARGUMENT...]]`; without a program, `/bin/lazybench`. With `--trace`
//! it prints at the end what a kernel booted with `trace=on` recorded. With `--settle` it first sleeps, until a kernel that
//! does some of its start behind the first program's back is done with it. With `--mark` the program's whole life, from fork
//! to wait, is a measured region, unless the program marks one itself. On Linux it switches the machine off, because there
//! the end of the first process is a panic.

use std::{env, fs, io, io::Write, process::ExitCode, thread, time::Duration};

use lazuli_user::{
    bench::counters,
    sys::{
        cpu,
        process::{self, Ended},
    },
};

/// What the kernel recorded.
const TRACE: &str = "/proc/trace";
const DEFAULT: &str = "/bin/lazybench";

fn main() -> ExitCode {
    let mut words: Vec<String> = env::args().skip(1).collect();
    let traced = words.first().is_some_and(|word| word == "--trace");
    if traced {
        words.remove(0);
    }
    if let Err(error) = settle(&mut words) {
        eprintln!("init: {error}");
        return ExitCode::FAILURE;
    }
    let marked = words.first().is_some_and(|word| word == "--mark");
    if marked {
        words.remove(0);
    }
    if words.is_empty() {
        words.push(DEFAULT.to_string());
    }
    match counters::option("scheme") {
        Some(scheme) => println!("init: lazy TLB scheme {scheme}, starting {}", words.join(" ")),
        None => println!("init: starting {}", words.join(" ")),
    }
    let ended = run(&words, marked);
    if is_first_of_linux() {
        let error = process::power_off();
        eprintln!("init: the machine cannot be switched off: {error}");
    }
    if traced && let Err(error) = print_trace() {
        eprintln!("init: cannot show {TRACE}: {error}");
        return ExitCode::FAILURE;
    }
    match ended {
        Ok(Ended::Exited(code @ (126 | 127))) => {
            eprintln!("init: {} cannot be executed (or says so by exit code {code})", words[0]);
            ExitCode::from(code as u8)
        }
        Ok(Ended::Exited(code)) => ExitCode::from(code as u8),
        // As shells have it.
        Ok(Ended::Killed(signal)) => {
            eprintln!("init: {} was ended by signal {signal}", words[0]);
            ExitCode::from(128 + signal as u8)
        }
        Err(error) => {
            eprintln!("init: cannot start {}: {error}", words[0]);
            ExitCode::from(127)
        }
    }
}

/// Obeys `--settle`, and takes it from the words.
fn settle(words: &mut Vec<String>) -> Result<(), String> {
    if words.first().is_none_or(|word| word != "--settle") {
        return Ok(());
    }
    let seconds = words.get(1).and_then(|word| word.parse().ok()).ok_or("--settle takes a number of seconds")?;
    words.drain(..2);
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

/// Whether this is the first process, and the kernel none that says its scheme.
fn is_first_of_linux() -> bool {
    std::process::id() == 1 && counters::option("scheme").is_none()
}

/// Read at once, so that reading it does not go on writing it.
fn print_trace() -> io::Result<()> {
    let text = fs::read(TRACE)?;
    io::stdout().lock().write_all(&text)
}

fn run(words: &[String], marked: bool) -> io::Result<Ended> {
    let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
    if marked {
        cpu::mark_start();
    }
    let program = process::spawn_program(&words[0], &arguments)?;
    loop {
        let (pid, ended) = process::wait(-1)?;
        if pid == program {
            if marked {
                cpu::mark_end();
            }
            return Ok(ended);
        }
    }
}
