//! The command line of `lazybench`.

/// How long a workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As long as suits the workload.
    Default,
    /// A handful of operations, to see that it works.
    Once,
    /// That many operations.
    Ops(u64),
    /// About that long, planned by a short trial.
    Seconds(u64),
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print the help.
    Help,
    /// Print the names of the workloads.
    List,
    /// Return at once: the child of the `fork-exec` workload.
    Noop,
    /// Measure.
    Run(Options),
}

/// What to measure and how long.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Names or groups of workloads; empty means all.
    pub wanted: Vec<String>,
    /// How long each runs.
    pub length: Length,
    /// How many pairs `ctx` plays with at the same time.
    pub pairs: usize,
}

/// The help text.
pub const HELP: &str = "\
lazybench [WORKLOAD...] [--once | --ops N | --seconds S] [--pairs N]
Measures the kernel it runs on. Prints one `result` line per workload, with what the kernel
counted meanwhile, and the same per operation.

  boot      from reset to here: only as the first
  ctx       two tasks wake each other: threads or processes, by pipe or futex,
            on the same CPU, on another CPU, or anywhere
  yield     two processes on one CPU yield to each other
  exit      a storm of short-lived processes on every CPU: single, threads, walk
  fork      fork, exit, wait; and fork, execve, exit, wait
  stay      the same on one CPU that nobody leaves
  hold      fork, exit, wait while one CPU idles for ever on a dead address space
  munmap    unmap a page while siblings are absent, asleep (lazy) or running; a storm
            of it: threads on all CPUs at once
  mprotect  take away and give back the right to write, likewise; and a page's, one call
            at a time
  fault     touch fresh pages
  syscall   null call; futex wake without a waiter
  kthread   kernel threads borrow this address space (Lazuli only)
  all       all of these; the same as no name

A full name as in the result line, or its first parts, works too: ctx-threads.

  --once       a few operations each, to see that all work
  --ops N      operations per workload
  --seconds S  seconds per workload, about
  --pairs N    pairs of ctx at the same time (default 1)
  --list       print the names and stop
";

/// Reads the command line (without the program's name).
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut options = Options { wanted: Vec::new(), length: Length::Default, pairs: 1 };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Request::Help),
            "--list" => return Ok(Request::List),
            super::NOOP => return Ok(Request::Noop),
            "--once" => options.length = Length::Once,
            "--ops" => options.length = Length::Ops(number(&argument, arguments.next())?),
            "--seconds" => options.length = Length::Seconds(number(&argument, arguments.next())?),
            "--pairs" => options.pairs = pairs(number(&argument, arguments.next())?)?,
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; try --help"));
            }
            _ => options.wanted.push(argument),
        }
    }
    check_names(&options)?;
    Ok(Request::Run(options))
}

fn number(option: &str, value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or(format!("{option} needs a number after it"))?;
    match value.parse() {
        Ok(number @ 1..=1_000_000_000) => Ok(number),
        _ => Err(format!("{option} needs a number from 1 to 1000000000, not {value:?}")),
    }
}

fn pairs(number: u64) -> Result<usize, String> {
    if number <= 64 { Ok(number as usize) } else { Err(format!("--pairs goes up to 64, not {number}")) }
}

fn check_names(options: &Options) -> Result<(), String> {
    let known = super::workloads(options.pairs);
    match options.wanted.iter().find(|word| !known.iter().any(|workload| workload.answers_to(word))) {
        Some(word) => Err(format!("unknown workload {word:?}; --list names them all")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn no_argument_means_all_at_the_default_length() {
        let all = Options { wanted: vec![], length: Length::Default, pairs: 1 };
        assert_eq!(parsed(""), Ok(Request::Run(all)));
    }

    #[test]
    fn groups_and_full_names_are_known() {
        assert!(parsed("ctx --ops 5 yield ctx-threads-pipe-other exit-walk all").is_ok());
    }

    #[test]
    fn bad_input_is_named() {
        for (line, word) in [
            ("nonsense", "nonsense"),
            ("ct", "ct"),
            ("--ops", "--ops"),
            ("--ops x", "\"x\""),
            ("--ops 0", "\"0\""),
            ("--seconds -1", "\"-1\""),
            ("--pairs 65", "65"),
            ("--fast", "--fast"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
