//! One measured region: time, ticks and counters around it, and the line that reports them.

use std::{ops::AddAssign, time::Instant};

use super::counters::{self, Room, Snapshot};
use crate::sys::cpu;

/// A region that has started.
pub struct Started {
    before: Snapshot,
    room: Room,
    clock: Instant,
    ticks: u64,
    cycles: Option<u64>,
}

/// What happened in a region.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Nanoseconds by the clock.
    pub ns: u64,
    /// Ticks of CNTVCT_EL0.
    pub ticks: u64,
    /// Changes of the kernel's counters.
    pub counters: Vec<(String, i64)>,
}

/// Starts a region. The costly reads of the counters come first, the clocks and the marker last.
pub fn start() -> Started {
    let room = Room::new();
    let before = Snapshot::take(Room::new());
    let cycles = cpu::cycles();
    let started = Started { before, room, clock: Instant::now(), ticks: cpu::ticks(), cycles };
    cpu::mark_start();
    started
}

impl Started {
    /// Ends the region.
    pub fn end(self) -> Sample {
        cpu::mark_end();
        let ns = self.clock.elapsed().as_nanos() as u64;
        let ticks = cpu::ticks() - self.ticks;
        let cycles = cpu::cycles().zip(self.cycles).map(|(end, start)| end.wrapping_sub(start));
        let mut counters = Snapshot::take(self.room).counters().since(&self.before.counters());
        counters.extend(cycles.map(|cycles| ("pmccntr_cycles".to_owned(), cycles as i64)));
        Sample { ns, ticks, counters }
    }
}

/// Measures `body`.
pub fn region<T>(body: impl FnOnce() -> T) -> (T, Sample) {
    let started = start();
    let value = body();
    (value, started.end())
}

impl AddAssign for Sample {
    /// Joins a later region to an earlier one. Of a gauge the later value stands.
    fn add_assign(&mut self, later: Self) {
        self.ns += later.ns;
        self.ticks += later.ticks;
        for (name, value) in later.counters {
            match self.counters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) if counters::is_gauge(&name) => *total = value,
                Some((_, total)) => *total += value,
                None => self.counters.push((name, value)),
            }
        }
    }
}

impl Sample {
    /// What one operation cost by each counter: those that moved by name, the others by their number; levels at the end.
    pub fn per_operation(&self, ops: u64) -> String {
        let (levels, counts): (Vec<_>, Vec<_>) = self.counters.iter().partition(|(name, _)| counters::is_gauge(name));
        let (moved, still): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(_, value)| *value != 0);
        let mut line = format!("  per operation: ns={:.1}", self.ns as f64 / ops as f64);
        for (name, value) in moved {
            line += &format!(" {name}={:.3}", *value as f64 / ops as f64);
        }
        if !still.is_empty() {
            line += &format!("; {} others 0", still.len());
        }
        for (index, (name, value)) in levels.into_iter().enumerate() {
            line += &format!("{} {name}={value}", if index == 0 { "; now:" } else { "" });
        }
        line
    }

    /// The one line of the report.
    pub fn line(&self, workload: &str, ops: u64) -> String {
        let hz = cpu::ticks_per_second();
        let mut line = format!("result workload={workload} ops={ops} ns={} ticks={} hz={hz}", self.ns, self.ticks);
        for (name, value) in &self.counters {
            line += &format!(" {name}={value}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_regions_add_counts_and_keep_the_last_level() {
        let sample = |count, level| Sample {
            ns: 10,
            ticks: 5,
            counters: vec![("tlbi".into(), count), ("dead_now".into(), level)],
        };
        let mut total = sample(3, 2);
        total += sample(4, 1);
        let line = total.line("fault", 9);
        assert!(line.starts_with("result workload=fault ops=9 ns=20 ticks=10 hz="), "{line}");
        assert!(line.ends_with(" tlbi=7 dead_now=1"), "{line}");
    }

    #[test]
    fn an_operation_is_told_by_every_counter() {
        let counters = [("tlbi", 7), ("grabs", 0), ("drops", 0), ("dead_now", 1)];
        let sample = Sample { ns: 50, ticks: 5, counters: counters.map(|(name, value)| (name.into(), value)).to_vec() };
        assert_eq!(sample.per_operation(2), "  per operation: ns=25.0 tlbi=3.500; 2 others 0; now: dead_now=1");
    }
}
