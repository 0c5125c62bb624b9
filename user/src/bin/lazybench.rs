//! Measures the kernel it runs on: one `result` line per workload on standard output.

use std::process::ExitCode;

use lazuli_user::bench::{
    self, Outcome, Workload, counters,
    options::{self, HELP, Options, Request},
};

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)) {
        Ok(Request::Help) => print!("{HELP}"),
        Ok(Request::List) => bench::workloads(1).iter().for_each(|workload| println!("{}", workload.name)),
        Ok(Request::Noop) => {}
        Ok(Request::Run(options)) => return run(&options),
        Err(error) => {
            eprintln!("lazybench: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(options: &Options) -> ExitCode {
    let wanted =
        |workload: &Workload| options.wanted.is_empty() || options.wanted.iter().any(|word| workload.answers_to(word));
    let scheme = counters::option("scheme").unwrap_or("not told by this kernel".to_string());
    eprintln!("lazybench: scheme {scheme}");
    let mut failed = false;
    for workload in bench::workloads(options.pairs).into_iter().filter(wanted) {
        eprintln!("lazybench: {} ...", workload.name);
        match workload.measure(options.length) {
            Ok(Outcome::Measured(line)) => println!("{line}"),
            Ok(Outcome::Skipped(why)) => eprintln!("lazybench: {} skipped: {why}", workload.name),
            Err(error) => {
                eprintln!("lazybench: {} failed: {error}", workload.name);
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
