//! One measured region: time, ticks and counters around it, and the line that reports them.

use std::{ops::AddAssign, time::Instant};

use super::counters::{self, Counters};
use crate::sys::cpu;

/// A region that has started.
pub struct Started {
    counters: Counters,
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
    let counters = Counters::read();
    let cycles = cpu::cycles();
    let started = Started { counters, clock: Instant::now(), ticks: cpu::ticks(), cycles };
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
        let mut counters = Counters::read().since(&self.counters);
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
}
