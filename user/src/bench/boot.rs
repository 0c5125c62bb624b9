//! The way from reset to this program.

use super::{Workload, measure::Sample};
use crate::sys::cpu;

/// One workload that only reads the clock, which starts at reset, and marks the end of that: it must be the first to run.
pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload::new("boot", 1, |_| {
        cpu::mark_end();
        let ticks = cpu::ticks();
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(cpu::ticks_per_second());
        Ok((1, Sample { ns: ns as u64, ticks, counters: Vec::new() }))
    })]
}
