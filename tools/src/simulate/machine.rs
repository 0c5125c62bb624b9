//! The machine that is simulated: few numbers, each with where it comes from.

/// A number, in nanoseconds or CPUs.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) source: &'static str,
}

/// CPUs that share a chip.
pub(super) const CHIP: Parameter =
    Parameter { name: "CPUs on a chip", value: 96.0, source: "POWER8: 12 cores of 8 threads" };

/// A line of memory from one CPU to another on its chip.
pub(super) const NEAR: Parameter = Parameter {
    name: "a line from the same chip, ns",
    value: 55.0,
    source: "POWER8's L3 beyond the core's own part, by LMBench (AnandTech, Assessing IBM's POWER8, part 1)",
};

/// A line from another chip, while all CPUs want it.
pub(super) const FAR: Parameter = Parameter {
    name: "a line from another chip, ns",
    value: 288.0,
    source: "calibrated: 1.828 M switches/s with refcount, 768 pairs on 1,536 CPUs, two visits each",
};

/// An instruction, with what its misses of lines that few want cost.
pub(super) const INSTRUCTION: Parameter = Parameter {
    name: "an instruction, ns",
    value: 0.818,
    source: "calibrated: 118 M switches/s with shootdown, 768 pairs, 7,954 instructions a switch (Linux, tuned)",
};

/// An interrupt from one CPU to another, from the request to the answer.
pub(super) const IPI: Parameter = Parameter {
    name: "an IPI and its answer, ns",
    value: 1000.0,
    source: "assumed: the lower end of the 1 to 3 us that are told of servers; nobody published POWER8's",
};

/// All of them.
pub(super) const PARAMETERS: [&Parameter; 5] = [&CHIP, &NEAR, &FAR, &INSTRUCTION, &IPI];

/// Seconds that a line takes to get from one of the first `cpus` CPUs to another, on average: chips are filled one after
/// the other.
pub(super) fn transfer(cpus: u32) -> f64 {
    if cpus < 2 {
        return 0.0;
    }
    let cpus = f64::from(cpus);
    let (full, rest) = ((cpus / CHIP.value).floor(), cpus % CHIP.value);
    let pairs = |of: f64| of * (of - 1.0).max(0.0);
    let same = (full * pairs(CHIP.value) + pairs(rest)) / pairs(cpus);
    (NEAR.value * same + FAR.value * (1.0 - same)) * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_from_farther_the_more_cpus_there_are() {
        assert_eq!(transfer(1), 0.0);
        assert_eq!(transfer(2), 55e-9);
        assert_eq!(transfer(96), 55e-9);
        // Two full chips: of 191 others 95 are on the same.
        let two = (55.0 * 95.0 + 288.0 * 96.0) / 191.0 * 1e-9;
        assert!((transfer(192) - two).abs() < 1e-15);
        assert!(transfer(128) > transfer(97) && transfer(512) > transfer(192));
        assert!(transfer(1536) < FAR.value * 1e-9);
    }
}
