//! What the counts must show: the bars, and the worst figure of all boots that each of them concerns.

use mm::config::Target;
use mm::{Config, FlushMode, Scheme};
use serde_json::{Value, json};

use super::{HOLD, Row};
use crate::results::{self, Measurement};
use crate::table;

/// How far a count may be off because an operation began inside the measured region and ended outside it.
const EDGE: f64 = 0.02;

/// What a figure is held against.
enum Limit {
    AtMost(f64),
    /// Off by [`EDGE`] of it at most.
    About(f64),
    /// One for each CPU but one, likewise.
    OtherCpus,
    /// So much of what the same workload showed in plain `shootdown` on as many CPUs.
    OfPlain(f64),
    /// As many as there are CPUs.
    Cpus,
    /// Less than another figure of the same measurement.
    Below(&'static str),
}

struct Bar {
    what: &'static str,
    workloads: &'static [&'static str],
    concerns: fn(&Config) -> bool,
    figure: fn(&Measurement) -> Option<f64>,
    limit: Limit,
}

/// How a bar came out.
pub(crate) struct Verdict {
    what: &'static str,
    worst: Option<Worst>,
}

/// The boot that came nearest to its limit, or went farthest beyond.
struct Worst {
    figure: f64,
    limit: f64,
    is_met: bool,
    place: String,
}

/// Writes no shared count, and is lazy.
fn is_free_of_counts(config: &Config) -> bool {
    matches!(config.scheme, Scheme::Shootdown | Scheme::Handoff | Scheme::Qsbr)
}

fn is_plain(config: &Config) -> bool {
    config.to_string() == "lazy_tlb=shootdown"
}

fn is_slot(config: &Config) -> bool {
    config.target == Target::Slot && config.flush == FlushMode::Broadcast && !config.retire
}

fn is_batch(config: &Config) -> bool {
    config.batch == 16 && config.flush == FlushMode::Broadcast && !config.retire
}

fn shoots(m: &Measurement) -> Option<f64> {
    m.each("ipi_shoot")
}

/// Other CPUs that were asked to leave. One that somebody else is about to interrupt gets no SGI of its own, so these may be
/// fewer.
fn asked(m: &Measurement) -> Option<f64> {
    // The CPU that frees asks itself, too.
    Some(m.each("shoot_found_lazy")? + m.each("shoot_found_gone")? - 1.0)
}

fn broadcasts(m: &Measurement) -> Option<f64> {
    m.sum_each(results::is_broadcast)
}

fn counts(m: &Measurement) -> Option<f64> {
    Some(m.told("lazy_grabs")? + m.told("lazy_drops")?)
}

/// Of the mm layer: bits of a mask, and slots, one for each TTBR0 write.
fn shared_stores(m: &Measurement) -> Option<f64> {
    Some(m.told("mask_bits_set")? + m.told("mask_bits_cleared")? + m.told("ttbr0_writes")?)
}

fn counts_per_visit(m: &Measurement) -> Option<f64> {
    Some(counts(m)? / m.told("switch_user_kernel")?.max(1.0))
}

const PING_PONG: &[&str] = &["ctx-threads-pipe-other"];
const WALK: &[&str] = &["exit-walk"];
const IDLE: &[&str] = &[HOLD];

const fn bar(
    what: &'static str,
    workloads: &'static [&'static str],
    concerns: fn(&Config) -> bool,
    figure: fn(&Measurement) -> Option<f64>,
    limit: Limit,
) -> Bar {
    Bar { what, workloads, concerns, figure, limit }
}

