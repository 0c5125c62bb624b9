//! cargo-fuzz: `cargo +nightly fuzz run --features libfuzzer cpio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lazuli_fuzz::readers::cpio(bytes));
