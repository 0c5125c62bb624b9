//! What others measured on real machines, and what the model says of the same.

use serde_json::{Value, json};

use super::machine::{INSTRUCTION, transfer};
use super::network::throughput;

/// One published figure beside the model's.
pub(super) struct Check {
    pub(super) what: &'static str,
    pub(super) published: f64,
    pub(super) predicted: f64,
    /// Whether a parameter was made from it: then it is no check.
    pub(super) calibrates: bool,
}

impl Check {
    /// How far the model is off, 0.1 for a tenth too much.
    pub(super) fn error(&self) -> f64 {
        self.predicted / self.published - 1.0
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { what, published, predicted, calibrates } = self;
        json!({
            "what": what, "published": published, "predicted": predicted, "error": self.error(), "calibrates": calibrates,
        })
    }
}

/// A switch through idle on Linux, tuned, by `make bench-linux`: instructions of the kernel.
const LINUX_SWITCH: f64 = 7954.0;
/// Linux takes and drops mm_count for each user-idle-user switch: two visits, by the line trace of its kernel.
const VISITS: f64 = 2.0;
/// POWER8 with 16 chips: pairs, one for each two hardware threads, as will-it-scale has it by `-t 768`.
const POWER8: (u32, u32) = (768, 1536);

/// Linux on that POWER8, in switches a second.
fn power8(visits: f64) -> f64 {
    let (pairs, cpus) = POWER8;
    throughput(pairs, LINUX_SWITCH * INSTRUCTION.value * 1e-9, &[visits * transfer(cpus)])
}

/// How much of a CPU's time the drop takes, one of the two visits.
fn power8_drop() -> f64 {
    let alone = LINUX_SWITCH * INSTRUCTION.value * 1e-9;
    let round = f64::from(POWER8.0) / power8(VISITS);
    (round - alone) / round / VISITS
}

/// The time of a switch on an EPYC in units of one transfer. Only the ratio of two kernels was published, so that one number
/// is all that can be calibrated: from the speed-up of 192 threads.
const EPYC_SWITCH: f64 = 300.0;

/// How much faster that many pairs switch without mm_count: in both kernels each switch stores once to another line of the mm
/// (`lru_gen.bitmap`, by the line trace), with it two visits more.
fn epyc(pairs: u32) -> f64 {
    let with = throughput(pairs, EPYC_SWITCH, &[1.0, if pairs == 1 { 0.0 } else { VISITS }]);
    throughput(pairs, EPYC_SWITCH, &[1.0]) / with
}

/// All of them.
pub(super) fn checks() -> Vec<Check> {
    let check = |what, published, predicted, calibrates| Check { what, published, predicted, calibrates };
    vec![
        check("POWER8, shootdown, switches/s", 118e6, power8(0.0), true),
        check("POWER8, refcount, switches/s, first report", 1.828e6, power8(VISITS), true),
        check("POWER8, refcount, switches/s, last report", 1e6, power8(VISITS), false),
        check("POWER8, shootdown / refcount", 118.0, power8(0.0) / power8(VISITS), false),
        check("POWER8, refcount, share of time in the drop", 0.335, power8_drop(), false),
        check("EPYC, 1 thread, without / with mm_count", 0.998, epyc(1), false),
        check("EPYC, 24 threads, without / with mm_count", 1.03, epyc(24), false),
        check("EPYC, 48 threads, without / with mm_count", 1.12, epyc(48), false),
        check("EPYC, 96 threads, without / with mm_count", 1.21, epyc(96), false),
        check("EPYC, 192 threads, without / with mm_count", 1.28, epyc(192), true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibrated_points_are_met_and_the_others_within_what_the_page_says() {
        for check in checks() {
            // docs/scaling.md names these.
            let tolerance = if check.calibrates {
                0.02
            } else if check.what.starts_with("EPYC") {
                0.2
            } else {
                1.0
            };
            assert!(check.error().abs() < tolerance, "{}: {:+.2}", check.what, check.error());
        }
    }
}
