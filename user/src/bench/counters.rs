//! The kernel's own counters, if it has any: `/proc/lazy_tlb`.
//!
//! The file starts with option lines (`scheme: refcount`, `debug: 1`), then one line per counter: its name, the total,
//! and one value per CPU. Lines of any other shape are skipped, so that the file may grow.

use std::fs;

/// Where Lazuli shows its counters.
pub const PATH: &str = "/proc/lazy_tlb";

/// The counters at one moment, in the order of the file. Empty on a kernel that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(String, i64)>);

impl Counters {
    /// Reads them now.
    pub fn read() -> Self {
        fs::read_to_string(PATH).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(parse_line).collect())
    }

    /// Name and change since `earlier`; of a gauge, the value it has now.
    pub fn since(&self, earlier: &Self) -> Vec<(String, i64)> {
        let before = |name: &str| earlier.0.iter().find(|(n, _)| n == name).map_or(0, |(_, value)| *value);
        let change = |(name, now): &(String, i64)| {
            let base = if is_gauge(name) { 0 } else { before(name) };
            (name.clone(), now - base)
        };
        self.0.iter().map(change).collect()
    }
}

/// A level rather than a count of events: a difference of two would mean nothing.
pub fn is_gauge(name: &str) -> bool {
    ["_now", "_max", "_limit"].iter().any(|end| name.ends_with(end))
}

fn parse_line(line: &str) -> Option<(String, i64)> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| !name.ends_with(':'))?;
    let values = words.map(str::parse).collect::<Result<Vec<i64>, _>>().ok()?;
    Some((name.to_string(), *values.first()?))
}

/// The value of an option line such as `scheme: refcount`.
pub fn option(name: &str) -> Option<String> {
    let text = fs::read_to_string(PATH).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "scheme: refcount\nttbr0_writes 7 3 4\nlazy_grabs 2 2 0\ndead_mms_now 1 1 0\n\nodd line\n";
    const AFTER: &str = "scheme: refcount\nttbr0_writes 17 10 7\nlazy_grabs 2 2 0\ndead_mms_now 3 3 0\nnew 5\n";

    #[test]
    fn counts_are_differences_and_gauges_are_levels() {
        let change = Counters::parse(AFTER).since(&Counters::parse(BEFORE));
        let expected = [("ttbr0_writes", 10), ("lazy_grabs", 0), ("dead_mms_now", 3), ("new", 5)];
        assert_eq!(change, expected.map(|(name, value)| (name.to_string(), value)));
    }

    #[test]
    fn lines_of_another_shape_are_skipped() {
        assert_eq!(Counters::parse("scheme: eager\ndebug: 1\nname\nname x 1\nname 1 x\n"), Counters::default());
    }
}
