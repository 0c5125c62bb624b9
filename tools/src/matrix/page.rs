//! The matrix as Markdown.

use super::Row;
use super::bars::{HEADS, Verdict};
use crate::board::Board;
use crate::ground::Ground;
use crate::qemu::Machine;
use crate::results::COLUMNS;

/// Bars and table. `command` makes it again.
pub(crate) fn markdown(
    command: &str,
    ground: &Ground,
    machine: &Machine,
    rows: &[Row],
    verdicts: &[Verdict],
) -> String {
    let verdicts: Vec<_> = verdicts.iter().map(Verdict::row).collect();
    // Where instructions are counted, time tells nothing new.
    let is_timed = !machine.icount;
    let mut heads = vec!["workload", "configuration"];
    heads.extend(COLUMNS.iter().map(|(head, _)| *head));
    heads.push("most dead");
    heads.extend(TIMES.iter().filter(|_| is_timed));
    let made = match (ground, machine.board) {
        (Ground::Board(_), _) => "on the board".to_owned(),
        (Ground::Qemu, Board::Rpi4) => "QEMU `raspi4b`, `-icount`: the same build gives the same counts".to_owned(),
        (Ground::Qemu, Board::Virt) => {
            format!("`-cpu {}`, `-icount`: the same build gives the same counts", machine.cpu)
        }
    };
    let clock = if is_timed { CLOCKS } else { NO_CLOCK };
    format!(
        "Made by `{command}`; {made}.\n\n{}\n{INTRODUCTION}{clock}\n{}",
        table(&HEADS, 3, &verdicts),
        table(&heads, 2, &counts(rows, is_timed)),
    )
}

const INTRODUCTION: &str = "\
Counts for one operation, on 4 CPUs, and after a slash on 8 where they differ. RMW: shared read-modify-writes of
`mm_count` for laziness. TTBR0: writes of it. shoot, resched, call, flush: IPIs by reason. TLBI-IS, TLBI: broadcast
and local invalidations. most dead: address spaces that waited at once to be freed, since boot.
";

const NO_CLOCK: &str = "\
Clock: none. Every column is a count of events; times are in the file of all figures, `ns` by CNTVCT_EL0 and
`pmccntr_cycles` by PMCCNTR_EL0, and under `-icount` both are numbers of instructions.
";

const CLOCKS: &str = "\
Clocks: the columns of ns and cycles name theirs, which the board makes tick; every other column is a count of events.
";

/// The columns of time, each with its clock.
const TIMES: [&str; 2] = ["ns by CNTVCT_EL0", "cycles by PMCCNTR_EL0"];

/// A line for each workload in each configuration, with all numbers of CPUs in one cell.
fn counts(rows: &[Row], is_timed: bool) -> Vec<Vec<String>> {
    let mut order: Vec<&str> = Vec::new();
    for row in rows {
        if !order.contains(&row.measurement.workload.as_str()) {
            order.push(&row.measurement.workload);
        }
    }
    let mut lines: Vec<Vec<String>> = Vec::new();
    for workload in order {
        let first = lines.len();
        for row in rows.iter().filter(|row| row.measurement.workload == workload) {
            let times = is_timed.then(|| row.measurement.times()).into_iter().flatten();
            let costs = row.measurement.costs().chain([row.measurement.most_dead()]).chain(times);
            let name = &row.configuration.name;
            match lines[first..].iter_mut().find(|line| line[1] == *name) {
                Some(line) => line[2..].iter_mut().zip(costs).for_each(|(cell, cost)| join(cell, &cost)),
                None => lines.push([workload.to_owned(), name.clone()].into_iter().chain(costs).collect()),
            }
        }
    }
    lines
}

fn join(cell: &mut String, cost: &str) {
    if cell != cost {
        *cell += &format!(" / {cost}");
    }
}

/// The first `left` columns are words, the others numbers.
fn table(heads: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut out = line(&mut heads.iter().copied());
    out += &line(&mut (0..heads.len()).map(|column| if column < left { "---" } else { "---:" }));
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::configuration;
    use super::*;
    use crate::results;

    #[test]
    fn the_numbers_of_cpus_share_a_cell_where_they_agree() {
        let configuration = configuration::all().remove(0);
        let row = |cpus, shoots| {
            let line = format!("result workload=exit-walk ops=100 ttbr0_writes=200 ipi_shoot={shoots}");
            Row { configuration: configuration.clone(), cpus, measurement: results::parse("x", &line).remove(0) }
        };
        let lines = counts(&[row(4, 300), row(8, 700)], false);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0][..5], ["exit-walk", "refcount", "-", "2.00", "3.00 / 7.00"]);
    }

    #[test]
    fn the_page_names_the_clock_of_its_figures() {
        let configuration = configuration::all().remove(0);
        let measurement = results::parse("x", "result workload=a ops=2 ns=5 ticks=9 hz=1000000000 pmccntr_cycles=7");
        let rows = [Row { configuration, cpus: 4, measurement: measurement[0].clone() }];
        let page = |icount| {
            let machine = Machine { icount, board: Board::Rpi4, ..Machine::of("k".into()) };
            markdown("make matrix BOARD=rpi4", &Ground::Qemu, &machine, &rows, &[])
        };
        let (counted, timed) = (page(true), page(false));
        assert!(counted.contains("\nClock: none.") && counted.contains("most dead |\n"), "{counted}");
        assert!(timed.contains("| ns by CNTVCT_EL0 | cycles by PMCCNTR_EL0 |\n"), "{timed}");
        assert!(timed.ends_with("| 2.50 | 3.50 |\n"), "{timed}");
    }
}