const BARS: &[Bar] = &[
    bar(
        "user→idle→same user: shared read-modify-writes, refcount",
        PING_PONG,
        |c| c.scheme == Scheme::Refcount,
        counts_per_visit,
        Limit::About(2.0),
    ),
    bar(
        "user→idle→same user: shared read-modify-writes, others that are lazy",
        PING_PONG,
        is_free_of_counts,
        counts,
        Limit::AtMost(0.0),
    ),
    bar(
        "user→idle→same user: shared stores, likewise",
        PING_PONG,
        is_free_of_counts,
        shared_stores,
        Limit::AtMost(0.0),
    ),
    bar(
        "user→idle→same user: TTBR0 writes, likewise",
        PING_PONG,
        is_free_of_counts,
        |m| m.told("ttbr0_writes"),
        Limit::AtMost(0.0),
    ),
    bar("multi-CPU exit: CPUs asked, plain shootdown = its mask less itself", WALK, is_plain, asked, Limit::OtherCpus),
    bar("multi-CPU exit: shoot IPIs, target=slot, of plain", WALK, is_slot, shoots, Limit::OfPlain(0.25)),
    bar("multi-CPU exit: shoot IPIs, batch=16, of plain", WALK, is_batch, shoots, Limit::OfPlain(0.125)),
    bar("multi-CPU exit: shoot IPIs, tlbi=ipi piggyback", WALK, |c| c.piggyback, shoots, Limit::AtMost(0.02)),
    bar(
        "multi-CPU exit: shoot IPIs, handoff",
        WALK,
        |c| c.scheme == Scheme::Handoff && c.shoot_after.is_none(),
        shoots,
        Limit::AtMost(0.0),
    ),
    bar("multi-CPU exit: shoot IPIs, qsbr", WALK, |c| c.scheme == Scheme::Qsbr, shoots, Limit::AtMost(0.0)),
    bar("fork, exec, exit: shoot IPIs, target=slot", &["fork-exec"], is_slot, shoots, Limit::AtMost(0.02)),
    bar(
        "processes that never leave their CPU: broadcast TLBIs, tlbi=auto",
        &["stay-fork", "stay-exec"],
        |c| c.flush == FlushMode::Auto,
        broadcasts,
        Limit::AtMost(0.0),
    ),
    bar(
        "a CPU idles for ever: dead at most one per CPU, handoff",
        IDLE,
        |c| c.scheme == Scheme::Handoff,
        |m| m.told("dead_max"),
        Limit::Cpus,
    ),
    bar(
        "a CPU idles for ever: dead below waiting_limit, qsbr",
        IDLE,
        |c| c.scheme == Scheme::Qsbr,
        |m| m.told("waiting_max"),
        Limit::Below("waiting_limit"),
    ),
    bar(
        "a CPU idles for ever: free frames that went, less one for each of the dead that wait",
        IDLE,
        |_| true,
        |m| Some(m.told("free_frames_lost")? - m.told("dead_now")?),
        Limit::Cpus,
    ),
];

/// Holds the rows against every bar.
pub(crate) fn judge(rows: &[Row]) -> Vec<Verdict> {
    BARS.iter().map(|bar| Verdict { what: bar.what, worst: bar.worst(rows) }).collect()
}

impl Bar {
    /// Nothing if nothing was measured, or a boot did not tell the figure: none is no zero.
    fn worst(&self, rows: &[Row]) -> Option<Worst> {
        let concerned = rows.iter().filter(|row| (self.concerns)(&row.configuration.config));
        let measured = concerned.filter(|row| self.workloads.contains(&row.measurement.workload.as_str()));
        let mut all = measured.map(|row| self.hold(row, rows)).collect::<Option<Vec<_>>>()?;
        // A limit of zero leaves no room to compare in: there the figure itself tells.
        let nearness = |worst: &Worst| (!worst.is_met, worst.figure - worst.limit);
        all.sort_by(|a, b| nearness(a).partial_cmp(&nearness(b)).unwrap_or(std::cmp::Ordering::Equal));
        all.pop()
    }

    fn hold(&self, row: &Row, rows: &[Row]) -> Option<Worst> {
        let m = &row.measurement;
        let figure = (self.figure)(m)?;
        let about = |limit: f64| ((figure - limit).abs() <= EDGE * limit, limit);
        let at_most = |limit: f64| (figure <= limit, limit);
        let (is_met, limit) = match self.limit {
            Limit::AtMost(limit) => at_most(limit),
            Limit::About(limit) => about(limit),
            Limit::OtherCpus => about(f64::from(row.cpus - 1)),
            Limit::OfPlain(share) => at_most(share * (self.figure)(plain(rows, row)?)?),
            Limit::Cpus => at_most(f64::from(row.cpus)),
            Limit::Below(other) => (figure < m.told(other)?, m.told(other)?),
        };
        let place = format!("{}, {}, {} CPUs", row.configuration.name, m.workload, row.cpus);
        Some(Worst { figure, limit, is_met, place })
    }
}

