//! A boot as a time line: how many instructions each line of the bring-up takes, from reset to the first program.

use std::collections::BTreeMap;

use crate::symbols::Symbols;

/// The functions whose lines are the stages, one calling the next.
const BRING_UP: [&str; 3] = ["start::start_primary", "start::start_cpus", "kernel_main"];
/// Where the first program begins.
const PROGRAM: &str = "process::thread::begin";
/// What has less of the whole than this part is told together with what came before it.
const SMALL: f64 = 0.005;

/// A stretch of the boot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stage {
    pub(crate) what: String,
    pub(crate) instructions: u64,
}

/// The stages of a boot of so many instructions, of which each of these addresses was first executed after so many.
pub(crate) fn of(firsts: &BTreeMap<u64, u64>, all: u64, symbols: &Symbols) -> Vec<Stage> {
    let starts = firsts.iter().filter_map(|(&address, &first)| Some((line(&symbols.frames(address))?, first)));
    between(&earliest(starts), all)
}

/// The line of the bring-up that an address is of.
fn line(frames: &[(String, String, u32)]) -> Option<(String, u32)> {
    let is = |name: &str, known: &str| name == known || name.ends_with(&format!("::{known}"));
    if frames.iter().any(|(name, ..)| is(name, PROGRAM)) {
        return Some(("the program".to_owned(), 0));
    }
    let frame = frames.iter().find(|(name, ..)| BRING_UP.iter().any(|known| is(name, known)))?;
    Some((frame.1.clone(), frame.2))
}

/// When each line began.
fn earliest(starts: impl Iterator<Item = ((String, u32), u64)>) -> Vec<(u64, String)> {
    let mut first: BTreeMap<(String, u32), u64> = BTreeMap::new();
    for (line, at) in starts {
        first.entry(line).and_modify(|known| *known = at.min(*known)).or_insert(at);
    }
    let mut sorted: Vec<_> = first.into_iter().map(|((file, line), at)| (at, text(&file, line))).collect();
    sorted.sort();
    sorted
}

/// A line of the source, or where it is.
fn text(file: &str, line: u32) -> String {
    if line == 0 {
        return file.to_owned();
    }
    let source = std::fs::read_to_string(file).unwrap_or_default();
    let words = source.lines().nth(line as usize - 1).map(statement);
    words.filter(|words| !words.is_empty()).map_or_else(|| format!("{file}:{line}"), str::to_owned)
}

/// What a line of source does, without what it calls the outcome.
fn statement(text: &str) -> &str {
    let text = text.trim().trim_end_matches([';', '{', ' ']);
    text.strip_prefix("let ").and_then(|text| text.split_once(" = ")).map_or(text, |(_, does)| does)
}

/// From the beginning of one to the beginning of the next.
fn between(starts: &[(u64, String)], all: u64) -> Vec<Stage> {
    let ends = starts.iter().skip(1).map(|(at, _)| *at).chain([all]);
    let first = Stage {
        what: "boot.s, before the kernel's own addresses".to_owned(),
        instructions: starts.first().map_or(all, |(at, _)| *at),
    };
    let mut stages = vec![first];
    for ((at, what), end) in starts.iter().zip(ends) {
        let instructions = end.saturating_sub(*at);
        match stages.last_mut() {
            Some(last) if (instructions as f64) < SMALL * all as f64 => last.instructions += instructions,
            _ => stages.push(Stage { what: what.clone(), instructions }),
        }
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str, line: u32) -> (String, String, u32) {
        (name.to_owned(), "src/none.rs".to_owned(), line)
    }

    #[test]
    fn an_address_belongs_to_the_line_that_led_to_it() {
        let inlined =
            [frame("lazuli::uart::init", 9), frame("lazuli::start::start_primary", 40), frame("kernel_main", 1)];
        assert_eq!(line(&inlined), Some(("src/none.rs".to_owned(), 40)));
        assert_eq!(line(&[frame("lazuli::restart::start_primary", 4)]), None);
        assert_eq!(line(&[frame("lazuli::process::thread::begin", 4)]), Some(("the program".to_owned(), 0)));
    }

    #[test]
    fn a_line_is_told_by_what_it_does() {
        let lines = ["    let a = b::init(c);", "    machine::init(x, y == z);", "if d::wanted() {"];
        assert_eq!(lines.map(statement), ["b::init(c)", "machine::init(x, y == z)", "if d::wanted()"]);
    }

    #[test]
    fn stages_follow_each_other_and_small_ones_are_part_of_the_one_before() {
        let at = |line: u32, first: u64| (("src/none.rs".to_owned(), line), first);
        let starts = earliest([at(2, 500), at(1, 100), at(2, 700), at(3, 999), at(1, 90)].into_iter());
        assert_eq!(starts.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [90, 500, 999]);
        let stages = between(&starts, 1000);
        let told: Vec<_> = stages.iter().map(|stage| (stage.what.as_str(), stage.instructions)).collect();
        let boot = "boot.s, before the kernel's own addresses";
        assert_eq!(told, [(boot, 90), ("src/none.rs:1", 410), ("src/none.rs:2", 500)]);
        assert_eq!(stages.iter().map(|stage| stage.instructions).sum::<u64>(), 1000);
    }
}
