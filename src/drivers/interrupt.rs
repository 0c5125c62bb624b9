//! Who is called for which interrupt, and how often that was.
//!
//! The controller knows no kernel service, and services know no controller registers: they meet in
//! this table. Each entry is written once, before its interrupt is enabled, and read without a lock.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use spin::once::Once;

use crate::percpu;
use crate::sync::Relax;

/// Runs with interrupts masked, on the CPU that took the interrupt; gets the INTID.
pub type Handler = fn(u32);

/// INTIDs 0 to 1019: SGIs, PPIs and SPIs. Above are special numbers and what we never enable.
const COUNT: usize = 1020;

/// The most interrupts that can have a handler: few do, and each CPU has a count for each.
const MOST_LINES: usize = 16;

/// An interrupt that has a handler.
struct Line {
    handler: Handler,
    name: &'static str,
    /// Which of a CPU's counts is its.
    index: usize,
}

static LINES: [Once<Line, Relax>; COUNT] = [const { Once::new() }; COUNT];
/// How many lines there are. Relaxed: it only gives each a number of its own.
static USED: AtomicUsize = AtomicUsize::new(0);

/// How often a CPU took each interrupt. Relaxed: numbers for people, each written by its own CPU with interrupts masked.
#[derive(Debug)]
pub struct Taken([AtomicU64; MOST_LINES]);

impl Taken {
    /// A CPU that took none yet.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MOST_LINES])
    }
}

impl Default for Taken {
    fn default() -> Self {
        Self::new()
    }
}

/// Names the handler of an interrupt, once and for all CPUs, and what the interrupt is called.
///
/// # Panics
/// If the interrupt has another handler already, or if too many have one.
pub fn register(intid: u32, name: &'static str, handler: Handler) {
    let mut is_new = false;
    LINES[intid as usize].call_once(|| {
        is_new = true;
        Line { handler, name, index: USED.fetch_add(1, Ordering::Relaxed) }
    });
    assert!(is_new, "interrupt {intid} has a handler already");
    assert!(USED.load(Ordering::Relaxed) <= MOST_LINES, "more than {MOST_LINES} interrupts have handlers");
}

/// Every interrupt that has a handler, lowest first, and its name.
pub fn names() -> impl Iterator<Item = (u32, &'static str)> {
    LINES.iter().enumerate().filter_map(|(intid, line)| Some((intid as u32, line.get()?.name)))
}

/// How often a CPU took an interrupt.
pub fn taken(cpu: usize, intid: u32) -> u64 {
    let line = LINES.get(intid as usize).and_then(Once::get);
    line.map_or(0, |line| percpu::of(cpu).own.interrupts.0[line.index].load(Ordering::Relaxed))
}

/// Calls the handler of an interrupt that was acknowledged.
///
/// # Panics
/// If there is none: it was never enabled, so controller and kernel disagree.
pub(super) fn dispatch(intid: u32) {
    match LINES.get(intid as usize).and_then(Once::get) {
        Some(line) => {
            let count = &percpu::this().own.interrupts.0[line.index];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            (line.handler)(intid);
        }
        None => panic!("interrupt {intid} was never enabled"),
    }
}
