//! The matrix as Markdown, and the place in docs/lazy-tlb.md where it stands.

use std::path::Path;

use anyhow::{Context, Result};

use super::Row;
use super::bars::{HEADS, Verdict};
use crate::results::COLUMNS;

const BEGIN: &str = "<!-- matrix: what follows is made by `make matrix` -->";
const END: &str = "<!-- matrix: end -->";

/// Bars and table. `command` makes it again.
pub(crate) fn markdown(command: &str, rows: &[Row], verdicts: &[Verdict]) -> String {
    let verdicts: Vec<_> = verdicts.iter().map(Verdict::row).collect();
    let mut heads = vec!["workload", "configuration"];
    heads.extend(COLUMNS.iter().map(|(head, _)| *head));
    heads.push("most dead");
    format!(
        "Made by `{command}`; `-cpu cortex-a72`, `-icount`: the same build gives the same counts.\n\n{}\n{INTRODUCTION}\n{}",
        table(&HEADS, 3, &verdicts),
        table(&heads, 2, &counts(rows)),
    )
}

const INTRODUCTION: &str = "\
Counts for one operation, on 4 CPUs, and after a slash on 8 where they differ. RMW: shared read-modify-writes of
`mm_count` for laziness. TTBR0: writes of it. shoot, resched, call, flush: IPIs by reason. TLBI-IS, TLBI: broadcast
and local invalidations. most dead: address spaces that waited at once to be freed, since boot.
";

/// A line for each workload in each configuration, with all numbers of CPUs in one cell.
fn counts(rows: &[Row]) -> Vec<Vec<String>> {
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
            let costs = row.measurement.costs().chain([row.measurement.most_dead()]);
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

/// Puts `text` between the two marks of the file.
pub(crate) fn insert(file: &Path, text: &str) -> Result<()> {
    let context = || file.display().to_string();
    let page = std::fs::read_to_string(file).with_context(context)?;
    let page = between(&page, text).with_context(|| format!("{}: no `{BEGIN}` before `{END}`", file.display()))?;
    std::fs::write(file, page).with_context(context)
}

fn between(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
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
        let lines = counts(&[row(4, 300), row(8, 700)]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0][..5], ["exit-walk", "refcount", "-", "2.00", "3.00 / 7.00"]);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = between(&page, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(between(&once, "new\n").unwrap(), once);
        assert_eq!(between("no marks", "new"), None);
    }
}
