//! Repeats each line that is typed, louder, until one says `bye`: shows that console input reaches a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("parrot: listening");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        println!("parrot: {}", line.to_uppercase());
        if line == "bye" {
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}
