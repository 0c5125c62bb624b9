//! A boot under the plugin: what it is told, and what it wrote.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::board::Board;
use crate::guest::{self, Outcome};
use crate::qemu::Machine;

/// The most time that one boot may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// What the plugin counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mode {
    /// Instructions and events.
    Instructions,
    /// Lines of memory that move between CPUs.
    Lines,
}

impl Mode {
    /// What tells the name of one boot from that of the other.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Instructions => "",
            Self::Lines => " lines",
        }
    }
}

/// What became of it.
pub(crate) struct Watched {
    pub(crate) outcome: Outcome,
    /// What the plugin wrote, or why there is nothing.
    pub(crate) regions: Result<Vec<Value>>,
}

/// Boots a machine under the plugin, which gets these options, too.
///
/// # Errors
/// If QEMU cannot be started, or the run is interrupted.
pub(crate) fn watch(machine: &Machine, plugin: &Path, mode: Mode, options: &str) -> Result<Watched> {
    let out = &plugin_file();
    let mut machine = machine.clone();
    machine.extra.extend(["-plugin".to_owned(), format!("{}{options}", option(plugin, mode, out, &machine))]);
    let outcome = guest::boot(&machine, Some(LIMIT), None, &mut |_| {})?;
    let regions = regions(out);
    // One that QEMU never made need not go.
    let _ = std::fs::remove_file(out);
    ensure!(!guest::stopped(), "interrupted");
    Ok(Watched { outcome, regions })
}

/// What to say of a boot that showed nothing.
pub(crate) fn failure(what: &str, machine: &Machine, outcome: &Outcome) -> String {
    let (tail, line) = (guest::tail(&outcome.console, 20), machine.shell_line());
    format!("{tail}\nFAIL {what}: exit status {}\nagain: {line}", outcome.status)
}

/// The regions that the plugin wrote.
pub(crate) fn regions(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    let regions = text.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
    ensure!(
        !regions.is_empty(),
        "the program marked nothing: it executes HINT #100 where counting starts, and #101 at the end"
    );
    Ok(regions)
}

/// A file for the plugin to write to, another each time.
fn plugin_file() -> PathBuf {
    // Nothing else hangs on the number, so Relaxed will do.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("lazuli-count-{}-{number}.json", std::process::id()))
}

/// The plugin's options.
pub(crate) fn option(plugin: &Path, mode: Mode, out: &Path, machine: &Machine) -> String {
    let mode = match mode {
        Mode::Instructions => "count",
        Mode::Lines => "lines",
    };
    // GICD_SGIR of GICv2, 0xf00 behind the distributor's start.
    let sgir = match (machine.board, machine.gic) {
        (Board::Rpi4, _) => ",sgir=0xff841f00",
        (Board::Virt, 2) => ",sgir=0x8000f00",
        _ => "",
    };
    format!("{},mode={mode},out={}{sgir}", plugin.display(), out.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interrupt_controller_is_watched_where_sgis_are_stores() {
        let machine = |gic| Machine { gic, ..Machine::of("k".into()) };
        let options = |gic| option("p.so".as_ref(), Mode::Instructions, "o".as_ref(), &machine(gic));
        assert_eq!(options(3), "p.so,mode=count,out=o");
        assert_eq!(options(2), "p.so,mode=count,out=o,sgir=0x8000f00");
    }
}
