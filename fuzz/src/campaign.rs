//! Inputs by number: the same seed and number make the same input, so a failure is told in two numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use fastrand::Rng;

use crate::{Format, mutate};

/// The input of that number.
pub fn input(format: &Format, seed: u64, number: u64) -> Vec<u8> {
    mutate::damaged(format, &mut Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Whether the reader bears it. If not, the panic has been printed.
pub fn bears(format: &Format, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (format.read)(bytes))).is_ok()
}

/// Tries inputs from number 0 on, as long as `go_on` says so. Gives the first that the reader does not bear.
///
/// `now` holds the number under way, for whoever watches that the reader comes back.
pub fn run(format: &Format, seed: u64, now: &AtomicU64, mut go_on: impl FnMut(u64) -> bool) -> Option<u64> {
    (0..).take_while(|&number| go_on(number)).find(|&number| {
        // Relaxed: a number for the watcher; it carries nothing else.
        now.store(number, Ordering::Relaxed);
        !bears(format, &input(format, seed, number))
    })
}

/// Where input is kept that a reader once did not bear.
pub fn corpus(format: &Format) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format.name)
}

/// Keeps such an input, under a name made of its contents.
///
/// # Errors
/// If it cannot be written.
pub fn keep(format: &Format, bytes: &[u8]) -> io::Result<PathBuf> {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        // FNV-1a.
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folder = corpus(format);
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{hash:016x}"));
    fs::write(&file, bytes)?;
    Ok(file)
}
