//! The kernel's own counters, if it has any: `/proc/lazy_tlb`.
//!
//! The file starts with option lines (`scheme: refcount`, `debug: 1`), then one line per counter: its name, the total,
//! and one value per CPU. Lines of any other shape are skipped, so that the file may grow.

use std::{
    fs::{self, File},
    io::Read,
};

use crate::sys::cpu;

/// Where Lazuli shows its counters.
pub const PATH: &str = "/proc/lazy_tlb";

/// The level that must not sink: the memory that is free.
const FREE: &str = "free_frames_now";
/// By how much it sank.
const LOST: &str = "free_frames_lost";

/// Room in the file for the options and the names, and for each CPU's values.
const ROOM: usize = 16 << 10;
const ROOM_FOR_CPU: usize = 1 << 10;

/// Memory for the file, got and touched before anything is counted.
#[derive(Debug)]
pub struct Room(Vec<u8>);

impl Room {
    /// Enough for all CPUs.
    pub fn new() -> Self {
        let cpus = cpu::allowed().map_or(1, |cpus| cpus.len());
        Self(vec![1; ROOM + cpus * ROOM_FOR_CPU])
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

/// The file as it was at one moment, not looked at yet: memory that is got or given back after that moment would be
/// counted in the region that begins.
#[derive(Debug)]
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    /// Takes it. Empty on a kernel that has no counters.
    pub fn take(room: Room) -> Self {
        let mut text = room.0;
        text.clear();
        if File::open(PATH).and_then(|mut file| file.read_to_end(&mut text)).is_err() {
            text.clear();
        }
        Self(text)
    }

    /// What it says.
    pub fn counters(&self) -> Counters {
        Counters::parse(&String::from_utf8_lossy(&self.0))
    }
}

/// The counters at one moment, in the order of the file. Empty on a kernel that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(String, i64)>);

impl Counters {
    /// Reads them now.
    pub fn read() -> Self {
        Snapshot::take(Room::new()).counters()
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(parse_line).collect())
    }

    /// Name and change since `earlier`; of a gauge, the value it has now, and how much free memory went.
    pub fn since(&self, earlier: &Self) -> Vec<(String, i64)> {
        let before = |name: &str| earlier.0.iter().find(|(n, _)| n == name).map_or(0, |(_, value)| *value);
        let change = |(name, now): &(String, i64)| {
            let base = if is_gauge(name) { 0 } else { before(name) };
            (name.clone(), now - base)
        };
        let lost =
            self.0.iter().filter(|(name, _)| name == FREE).map(|(_, now)| (LOST.to_string(), before(FREE) - now));
        self.0.iter().map(change).chain(lost).collect()
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
    fn memory_that_went_is_told() {
        let change = Counters::parse("free_frames_now 90\n").since(&Counters::parse("free_frames_now 100\n"));
        assert_eq!(change, [("free_frames_now".to_string(), 90), ("free_frames_lost".to_string(), 10)]);
    }

    #[test]
    fn lines_of_another_shape_are_skipped() {
        assert_eq!(Counters::parse("scheme: eager\ndebug: 1\nname\nname x 1\nname 1 x\n"), Counters::default());
    }
}
