//! What a scheme costs on more CPUs than anybody has: switches, the end of an address space, and which scheme wins when.

use super::machine::{INSTRUCTION, IPI, transfer};
use super::network::throughput;
use super::trace::{Shared, Trace};

/// How many CPUs are simulated.
pub(super) const CPUS: [u32; 8] = [4, 8, 16, 32, 64, 128, 256, 512];
/// How many of these are traced, the first ones.
pub(super) const TRACED: usize = 5;

/// What was traced of a scheme, on each of the first [`TRACED`] of [`CPUS`].
pub(super) struct Scheme {
    /// As `--schemes` names it, with its modifiers.
    pub(super) name: String,
    /// One hand-over between two threads of a pair, while each CPU has a thread of the same process.
    pub(super) switches: Vec<Trace>,
    /// One process that runs on each CPU and ends.
    pub(super) lives: Vec<Trace>,
}

/// Which lines are waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// Every line that most CPUs write.
    All,
    /// Those of the mm layer: what a scheme allows where nothing else is shared.
    Mm,
}

impl Scheme {
    /// The switch as traced on so many CPUs, or on the most there are.
    pub(super) fn switch(&self, cpus: u32) -> &Trace {
        let at = CPUS.iter().position(|&known| known == cpus).unwrap_or(CPUS.len());
        &self.switches[at.min(self.switches.len() - 1)]
    }

    /// Switches a second: on each two CPUs a pair of threads wake each other.
    pub(super) fn switches_a_second(&self, cpus: u32, lines: Lines) -> f64 {
        let trace = self.switch(cpus);
        let counts = |of: &&Shared| lines == Lines::All || of.is_of_mm();
        let stations: Vec<f64> = trace.shared.iter().filter(counts).map(|of| of.demand() * transfer(cpus)).collect();
        throughput(cpus / 2, seconds(trace.instructions), &stations)
    }

    /// Seconds of a pair for one switch, while all pairs do the same.
    fn of_a_switch(&self, cpus: u32) -> f64 {
        f64::from(cpus / 2) / self.switches_a_second(cpus, Lines::Mm)
    }

    /// IPIs for the life and end of a process that ran on each CPU.
    pub(super) fn ipis_of_a_life(&self, cpus: u32) -> f64 {
        along(&self.lives, cpus, |trace| trace.ipis)
    }

    /// Seconds of all CPUs for that life and end.
    pub(super) fn of_a_life(&self, cpus: u32) -> f64 {
        let instructions = along(&self.lives, cpus, |trace| trace.instructions);
        seconds(instructions) + self.ipis_of_a_life(cpus) * IPI.value * 1e-9
    }
}

/// From how many switches in the life of a process on `scheme` is cheaper than `other`; none if it never is.
pub(super) fn cheaper_from(scheme: &Scheme, other: &Scheme, cpus: u32) -> Option<u64> {
    let (more, less) =
        (scheme.of_a_life(cpus) - other.of_a_life(cpus), other.of_a_switch(cpus) - scheme.of_a_switch(cpus));
    (less > 0.0).then(|| (more / less).ceil().max(0.0) as u64)
}

/// Seconds that so many instructions take.
fn seconds(instructions: f64) -> f64 {
    instructions * INSTRUCTION.value * 1e-9
}

/// A figure on so many CPUs; beyond what was traced along the line through the last two.
fn along(traces: &[Trace], cpus: u32, figure: impl Fn(&Trace) -> f64) -> f64 {
    let known = CPUS.iter().position(|&known| known == cpus).and_then(|at| traces.get(at));
    if let Some(trace) = known {
        return figure(trace);
    }
    let last = traces.len() - 1;
    let (first, second) = (figure(&traces[last - 1]), figure(&traces[last]));
    let (from, to) = (f64::from(CPUS[last - 1]), f64::from(CPUS[last]));
    second + (second - first) / (to - from) * (f64::from(cpus) - to)
}

/// From how many switches in the life of a process on a scheme is the cheapest: first from 0, then from each crossing.
pub(super) fn winners(schemes: &[Scheme], cpus: u32) -> Vec<(u64, &str)> {
    let lines: Vec<_> = schemes.iter().map(|scheme| (scheme.of_a_life(cpus), scheme.of_a_switch(cpus))).collect();
    envelope(&lines).into_iter().map(|(from, which)| (from, schemes[which].name.as_str())).collect()
}

