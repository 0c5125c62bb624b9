//! cargo-fuzz: `cargo +nightly fuzz run --features libfuzzer elf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lazuli_fuzz::readers::elf(bytes));
