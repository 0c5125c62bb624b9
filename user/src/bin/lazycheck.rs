//! Checks what user programs must never notice of lazy TLBs. `lazycheck [WORD]` runs those with that word in the name.
//@ timeout: 240
//@ sanitize: tlb

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--noop") => ExitCode::SUCCESS,
        Some(option) if option.starts_with('-') => {
            eprintln!("lazycheck: unknown option {option}; usage: lazycheck [WORD]");
            ExitCode::from(2)
        }
        word => lazuli_user::lazycheck::run(word.unwrap_or_default()),
    }
}