/// The lower envelope of lines, each `(at 0, slope)`: from which whole number on which line is the lowest.
fn envelope(lines: &[(f64, f64)]) -> Vec<(u64, usize)> {
    let lowest = (0..lines.len()).min_by(|&a, &b| lines[a].partial_cmp(&lines[b]).unwrap_or(std::cmp::Ordering::Equal));
    let mut found: Vec<(u64, usize)> = lowest.map(|line| (0, line)).into_iter().collect();
    while let Some(&(_, now)) = found.last() {
        let crossing = |other: usize| {
            let gain = lines[now].1 - lines[other].1;
            (gain > 0.0).then(|| (((lines[other].0 - lines[now].0) / gain).ceil().max(0.0) as u64, other))
        };
        // Of lines that cross at the same place, the flattest goes on.
        let next = (0..lines.len()).filter_map(crossing).min_by(|a, b| {
            a.0.cmp(&b.0).then(lines[a.1].1.partial_cmp(&lines[b.1].1).unwrap_or(std::cmp::Ordering::Equal))
        });
        let Some(next) = next else { break };
        found.push(next);
    }
    found.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(instructions: f64, ipis: f64, who: &[(&str, f64)]) -> Trace {
        let shared = |&(who, writes): &(&str, f64)| Shared { who: who.to_owned(), visits: 1.0, writes };
        Trace { instructions, ipis, private: 0.0, shared: who.iter().map(shared).collect() }
    }

    fn scheme(name: &str, lines: &[(&str, f64)], ipis: f64) -> Scheme {
        let lives = (0..TRACED).map(|at| trace(1e6, ipis * f64::from(CPUS[at]), &[]));
        Scheme { name: name.to_owned(), switches: vec![trace(1400.0, 1.0, lines); TRACED], lives: lives.collect() }
    }

    #[test]
    fn a_line_that_all_write_bounds_switches_and_no_line_bounds_none() {
        let refcount = scheme("refcount", &[("mm::grab", 2.0), ("lazuli::get", 4.0)], 0.0);
        let shootdown = scheme("shootdown", &[], 1.0);
        let bound = |demand: f64| 1.0 / (demand * transfer(512));
        let close = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.01, "{found} {wanted}");
        close(refcount.switches_a_second(512, Lines::Mm), bound(2.0));
        close(refcount.switches_a_second(512, Lines::All), bound(4.0));
        close(shootdown.switches_a_second(512, Lines::All), 256.0 / seconds(1400.0));
        assert!(refcount.switches_a_second(4, Lines::Mm) > 0.9 * shootdown.switches_a_second(4, Lines::Mm));
    }

    #[test]
    fn ends_grow_with_cpus_beyond_the_traced() {
        let shootdown = scheme("shootdown", &[], 1.0);
        let ipis: Vec<_> = CPUS.iter().map(|&cpus| shootdown.ipis_of_a_life(cpus)).collect();
        assert_eq!(ipis, CPUS.map(f64::from));
    }

    #[test]
    fn the_cheapest_end_wins_first_and_the_cheapest_switch_last() {
        let schemes = [scheme("refcount", &[("mm::grab", 2.0)], 0.0), scheme("shootdown", &[], 1.0)];
        let found = winners(&schemes, 64);
        assert_eq!((found[0], found.len()), ((0, "refcount"), 2));
        let (from, name) = found[1];
        // 64 IPIs of a microsecond, against two visits of a line on a chip that is not yet full.
        let gain = schemes[0].of_a_switch(64) - schemes[1].of_a_switch(64);
        assert_eq!((from, name), ((64e-6 / gain).ceil() as u64, "shootdown"));
        assert_eq!(cheaper_from(&schemes[1], &schemes[0], 64), Some(from));
        assert_eq!(cheaper_from(&schemes[0], &schemes[1], 64), None);
    }

    #[test]
    fn lines_that_never_are_the_lowest_are_not_named() {
        let lines = [(0.0, 3.0), (10.0, 2.0), (3.0, 1.0), (49.9, 0.5)];
        assert_eq!(envelope(&lines), [(0, 0), (2, 2), (94, 3)]);
        assert_eq!(envelope(&[(1.0, 1.0), (1.0, 1.0)]), [(0, 0)]);
    }
}
