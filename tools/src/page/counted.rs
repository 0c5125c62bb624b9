//! The parts of the report that are about instructions: of Lazuli against its bars, beside Linux, and by function.

use serde_json::Value;

use super::chart::{Bar, Group};
use super::paths::SWITCHES;
use super::section::{Section, Table};
use super::sections::with_bars;
use crate::results::Column;
use crate::table;

pub(super) fn operations(file: Option<&Value>) -> Section {
    let (mut groups, mut rows) = (Vec::new(), Vec::new());
    for bar in file.and_then(|file| file["bars"].as_array()).into_iter().flatten() {
        let (Some(name), Some(cost), Some(most)) =
            (bar["operation"].as_str(), bar["instructions"].as_f64(), bar["most"].as_f64())
        else {
            continue;
        };
        let drawn =
            Bar { name: String::new(), value: cost, limit: Some(most), series: if cost <= most { 0 } else { 5 } };
        groups.push(Group { name: name.to_owned(), bars: vec![drawn] });
        rows.push(vec![name.to_owned(), table::number(cost), table::number(most)]);
    }
    let section = Section {
        id: "bars",
        title: "Instructions per operation, and their bars",
        text:
            "Instructions of the kernel (EL1) on all CPUs for one operation, of the last row all; the line is what the \
               project allows itself."
                .to_owned(),
        command: "make bars".to_owned(),
        figure: None,
        table: Some(Table {
            heads: ["operation", "instructions", "at most"].map(str::to_owned).into(),
            words: 1,
            rows,
        }),
    };
    with_bars(section, groups)
}

pub(super) fn beside_linux(file: Option<&Value>) -> Section {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let kernels = file.map(|file| list(&file["kernels"])).unwrap_or_default();
    let names: Vec<_> = kernels.iter().filter_map(|kernel| kernel["name"].as_str()).collect();
    let (mut groups, mut rows) = (Vec::new(), Vec::new());
    for row in file.map(|file| list(&file["rows"])).unwrap_or_default() {
        let runs = list(&row["runs"]);
        let cost = |name: &str| runs.iter().find(|run| run["kernel"] == name)?["cost"].as_f64();
        let bar = |(series, name): (usize, &&str)| {
            Some(Bar { name: (*name).to_owned(), value: cost(name)?, limit: None, series })
        };
        let what = row["operation"].as_str().unwrap_or_default().to_owned();
        groups.push(Group { name: what.clone(), bars: names.iter().enumerate().filter_map(bar).collect() });
        let cell = |name: &&str| cost(name).map_or("-".to_owned(), table::number);
        let times = |name: &&str| {
            let times = cost(name).zip(cost(names[0])).map(|(theirs, ours)| theirs / ours);
            times.map_or("-".to_owned(), |times| format!("{times:.1}"))
        };
        rows.push(std::iter::once(what).chain(names.iter().map(cell)).chain(names.iter().skip(1).map(times)).collect());
    }
    let mut heads: Vec<_> =
        std::iter::once("operation".to_owned()).chain(names.iter().map(|&n| n.to_owned())).collect();
    heads.extend(names.iter().skip(1).map(|name| format!("{name} / {}", names[0])));
    let section = Section {
        id: "linux",
        title: "Linux beside Lazuli",
        text: format!(
            "The same program in the same QEMU, counted by the same plugin: instructions of the kernel (EL1) on all CPUs for \
             one operation, of the last row all. Linux does far more than Lazuli on each of these paths (cgroups, \
             security modules, accounting, signals, fair scheduling): the factor is the price of that, and no fault. {}",
            kernel_words(file, &kernels)
        ),
        command: "make bench-linux".to_owned(),
        figure: None,
        table: Some(Table { heads, words: 1, rows }),
    };
    with_bars(section, groups)
}

/// The kernels of the README's table, the one that makes the least of the difference first.
const IN_SHORT: [(&str, &str); 3] =
    [("Lazuli", "Lazuli"), ("Linux tuned", "Linux, tuned"), ("Linux", "Linux, as Debian ships it")];

