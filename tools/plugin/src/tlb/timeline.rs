//! What happened, in order, and what of it concerns an alarm.

use std::collections::VecDeque;

use super::cache::{Entry, GLOBAL, RootId, Scope};
use super::descriptor::{Harm, Step};
use crate::decode::What;

/// How far back it reaches.
const KEPT: usize = 1 << 16;
/// How much of it an alarm shows.
const SHOWN: usize = 24;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Cached { entry: Entry, tag: u32 },
    Changed { va: u64, step: Step, root: RootId, harm: Option<Harm> },
    Issued { scope: Scope, broadcast: bool },
    Completed,
    Loaded { half: usize, root: u64, asid: u32 },
    Made { root: u64 },
    Promised { root: u64 },
    Freed { root: u64 },
    Off,
}

struct Line {
    number: u64,
    cpu: usize,
    pc: u64,
    event: Event,
}

/// How much of each kind there was.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) cached: u64,
    pub(crate) changed: u64,
    pub(crate) invalidated: u64,
    pub(crate) promised: u64,
}

/// The last events.
#[derive(Default)]
pub(crate) struct Timeline {
    pub(crate) totals: Totals,
    lines: VecDeque<Line>,
    next: u64,
}

impl Timeline {
    pub(crate) fn add(&mut self, cpu: usize, pc: u64, event: Event) {
        match event {
            Event::Cached { .. } => self.totals.cached += 1,
            Event::Changed { .. } => self.totals.changed += 1,
            Event::Issued { .. } => self.totals.invalidated += 1,
            Event::Promised { .. } => self.totals.promised += 1,
            _ => {}
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { number: self.next, cpu, pc, event });
        self.next += 1;
    }

    /// The last lines that concern an address, a root or an ASID. Each is followed by where the CPU was.
    pub(crate) fn about(&self, va: u64, root: Option<RootId>, address: u64, tag: Option<u32>) -> Vec<String> {
        let concerns = |line: &&Line| match line.event {
            Event::Cached { entry, .. } => within(va, entry.va, entry.step.size()) && tag.is_some(),
            Event::Changed { va: from, step, root: of, .. } => Some(of) == root && within(va, from, step.size()),
            Event::Issued { scope, .. } => tag.is_some_and(|tag| reaches(&scope, va, tag)),
            Event::Completed => false,
            Event::Loaded { root, asid, .. } => root == address || Some(asid) == tag,
            Event::Made { root } | Event::Promised { root } | Event::Freed { root } => root == address,
            Event::Off => true,
        };
        let mut shown: Vec<&Line> = self.lines.iter().rev().filter(concerns).take(SHOWN).collect();
        shown.reverse();
        let text =
            |line: &Line| format!("[{}] CPU {} {}\n  at {:#x}", line.number, line.cpu, describe(&line.event), line.pc);
        shown.into_iter().map(text).collect()
    }
}

fn within(va: u64, first: u64, len: u64) -> bool {
    va.wrapping_sub(first) < len
}

fn reaches(scope: &Scope, va: u64, tag: u32) -> bool {
    match scope.what {
        What::All => true,
        What::Asid => scope.asid == tag,
        _ => within(va, scope.va, scope.len),
    }
}

/// An ASID in words.
pub(crate) fn asid(tag: u32) -> String {
    if tag == GLOBAL { "every ASID".to_owned() } else { format!("ASID {tag}") }
}

/// An entry in words.
pub(crate) fn entry(entry: &Entry) -> String {
    let (step, va) = (entry.step, entry.va);
    if step.is_table() {
        format!("the walk of {va:#x} at level {}: table {:#x}", step.level, step.output())
    } else {
        format!("{va:#x} -> {:#x} ({})", step.output(), step.rights())
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Cached { entry: new, tag } => format!("caches {} under {}", entry(new), asid(*tag)),
        Event::Changed { va, step, harm, .. } => {
            let matters = harm.map_or("nothing is stale by that", Harm::text);
            format!("writes {:#x} to the level {} entry for {va:#x}: {matters}", step.bits, step.level)
        }
        Event::Issued { scope, broadcast } => {
            let reach = if *broadcast { "every CPU" } else { "this CPU" };
            match scope.what {
                What::All => format!("TLBI: everything, on {reach}"),
                What::Asid => format!("TLBI: {}, on {reach}", asid(scope.asid)),
                what => format!("TLBI: {what:?} {:#x}+{:#x}, {}, on {reach}", scope.va, scope.len, asid(scope.asid)),
            }
        }
        Event::Completed => "DSB: its TLBIs are complete".to_owned(),
        Event::Loaded { half, root, asid } => format!("loads root {root:#x} into TTBR{half}; ASID {asid} is in force"),
        Event::Made { root } => format!("root {root:#x} begins to live"),
        Event::Promised { root } => format!("promises that nothing stale of root {root:#x} can be used"),
        Event::Freed { root } => format!("frees root {root:#x}"),
        Event::Off => "is switched off".to_owned(),
    }
}
