//! The parts of the report that take a path of the kernel apart: a switch by function, a boot by the lines of its bring-up.

use serde_json::Value;

use super::chart::{Bar, Group, steps};
use super::section::{Section, Table};
use super::sections::with_bars;
use crate::table;

/// The operations that are taken apart, and how many functions of each are drawn.
pub(super) const SWITCHES: [&str; 3] =
    ["yield switch between processes", "pipe switch, same CPU", "pipe switch, across CPUs"];
const FUNCTIONS: usize = 16;
/// Letters of a line of source that stand beside a bar.
const LONGEST_LINE: usize = 34;

pub(super) fn switch(file: Option<&Value>) -> Section {
    let (mut groups, mut rows) = (Vec::new(), Vec::new());
    for bar in file.and_then(|file| file["bars"].as_array()).into_iter().flatten() {
        let Some(what) = bar["operation"].as_str().filter(|what| SWITCHES.contains(what)) else { continue };
        let of_pair = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_f64()?));
        let functions: Vec<_> = bar["functions"].as_array().into_iter().flatten().filter_map(of_pair).collect();
        let (most, others) = functions.split_at(functions.len().min(FUNCTIONS));
        let rest: f64 = others.iter().map(|(_, cost)| cost).sum();
        let shown = most.iter().cloned().chain([(format!("{} others", others.len()), rest)]);
        let shown: Vec<_> = shown.filter(|(_, cost)| *cost > 0.0).collect();
        rows.extend(shown.iter().map(|(name, cost)| vec![what.to_owned(), name.clone(), table::number(*cost)]));
        let drawn = |(name, value): (String, f64)| Bar { name: last_words(&name), value, limit: None, series: 0 };
        groups.push(Group { name: what.to_owned(), bars: shown.into_iter().map(drawn).collect() });
    }
    let section = Section {
        id: "switch",
        title: "What a switch costs, by function",
        text: "Instructions of the kernel (EL1) for one operation, by the function in whose source they stand, wherever it was \
               inlined; what the standard library does counts for who asked it to."
            .to_owned(),
        command: "make bars".to_owned(),
        figure: None,
        table: Some(Table {
            heads: ["operation", "function", "instructions"].map(str::to_owned).into(),
            words: 2,
            rows,
        }),
    };
    with_bars(section, groups)
}

pub(super) fn boot(file: Option<&Value>) -> Section {
    let (id, title, command) = ("boot", "From reset to the first program, line by line", "make bars");
    let bars = file.and_then(|file| file["bars"].as_array()).into_iter().flatten();
    let (mut drawn, mut rows, mut before) = (Vec::new(), Vec::new(), 0.0);
    for stage in bars.filter_map(|bar| bar["stages"].as_array()).flatten() {
        let (what, instructions) = (stage[0].as_str().unwrap_or_default(), stage[1].as_f64().unwrap_or(0.0));
        drawn.push((what.chars().take(LONGEST_LINE).collect(), instructions));
        rows.push(vec![what.to_owned(), table::number(before), table::number(instructions)]);
        before += instructions;
    }
    if drawn.is_empty() {
        return Section::absent(id, title, command);
    }
    Section {
        id,
        title,
        text: "Instructions of all CPUs, with four of them, in the order in which the lines of the bring-up (src/start.rs and \
               src/main.rs) first run; each line has what happened until the next. What is small counts for the line before."
            .to_owned(),
        command: command.to_owned(),
        figure: Some(steps(title, &drawn)),
        table: Some(Table {
            heads: ["line", "begins after", "instructions"].map(str::to_owned).into(),
            words: 1,
            rows,
        }),
    }
}

/// The last two words of a function's path, without what stands in angle brackets: short enough to stand beside a bar.
fn last_words(name: &str) -> String {
    const LONGEST: usize = 26;
    let (mut depth, mut plain) = (0u32, String::new());
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let parts: Vec<_> = plain.split("::").filter(|part| !part.is_empty()).collect();
    let short = parts[parts.len().saturating_sub(2)..].join("::");
    if short.chars().count() <= LONGEST { short } else { parts[parts.len() - 1].to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn functions_that_are_not_drawn_are_summed() {
        let functions: Vec<_> = (0..FUNCTIONS + 2).map(|n| json!([format!("lazuli::f{n}"), 2.0])).collect();
        let file = json!({"bars": [
            {"operation": SWITCHES[0], "functions": functions},
            {"operation": "fork", "functions": [["x", 1.0]]},
        ]});
        let rows = switch(Some(&file)).table.unwrap().rows;
        assert_eq!(rows.len(), FUNCTIONS + 1);
        assert_eq!(rows[FUNCTIONS], [SWITCHES[0], "2 others", "4.00"]);
    }

    #[test]
    fn stages_of_a_boot_are_told_in_their_order() {
        let file = json!({"bars": [{"operation": "x"}, {"stages": [["uart::init()", 300], ["memory::init()", 50], ["gic::init()", 9]]}]});
        let rows = boot(Some(&file)).table.unwrap().rows;
        assert_eq!(
            rows,
            [["uart::init()", "0", "300"], ["memory::init()", "300", "50.0"], ["gic::init()", "350", "9.00"]]
        );
        assert!(boot(Some(&json!({"bars": []}))).figure.is_none());
    }

    #[test]
    fn names_beside_bars_are_short() {
        let seen = ["mm::switch::Cpu<lazuli::M>::enter", "lazuli::sched::run::pick", "memcpy", "<a::B as c::D>::e"]
            .map(last_words);
        assert_eq!(seen, ["Cpu::enter", "run::pick", "memcpy", "e"]);
    }
}
