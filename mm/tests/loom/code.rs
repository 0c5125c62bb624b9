//! A program's code: what one CPU has made visible to instruction fetches, another executes without doing it again.

use loom::cell::UnsafeCell;

use super::check;
use super::host::cpu;
use crate::Scheme;
use crate::frame::FrameInfo;

/// Who finds a frame noted as executable fetches from it: the maintenance of whoever noted it comes before. Cleaning it is
/// a write here and fetching a read, and loom objects if the two are not ordered.
#[test]
fn maintenance_before_the_first_fetch_elsewhere() {
    check(Scheme::Eager, 2, || {
        let shared = std::sync::Arc::new((FrameInfo::default(), UnsafeCell::new(())));
        let cleaner = shared.clone();
        let other = cpu(1, move || {
            cleaner.1.with_mut(|_| ());
            cleaner.0.note_executable();
        });
        if shared.0.is_executable() {
            shared.1.with(|_| ());
        }
        other.join().expect("it ends");
        assert!(shared.0.is_executable());
    });
}
