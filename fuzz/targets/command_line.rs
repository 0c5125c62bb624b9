//! cargo-fuzz: `cargo +nightly fuzz run --features libfuzzer command_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lazuli_fuzz::readers::command_line(bytes));
