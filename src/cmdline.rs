//! The command line of this boot: the loader's, and before it that of the bundle, if the image is one.

use alloc::string::String;

pub use formats::command_line::{Error, Line, join};
use spin::once::Once;

use crate::platform;
use crate::sync::Relax;

/// The bundle's line and the loader's as one, if the image is a bundle. Set by CPU 0 before there is a second CPU.
static JOINED: Once<String, Relax> = Once::new();

/// Puts the line that is bundled with the image before the loader's. There is a heap.
pub fn add_bundled(bundled: &str) {
    JOINED.call_once(|| join(bundled, platform::bootargs()));
}

/// The line this kernel was booted with.
pub fn line() -> Line<'static> {
    Line(JOINED.get().map_or(platform::bootargs(), String::as_str))
}

/// The value of one option of [`line()`].
pub fn get(key: &str) -> Option<&'static str> {
    line().get(key)
}
