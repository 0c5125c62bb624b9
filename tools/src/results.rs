//! What lazybench measured: its `result` lines, the table made of them, and the headline they must prove.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::table;

/// One `result` line of one boot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measurement {
    pub(crate) scheme: String,
    pub(crate) workload: String,
    fields: BTreeMap<String, f64>,
}

/// Reads the `result workload=W ops=N ns=N key=value …` lines of a console.
pub(crate) fn parse(scheme: &str, console: &str) -> Vec<Measurement> {
    console.lines().filter_map(|line| parse_line(scheme, line)).collect()
}

fn parse_line(scheme: &str, line: &str) -> Option<Measurement> {
    // Linux may print a message of its own, `[   47.112888] …`, before it has sent the end of our line.
    let line = line.split('[').next()?;
    let words = line.trim_end().strip_prefix("result ")?.split(' ').filter_map(|word| word.split_once('='));
    let (mut workload, mut fields) = (None, BTreeMap::new());
    for (key, value) in words {
        if key == "workload" {
            workload = Some(value.to_owned());
        } else {
            fields.insert(key.to_owned(), value.parse().ok()?);
        }
    }
    fields.get("ops")?;
    Some(Measurement { scheme: scheme.to_owned(), workload: workload?, fields })
}

impl Measurement {
    /// Of something that was done once, and told nothing itself.
    pub(crate) fn of_one(workload: &str) -> Self {
        let fields = BTreeMap::from([("ops".to_owned(), 1.0)]);
        Self { scheme: String::new(), workload: workload.to_owned(), fields }
    }

    /// Nanoseconds per operation, by the counter; under `-icount` that is instructions.
    pub(crate) fn ns_per_op(&self) -> f64 {
        self.get("ticks") / self.get("hz") * 1e9 / self.get("ops")
    }

    /// A figure as it was reported; 0 if it was not.
    fn get(&self, key: &str) -> f64 {
        self.fields.get(key).copied().unwrap_or(0.0)
    }

    /// A figure that must have been reported to be judged.
    pub(crate) fn told(&self, key: &str) -> Option<f64> {
        self.fields.get(key).copied()
    }

    /// The same per operation.
    pub(crate) fn each(&self, key: &str) -> Option<f64> {
        Some(self.told(key)? / self.get("ops").max(1.0))
    }

    /// All of it, for other programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({"scheme": self.scheme, "workload": self.workload, "figures": self.fields})
    }

    /// What [`Measurement::to_json`] wrote.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let figures = value["figures"].as_object()?.iter();
        let fields = figures.map(|(key, figure)| Some((key.clone(), figure.as_f64()?))).collect::<Option<_>>()?;
        Some(Self { scheme: text("scheme")?, workload: text("workload")?, fields })
    }

    /// Shared read-modify-writes of an `mm_count` for laziness.
    fn lazy_writes(&self) -> f64 {
        self.get("lazy_grabs") + self.get("lazy_drops")
    }

    /// The sum of some figures per operation. A figure that the kernel did not give is no zero.
    pub(crate) fn sum_each(&self, matches: impl Fn(&str) -> bool) -> Option<f64> {
        let found = self.fields.iter().filter(|(key, _)| matches(key)).map(|(_, value)| *value);
        let sum = found.reduce(|sum, value| sum + value)?;
        Some(sum / self.get("ops").max(1.0))
    }

    /// What one operation cost, a text for each of [`COLUMNS`].
    pub(crate) fn costs(&self) -> impl Iterator<Item = String> {
        COLUMNS.iter().map(|(_, matches)| self.sum_each(matches).map_or("-".to_owned(), table::number))
    }

    /// Address spaces that waited at once, at most; nothing if that was not reported.
    pub(crate) fn most_dead(&self) -> String {
        self.level("dead_max")
    }

    fn level(&self, key: &str) -> String {
        self.fields.get(key).map_or("-".to_owned(), |level| format!("{level:.0}"))
    }

    /// Cycles of the CPU per operation; nothing if it has no counter of them.
    fn cycles(&self) -> String {
        self.each(CYCLES).map_or("-".to_owned(), table::number)
    }

    /// Nanoseconds and cycles per operation.
    pub(crate) fn times(&self) -> [String; 2] {
        [self.each("ns").map_or("-".to_owned(), table::number), self.cycles()]
    }

    fn row(&self) -> Vec<String> {
        let per_second = self.get("ops") * 1e9 / self.get("ns").max(1.0);
        let mut row = vec![self.workload.clone(), self.scheme.clone(), table::number(per_second), self.cycles()];
        row.extend(self.costs());
        row.extend([self.level("dead_now"), self.most_dead()]);
        row
    }

    fn is_remote_switch(&self) -> bool {
        self.workload.starts_with("ctx-") && self.workload.ends_with("-other")
    }
}

