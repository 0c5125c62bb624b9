//! Under which options a world is explored, and what is printed of it.
//!
//! `cargo test` explores each world under the five schemes as far as that takes seconds; `LAZULI_WORLDS=all` under every
//! case (`make worlds`), any other value those cases that have it in their text.

use std::env;
use std::time::Instant;

use mm::lying::{Setup, director};
use mm::{Config, Scheme};

use crate::explore::Outcome;

/// Every scheme, and with its modifiers.
pub(crate) const LINES: &[&str] = &director::LINES;
/// Every scheme.
pub(crate) const SCHEMES: &[&str] =
    &["lazy_tlb=refcount", "lazy_tlb=shootdown", "lazy_tlb=handoff", "lazy_tlb=qsbr", "lazy_tlb=eager"];
/// The ways to flush that change an order, under the schemes with which they mean something.
pub(crate) const FLUSHES: &[&str] = &[
    "lazy_tlb=refcount tlbi=ipi tlbi.piggyback=on",
    "lazy_tlb=refcount tlbi=auto",
    "lazy_tlb=shootdown tlbi=ipi",
    "lazy_tlb=shootdown tlbi=ipi tlbi.piggyback=on",
    "lazy_tlb=shootdown tlbi=auto",
    "lazy_tlb=shootdown tlbi.exit=retire",
    "lazy_tlb=shootdown tlbi=ipi tlbi.exit=retire",
    "lazy_tlb=shootdown lazy_tlb.trim=dying tlbi=ipi",
    "lazy_tlb=handoff tlbi=ipi tlbi.piggyback=on",
    "lazy_tlb=handoff tlbi=auto",
    "lazy_tlb=qsbr tlbi=ipi",
    "lazy_tlb=eager tlbi=ipi",
    "lazy_tlb=eager tlbi.exit=retire",
];
/// Frames of a small world.
const FRAMES: usize = 14;

/// The options of one exploration.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) line: &'static str,
    asid_bits: u32,
}

impl Case {
    /// The same with so many bits of ASID.
    pub(crate) fn asid_bits(self, bits: u32) -> Self {
        Self { asid_bits: bits, ..self }
    }

    /// The machine that it asks for.
    pub(crate) fn setup(self, cpus: usize) -> Setup {
        let mut setup = Setup::new(cpus, Scheme::Refcount, 0).options(self.line).asid_bits(self.asid_bits).told();
        setup.frames = FRAMES;
        setup
    }

    /// How often time may pass while the world lasts: once, where something waits for it and there are no more than two
    /// CPUs. At its end it passes as often as is asked for.
    pub(crate) fn naps(self, cpus: usize) -> usize {
        let Config { scheme, batch, shoot_after, .. } = self.setup(1).config;
        usize::from(cpus == 2 && (scheme == Scheme::Qsbr || batch != 0 || shoot_after.is_some()))
    }
}

/// Explores a world under each case that is asked for, and prints what came of it.
///
/// # Panics
/// If anything is wrong in any state, or there are too many of them.
pub(crate) fn each(world: &str, lines: [&[&'static str]; 2], explore: impl Fn(Case) -> Outcome) {
    let wanted = env::var("LAZULI_WORLDS").ok();
    let is_wanted = |line: &str| match wanted.as_deref() {
        None => SCHEMES.contains(&line),
        Some("all") => true,
        Some(part) => line.contains(part),
    };
    for line in lines.concat().into_iter().filter(|line| is_wanted(line)) {
        let start = Instant::now();
        let outcome = explore(Case { line, asid_bits: 3 });
        let Outcome { states, steps, ends, depth, schedules, closed, failure } = outcome;
        let space = if closed { "closed" } else { "NOT closed" };
        println!(
            "{world:<40} {line:<60} {states:>8} states {steps:>8} steps {ends:>4} ends, longest {depth:>3}, \
             {schedules:>8.1e} schedules, {space}, {:.1} s",
            start.elapsed().as_secs_f64()
        );
        if let Some(failure) = failure {
            // In one line, and at once: whoever breaks rules on purpose waits for it.
            let what = failure.lines().next().unwrap_or_default();
            println!("FOUND in \"{world}\", {line}, after {steps} steps: {what}");
            panic!("{world}, {line}: after {states} states and {steps} steps\n{failure}");
        }
        assert!(closed, "{world}, {line}: no small world");
    }
}