/// What operations cost on each kernel, and no more. None if something was not measured.
pub(super) fn both(file: &Value) -> Option<Table> {
    let row = |row: &Value| {
        let cost = |(name, _): &(&str, &str)| {
            let run = row["runs"].as_array()?.iter().find(|run| run["kernel"] == *name)?;
            Some(table::number(run["cost"].as_f64()?))
        };
        let costs = IN_SHORT.iter().map(cost).collect::<Option<Vec<_>>>()?;
        Some(std::iter::once(row["operation"].as_str()?.to_owned()).chain(costs).collect())
    };
    let rows = file["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?;
    let heads = std::iter::once("operation").chain(IN_SHORT.map(|(_, head)| head));
    Some(Table { heads: heads.map(str::to_owned).collect(), words: 1, rows })
}

/// What else is counted: the column, and the plugin's counts that are summed in it.
const EVENTS: [Column; 8] = [
    ("TTBR0", |name| name == "ttbr0"),
    ("TTBR1", |name| name == "ttbr1"),
    ("ISB", |name| name == "isb"),
    ("DSB", |name| name.starts_with("dsb")),
    ("atomics", |name| matches!(name, "lse" | "store_exclusive")),
    ("TLBI", |name| name.starts_with("tlbi")),
    ("SGI", |name| name == "sgi"),
    ("lines", |name| name.starts_with("lines_")),
];

pub(super) fn events(file: Option<&Value>) -> Section {
    let (mut groups, mut rows) = (Vec::new(), Vec::new());
    for row in file.and_then(|file| file["rows"].as_array()).into_iter().flatten() {
        let what = row["operation"].as_str().unwrap_or_default();
        let mut bars = Vec::new();
        for (series, run) in row["runs"].as_array().into_iter().flatten().enumerate() {
            let counts = run["each"].as_object().into_iter().flatten();
            let sum = |of: fn(&str) -> bool| {
                counts.clone().filter(|(name, _)| of(name)).filter_map(|(_, count)| count.as_f64()).sum::<f64>()
            };
            let kernel = run["kernel"].as_str().unwrap_or_default();
            let words = [what, kernel].map(str::to_owned).into_iter();
            rows.push(words.chain(EVENTS.map(|(_, of)| table::number(sum(of)))).collect());
            let value = sum(|name| name == "isb" || name.starts_with("dsb"));
            bars.push(Bar { name: kernel.to_owned(), value, limit: None, series });
        }
        if SWITCHES.contains(&what) {
            groups.push(Group { name: format!("ISBs and DSBs, {what}"), bars });
        }
    }
    let heads = ["operation", "kernel"].into_iter().chain(EVENTS.map(|(head, _)| head)).map(str::to_owned).collect();
    let section = Section {
        id: "events",
        title: "The same operations by what they do to the machine",
        text: "For one operation, on all CPUs: writes of TTBR0_EL1 and TTBR1_EL1, barriers, atomic read-modify-writes \
               (store-exclusives, on a Cortex-A72), TLB invalidations of all kinds, SGIs, and, where there are two CPUs, \
               64-byte lines of memory that moved between them: a lower bound, because under -icount they take turns."
            .to_owned(),
        command: "make bench-linux".to_owned(),
        figure: None,
        table: Some(Table { heads, words: 2, rows }),
    };
    with_bars(section, groups)
}

pub(super) fn spread(file: Option<&Value>) -> Section {
    let (mut groups, mut rows): (Vec<Group>, Vec<_>) = (Vec::new(), Vec::new());
    for spread in file.and_then(|file| file["spread"].as_array()).into_iter().flatten() {
        let word = |key: &str| spread[key].as_str().unwrap_or_default().to_owned();
        let ends: Vec<f64> = spread["ends"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let &[_, median, most] = ends.as_slice() else { continue };
        let name = format!("{}, {}", word("what"), word("operation"));
        if groups.iter().all(|group| group.name != name) {
            groups.push(Group { name: name.clone(), bars: Vec::new() });
        }
        for group in groups.iter_mut().filter(|group| group.name == name) {
            let series = group.bars.len();
            group.bars.push(Bar { name: word("kernel"), value: median, limit: Some(most), series });
        }
        let words = ["operation", "kernel", "what"].map(word).into_iter();
        rows.push(words.chain(ends.into_iter().map(table::number)).collect());
    }
    let section = Section {
        id: "spread",
        title: "The same with CPUs that really run at once: noise",
        text: "The operation of two CPUs again, with a host thread for each virtual CPU: the median of several boots, and by a \
               mark the most. Threads of the host decide who waits for whom, so that nothing is judged by these figures."
            .to_owned(),
        command: "make bench-linux".to_owned(),
        figure: None,
        table: Some(Table {
            heads: ["operation", "kernel", "what", "least", "median", "most"].map(str::to_owned).into(),
            words: 3,
            rows,
        }),
    };
    with_bars(section, groups)
}

/// Which kernels, with which command lines, in which QEMU.
fn kernel_words(file: Option<&Value>, kernels: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kernel = |kernel: &Value| {
        let words = kernel["words"].as_str().map(|words| format!(" with `{words}`")).unwrap_or_default();
        format!("{}: {}{words}. ", text(&kernel["name"]), text(&kernel["version"]))
    };
    let all: String = kernels.iter().map(kernel).collect();
    file.map_or(String::new(), |file| {
        format!("{all}{}, -cpu {}, -icount, -seed 1.", text(&file["qemu"]), text(&file["cpu"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kernel_has_a_column_and_linux_a_factor() {
        let run = |kernel: &str, cost: f64| json!({"kernel": kernel, "cost": cost});
        let file = json!({
            "qemu": "QEMU 10", "cpu": "cortex-a72",
            "kernels": [{"name": "Lazuli", "version": "Lazuli 1"}, {"name": "Linux", "version": "Linux 6", "words": "a=b"}],
            "rows": [{"operation": "fork", "runs": [run("Lazuli", 100.0), run("Linux", 90.0)]}],
        });
        let section = beside_linux(Some(&file));
        let table = section.table.unwrap();
        assert_eq!(table.heads, ["operation", "Lazuli", "Linux", "Linux / Lazuli"]);
        assert_eq!(table.rows, [["fork", "100", "90.0", "0.9"]]);
        assert!(section.text.contains("Linux: Linux 6 with `a=b`. QEMU 10, -cpu cortex-a72"), "{}", section.text);
        assert!(beside_linux(None).figure.is_none());
    }

    #[test]
    fn the_short_table_is_of_all_kernels_or_none() {
        let run = |kernel: &str, cost: f64| json!({"kernel": kernel, "cost": cost});
        let runs = |last: &str| json!([run("Lazuli", 1.0), run("Linux", 466.0), run(last, 299.0)]);
        let file = |last| json!({"rows": [{"operation": "null", "runs": runs(last)}]});
        let table = both(&file("Linux tuned")).unwrap();
        assert_eq!(
            (table.heads.len(), table.rows),
            (4, vec![["null", "1.00", "299", "466"].map(str::to_owned).to_vec()])
        );
        assert!(both(&file("BSD")).is_none());
    }

    #[test]
    fn events_of_a_kind_are_summed() {
        let each = json!({"dsb": 1.0, "dsb_local": 2.0, "isb": 4.0, "store_exclusive": 3.5, "el1": 70.0});
        let runs = json!([{"kernel": "Linux", "each": each}]);
        let section = events(Some(&json!({"rows": [{"operation": SWITCHES[0], "runs": runs}]})));
        let expected = [SWITCHES[0], "Linux", "0", "0", "4.00", "3.00", "3.50", "0", "0", "0"];
        assert_eq!(section.table.unwrap().rows, [expected]);
        assert!(section.figure.is_some_and(|figure| figure.contains(">\n7.00\n")));
    }

    #[test]
    fn what_is_noise_is_told_by_median_and_ends() {
        let of =
            |kernel: &str, ends: &[f64]| json!({"operation": "pipe", "kernel": kernel, "what": "lines", "ends": ends});
        let file =
            json!({"spread": [of("Lazuli", &[7.0, 8.0, 9.0]), of("Linux", &[60.0, 65.0, 70.0]), of("none", &[])]});
        let section = spread(Some(&file));
        let rows = section.table.unwrap().rows;
        assert_eq!(
            rows,
            [["pipe", "Lazuli", "lines", "7.00", "8.00", "9.00"], ["pipe", "Linux", "lines", "60.0", "65.0", "70.0"]]
        );
        assert!(spread(Some(&json!({}))).figure.is_none());
    }
}