/// A column: its head, and the counters that are summed in it.
pub(crate) type Column = (&'static str, fn(&str) -> bool);

/// Whether a counter is of broadcast invalidations.
pub(crate) fn is_broadcast(key: &str) -> bool {
    key.starts_with("tlbi_") && key.ends_with("_is")
}

/// The counter of cycles, among the figures.
const CYCLES: &str = "pmccntr_cycles";

/// What is told per operation.
pub(crate) const COLUMNS: [Column; 8] = [
    ("RMW", |key| key == "lazy_grabs" || key == "lazy_drops"),
    ("TTBR0", |key| key == "ttbr0_writes"),
    ("shoot", |key| key == "ipi_shoot"),
    ("resched", |key| key == "ipi_resched"),
    ("call", |key| key == "ipi_call"),
    ("flush", |key| key == "ipi_tlb"),
    ("TLBI-IS", is_broadcast),
    ("TLBI", |key| key.starts_with("tlbi_") && key.ends_with("_local")),
];

fn heads() -> Vec<&'static str> {
    let mut heads = vec!["workload", "scheme", "ops/s", "cycles"];
    heads.extend(COLUMNS.iter().map(|(head, _)| *head));
    heads.extend(["dead", "most"]);
    heads
}

/// The row below the heads: the clock that each figure came from. What counts events has none.
fn clock_row() -> Vec<String> {
    let clocks = ["", "clock:", "CNTVCT", "PMCCNTR"].into_iter().map(str::to_owned);
    clocks.chain(std::iter::repeat_n("-".to_owned(), heads().len() - 4)).collect()
}

/// One table of all boots, as text.
pub(crate) fn table(all: &[Measurement]) -> String {
    let (heads, rows) = cells(all);
    table::render(&heads.iter().map(String::as_str).collect::<Vec<_>>(), 2, &rows)
}

/// Its heads and rows: workloads in the order they ran, the schemes of each next to one another.
pub(crate) fn cells(all: &[Measurement]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut order: Vec<&str> = Vec::new();
    for measurement in all {
        if !order.contains(&measurement.workload.as_str()) {
            order.push(&measurement.workload);
        }
    }
    let of_workload =
        |name: &&str| all.iter().filter(|m| m.workload == *name).map(Measurement::row).collect::<Vec<_>>();
    let rows = std::iter::once(clock_row()).chain(order.iter().flat_map(of_workload)).collect();
    (heads().into_iter().map(str::to_owned).collect(), rows)
}

/// What the columns mean, for whoever sees the table for the first time.
pub(crate) const LEGEND: &str = "\
Per operation: cycles = of the CPU; RMW = shared read-modify-writes of mm_count for laziness; TTBR0 = writes of
TTBR0_EL1; shoot, resched, call, flush = IPIs by reason; TLBI-IS = broadcast, TLBI = local invalidations. dead =
address spaces without users that still wait to be freed, at the end; most = the most at once so far.
";

/// What the clocks of the table are, by whoever makes them tick.
pub(crate) fn clocks(all: &[Measurement], ticking: &str) -> String {
    let hz = all.first().map_or(0.0, |measurement| measurement.get("hz"));
    let cycles = all.iter().any(|measurement| measurement.told(CYCLES).is_some());
    let cycles = if cycles { "PMCCNTR_EL0 of the CPU that measured" } else { "none on this CPU" };
    format!(
        "Clocks: CNTVCT_EL0 at {} Hz, cycles by {cycles}; {ticking}. Columns of \"-\" are counts.\n",
        table::number(hz)
    )
}

/// Shared writes per user→idle→user switch under `scheme`, over all workloads whose partner is on another CPU.
fn lazy_writes_per_switch(all: &[Measurement], scheme: &str) -> Option<f64> {
    let remote = || all.iter().filter(|m| m.scheme == scheme && m.is_remote_switch());
    let switches: f64 = remote().map(|m| m.get("switch_user_kernel")).sum();
    (switches > 0.0).then(|| remote().map(Measurement::lazy_writes).sum::<f64>() / switches)
}

/// The headline, or why the figures do not bear it out. Nothing if neither scheme of it was measured.
///
/// `refcount` writes the shared count twice per user→idle→user switch, `shootdown` never. The few switches that begin
/// inside a measured region and end outside it leave `refcount` a hundredth off; `shootdown` has no such excuse.
pub(crate) fn headline(all: &[Measurement]) -> Result<Option<String>, String> {
    let expected = [("refcount", 1.98..=2.02), ("shootdown", 0.0..=0.0)];
    let (mut figures, mut wrong) = (String::new(), Vec::new());
    for (scheme, range) in expected.into_iter().filter(|(scheme, _)| all.iter().any(|m| m.scheme == *scheme)) {
        match lazy_writes_per_switch(all, scheme) {
            Some(writes) => {
                let _ = write!(figures, " {scheme} {writes:.2}");
                if !range.contains(&writes) {
                    wrong.push(format!("{scheme} should write {:.0}, not {writes:.4}", range.end().floor()));
                }
            }
            None => wrong.push(format!("{scheme} has no ctx-*-other result with switch_user_kernel")),
        }
    }
    let line = format!("mm_count writes per user→idle→user switch:{figures}");
    if wrong.is_empty() {
        Ok((!figures.is_empty()).then_some(line))
    } else {
        Err(format!("{line}: {}", wrong.join("; ")))
    }
}

