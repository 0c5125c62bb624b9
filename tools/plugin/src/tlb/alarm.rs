//! A rule that was broken, and how to say so.

use std::fmt;

use super::cache::{Entry, State};
use super::descriptor::{Harm, Step};
use super::timeline::{asid, entry};

/// What is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    /// An access could have hit an entry that leads elsewhere than the tables do.
    Hit { entry: Entry, tables: Step, asid: u32 },
    /// A CPU can use an entry that somebody was promised is gone.
    Overdue { entry: Entry, asid: u32, holder: usize },
    /// A root was freed that a CPU has loaded.
    FreedRootInUse { root: u64, holder: usize },
    /// A root was freed that a CPU has left, but no DSB has ended its walks.
    FreedRootWalked { root: u64, holder: usize },
    /// A freed root was loaded.
    FreedRootLoaded { root: u64 },
}

/// A broken rule, with what led to it.
#[derive(Debug)]
pub(crate) struct Alarm {
    pub(crate) cpu: usize,
    pub(crate) pc: u64,
    pub(crate) va: u64,
    pub(crate) wrong: Wrong,
    /// The root concerned.
    pub(crate) root: u64,
    pub(crate) lines: Vec<String>,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTLB SANITIZER: {}", self.what())?;
        writeln!(f, "  at {:#x}", self.pc)?;
        writeln!(f, "what led to it, oldest first:")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Alarm {
    fn what(&self) -> String {
        let (cpu, root) = (self.cpu, self.root);
        match &self.wrong {
            Wrong::Hit { entry: old, tables, asid: tag } => format!(
                "CPU {cpu} accesses {:#x} and may use {} of root {root:#x} under {}; the tables in force say {:#x}",
                self.va,
                entry(old),
                asid(*tag),
                tables.output()
            ),
            Wrong::Overdue { entry: old, asid: tag, holder } => {
                let harm = match old.state {
                    State::Stale { harm, .. } => harm.text(),
                    State::Fresh | State::Narrow => Harm::Moved.text(),
                };
                format!(
                    "CPU {holder} can still use {} of root {root:#x} under {}, which CPU {cpu} relies on being gone: {harm}",
                    entry(old),
                    asid(*tag)
                )
            }
            Wrong::FreedRootInUse { holder, .. } => {
                format!("CPU {cpu} frees root {root:#x}, which CPU {holder} has in TTBR0")
            }
            Wrong::FreedRootWalked { holder, .. } => format!(
                "CPU {cpu} frees root {root:#x}, which CPU {holder} has left without a DSB after the ISB: it may still walk it"
            ),
            Wrong::FreedRootLoaded { .. } => format!("CPU {cpu} loads root {root:#x}, which is free"),
        }
    }
}
