//! The readers bear what once broke them, and some seconds of damage from a fixed seed.

use std::fs;
use std::sync::atomic::AtomicU64;

use lazuli_fuzz::campaign::{self, bears, corpus};
use lazuli_fuzz::{FORMATS, Format};

/// Inputs for each format, and their seed. Another seed is tried by `make fuzz`.
const INPUTS: u64 = 30_000;
const SEED: u64 = 1;

fn format(name: &str) -> Format {
    FORMATS.into_iter().find(|format| format.name == name).expect("a format of that name")
}

fn bears_damage(name: &str) {
    let format = format(name);
    let failed = campaign::run(&format, SEED, &AtomicU64::new(0), |number| number < INPUTS);
    assert_eq!(failed, None, "{name}: input of that number, seed {SEED}");
}

#[test]
fn damaged_device_trees() {
    bears_damage("device_tree");
}

#[test]
fn damaged_command_lines() {
    bears_damage("command_line");
}

#[test]
fn damaged_archives() {
    bears_damage("cpio");
}

#[test]
fn damaged_programs() {
    bears_damage("elf");
}

#[test]
fn what_once_broke_a_reader() {
    for format in FORMATS {
        let kept = fs::read_dir(corpus(&format)).into_iter().flatten();
        for file in kept.map(|entry| entry.expect("a readable folder").path()) {
            let bytes = fs::read(&file).expect("a readable file");
            assert!(bears(&format, &bytes), "{}", file.display());
        }
    }
}

/// Damage that breaks nothing would test nothing, and damage that breaks all would test the first check only.
#[test]
fn some_damage_is_borne_and_some_refused() {
    let accepted = |name: &str, accepts: fn(&[u8]) -> bool| {
        let format = format(name);
        assert!((format.samples)().iter().any(|sample| accepts(sample)), "{name}: no sample is sound");
        let good = (0..2000).filter(|&number| accepts(&campaign::input(&format, SEED, number))).count();
        assert!((40..1960).contains(&good), "{name}: {good} of 2000 are accepted");
    };
    accepted("device_tree", |bytes| {
        let tree = formats::device_tree::Fdt::new(bytes);
        tree.is_ok_and(|tree| formats::device_tree::Platform::parse(tree).is_ok())
    });
    accepted("command_line", |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|line| formats::command_line::Line(line).check().is_ok())
    });
    accepted("cpio", |bytes| formats::cpio::entries(bytes).all(|entry| entry.is_ok()));
    accepted("elf", |bytes| formats::elf::plan(bytes).is_ok());
}