/// Of a list in JSON, what is a measurement.
pub(crate) fn measurements(list: &Value) -> Vec<Measurement> {
    list.as_array().into_iter().flatten().filter_map(Measurement::from_json).collect()
}

/// All figures, for other programs.
pub(crate) fn to_json(machine: &str, all: &[Measurement]) -> Value {
    json!({"machine": machine, "results": all.iter().map(Measurement::to_json).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(scheme: &str, grabs: u32, drops: u32) -> Measurement {
        let line = format!(
            "result workload=ctx-threads-pipe-other ops=100 ns=1000000 switch_user_kernel=200 ttbr0_writes=0 \
             lazy_grabs={grabs} lazy_drops={drops} tlbi_leaf_is=50 tlbi_asid_is=50 tlbi_all_local=7 dead_max=3\r"
        );
        parse(scheme, &line).remove(0)
    }

    #[test]
    fn only_whole_result_lines_count() {
        let console = "lazybench: x ...\nresult workload=a ops=2 ns=4\nresult workload=b ns=4\nresult ops=1\n\
                       result workload=c ops=x\n";
        let seen = parse("eager", console);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].workload.as_str(), seen[0].get("ns")), ("a", 4.0));
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let one = remote("refcount", 200, 200);
        assert_eq!(Measurement::from_json(&one.to_json()), Some(one));
        assert_eq!(Measurement::from_json(&json!({"scheme": "x"})), None);
    }

    #[test]
    fn a_row_is_per_operation_and_joins_scopes() {
        let row = remote("refcount", 200, 200).row();
        let tail = ["100,000", "-", "4.00", "0", "-", "-", "-", "-", "1.00", "0.07", "-", "3"];
        assert_eq!(row[2..], tail);
        assert_eq!(row.len(), heads().len());
    }

    #[test]
    fn each_figure_has_its_clock() {
        let all = |more: &str| parse("eager", &format!("result workload=a ops=2 ns=1 hz=54000000{more}"));
        let words = |text: &str, line: usize| -> Vec<String> {
            text.lines().nth(line).unwrap_or("").split_whitespace().map(str::to_owned).collect()
        };
        let text = table(&all(" pmccntr_cycles=7"));
        assert_eq!(words(&text, 0)[2..5], ["ops/s", "cycles", "RMW"]);
        assert_eq!(words(&text, 1)[..4], ["clock:", "CNTVCT", "PMCCNTR", "-"]);
        assert_eq!(words(&text, 2)[3], "3.50", "cycles of one operation");
        assert_eq!(words(&table(&all("")), 2)[3], "-");
        let line = clocks(&all(" pmccntr_cycles=7"), "by the board");
        assert_eq!(
            line,
            "Clocks: CNTVCT_EL0 at 54,000,000 Hz, cycles by PMCCNTR_EL0 of the CPU that measured; by the board. \
             Columns of \"-\" are counts.\n"
        );
        assert!(clocks(&all(""), "").contains("none on this CPU"));
    }

    #[test]
    fn a_message_of_the_kernel_may_end_the_line() {
        let cut = parse("", "result workload=a ops=2 ns=1 hz=62500000[   47.112888] reboot: Power down");
        assert_eq!(cut, parse("", "result workload=a ops=2 ns=1 hz=62500000"));
        assert_eq!(cut.len(), 1);
    }

    #[test]
    fn the_table_groups_by_workload() {
        let other = parse("eager", "result workload=syscall ops=1 ns=1").remove(0);
        let text = table(&[remote("refcount", 1, 1), other, remote("shootdown", 0, 0)]);
        let firsts: Vec<_> = text.lines().map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
        let pipe = "ctx-threads-pipe-other";
        let expected = [
            "workload scheme".to_owned(),
            "clock: CNTVCT".to_owned(),
            format!("{pipe} refcount"),
            format!("{pipe} shootdown"),
            "syscall eager".to_owned(),
        ];
        assert_eq!(firsts, expected);
    }

    #[test]
    fn the_headline_holds_or_says_which_figure_is_off() {
        let good = [remote("refcount", 200, 199), remote("shootdown", 0, 0)];
        assert_eq!(
            headline(&good).unwrap().unwrap(),
            "mm_count writes per user→idle→user switch: refcount 2.00 shootdown 0.00"
        );
        let counts = [remote("refcount", 200, 200), remote("shootdown", 1, 0)];
        assert!(headline(&counts).unwrap_err().contains("shootdown should write 0"));
        let misses = [remote("refcount", 100, 100), remote("shootdown", 0, 0)];
        assert!(headline(&misses).unwrap_err().contains("refcount should write 2"));
        let nothing = parse("refcount", "result workload=syscall ops=1 ns=1");
        assert!(headline(&nothing).unwrap_err().contains("no ctx-*-other"));
        let neither = parse("eager", "result workload=syscall ops=1 ns=1");
        assert_eq!(headline(&neither), Ok(None));
    }
}
