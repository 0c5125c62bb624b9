//! What machine this is: read once from the device tree, then asked everywhere.

use formats::device_tree::{self, Fdt};
use spin::once::Once;

pub use formats::device_tree::{
    Conduit, Cpu, Enable, Error, Gic, Led, MPIDR_AFFINITY, Pin, Platform, Region, Table, Uart, UartKind,
};

use crate::sync::Relax;

/// The tree, from the moment it is known to be one. Set by CPU 0, read by all.
static TREE: Once<Fdt<'static>, Relax> = Once::new();
/// The command line, which much is asked of, in the tree. Set by CPU 0 with the tree.
static BOOTARGS: Once<&str, Relax> = Once::new();
/// The machine. Set by CPU 0 before there is a second CPU.
static PLATFORM: Once<Platform<'static>, Relax> = Once::new();

/// Reads the device tree that the boot code found.
///
/// On an error [`bootargs`] still answers if the tree's structure is sound, so that a boot that
/// fails here can end the way its command line asks for.
pub fn init(blob: &'static [u8]) -> Result<&'static Platform<'static>, Error> {
    let tree = Fdt::new(blob)?;
    TREE.call_once(|| tree);
    BOOTARGS.call_once(|| device_tree::bootargs(tree).unwrap_or(""));
    let platform = Platform::parse(tree)?;
    Ok(PLATFORM.call_once(|| platform))
}

/// The machine.
///
/// # Panics
/// Before [`init`] has succeeded.
pub fn get() -> &'static Platform<'static> {
    PLATFORM.get().expect("the device tree is read before anything asks what it says")
}

/// The machine, or nothing as long as it is not known: for code that must work at any moment,
/// such as a panic.
pub fn try_get() -> Option<&'static Platform<'static>> {
    PLATFORM.get()
}

/// The kernel's command line; empty if there is none, or no tree yet.
pub fn bootargs() -> &'static str {
    BOOTARGS.get().copied().unwrap_or("")
}

/// What the loader gives as a seed for random numbers; empty if it gives none.
pub fn random_seed() -> &'static [u8] {
    TREE.get().and_then(|&tree| device_tree::random_seed(tree)).unwrap_or(&[])
}
