//! A target of cargo-fuzz: `make libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lazuli_fuzz::readers::command_line(bytes));