/// The same workload in plain `shootdown` on as many CPUs.
fn plain<'a>(rows: &'a [Row], like: &Row) -> Option<&'a Measurement> {
    let same = |row: &&Row| row.cpus == like.cpus && row.measurement.workload == like.measurement.workload;
    rows.iter().filter(same).find(|row| is_plain(&row.configuration.config)).map(|row| &row.measurement)
}

impl Verdict {
    /// Whether the bar is met. One that nothing was measured for is not.
    pub(crate) fn is_met(&self) -> bool {
        self.worst.as_ref().is_some_and(|worst| worst.is_met)
    }

    /// A row of [`HEADS`].
    pub(crate) fn row(&self) -> Vec<String> {
        let met = if self.is_met() { "met" } else { "MISSED" }.to_owned();
        let Some(worst) = &self.worst else {
            return vec![self.what.to_owned(), met, "not measured".to_owned(), "-".to_owned(), "-".to_owned()];
        };
        let number = |value: f64| if value < 0.0 { format!("{value:.0}") } else { table::number(value) };
        vec![self.what.to_owned(), met, worst.place.clone(), number(worst.figure), number(worst.limit)]
    }

    /// The same for other programs.
    pub(crate) fn to_json(&self) -> Value {
        let worst = self.worst.as_ref();
        json!({
            "what": self.what, "met": self.is_met(), "place": worst.map(|worst| &worst.place),
            "figure": worst.map(|worst| worst.figure), "limit": worst.map(|worst| worst.limit),
        })
    }
}

/// What the columns of [`Verdict::row`] are.
pub(crate) const HEADS: [&str; 5] = ["bar", "result", "worst of", "figure", "limit"];

#[cfg(test)]
mod tests {
    use super::super::configuration;
    use super::*;

    fn row(configuration: &str, cpus: u32, line: &str) -> Row {
        let configuration = configuration::all().into_iter().find(|c| c.name == configuration).unwrap();
        let line = format!("result workload={line}");
        let measurement = results::parse(&configuration.name, &line).remove(0);
        Row { configuration, cpus, measurement }
    }

    fn verdict(what: &str, rows: &[Row]) -> Verdict {
        judge(rows).into_iter().find(|verdict| verdict.what.contains(what)).unwrap()
    }

    #[test]
    fn slots_and_batches_are_held_against_plain_on_as_many_cpus() {
        let walk = |name, cpus, shoots: u32| {
            let found = format!("shoot_found_lazy={} shoot_found_gone=101", shoots - 1);
            row(name, cpus, &format!("exit-walk ops=100 ipi_shoot={shoots} {found}"))
        };
        let rows = [walk("shootdown", 4, 301), walk("shootdown", 8, 700), walk("shootdown+slot", 8, 170)];
        assert!(verdict("plain shootdown =", &rows).is_met());
        assert!(verdict("target=slot, of plain", &rows).is_met());
        assert!(!verdict("target=slot, of plain", &rows[1..2]).is_met(), "nothing was measured");
        let rows = [walk("shootdown", 4, 300), walk("shootdown+slot", 4, 76), walk("shootdown+slot+trim", 4, 1)];
        let worse = verdict("target=slot, of plain", &rows);
        assert!(!worse.is_met());
        assert_eq!(worse.row()[2..], ["shootdown+slot, exit-walk, 4 CPUs", "0.76", "0.75"]);
        assert!(!verdict("plain shootdown =", &[walk("shootdown", 4, 250)]).is_met());
    }

    #[test]
    fn a_count_where_none_is_allowed_is_seen() {
        let talk = |name, grabs| {
            row(
                name,
                4,
                &format!("ctx-threads-pipe-other ops=9 switch_user_kernel=100 lazy_grabs={grabs} lazy_drops=99"),
            )
        };
        assert!(verdict("writes, refcount", &[talk("refcount", 100)]).is_met());
        assert!(!verdict("writes, refcount", &[talk("refcount", 0)]).is_met());
        assert!(!verdict("writes, others", &[talk("qsbr", 0)]).is_met());
        assert!(!verdict("TTBR0", &[talk("qsbr", 0)]).is_met(), "it was not told");
    }

    #[test]
    fn memory_that_only_the_waiting_dead_hold_is_not_lost() {
        let hold = |lost, dead| row("qsbr", 4, &format!("hold-idle ops=9 free_frames_lost={lost} dead_now={dead}"));
        assert!(verdict("frames", &[hold(9, 5)]).is_met());
        assert!(!verdict("frames", &[hold(10, 5)]).is_met());
    }
}
