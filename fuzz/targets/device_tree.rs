//! cargo-fuzz: `cargo +nightly fuzz run --features libfuzzer device_tree`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lazuli_fuzz::readers::device_tree(bytes));
