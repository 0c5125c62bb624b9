//! One function for each reader: what it makes of any bytes at all must be sound, or an error that can be printed.

use formats::command_line::{Line, join};
use formats::device_tree::{self, Fdt, Platform, Region};
use formats::{cpio as archive, elf as program};
use mm::{Config, PAGE_SIZE};

/// A device tree.
pub fn device_tree(bytes: &[u8]) {
    let Ok(tree) = Fdt::new(bytes) else { return };
    let _ = (device_tree::bootargs(tree), device_tree::random_seed(tree));
    let platform = match Platform::parse(tree) {
        Ok(platform) => platform,
        Err(error) => return assert!(error.to_string().starts_with("device tree: ")),
    };
    assert!(!platform.ram.is_empty(), "a machine has memory");
    assert!(platform.ram.iter().all(is_whole_pages), "memory in whole pages: {:x?}", platform.ram);
    let sorted = platform.ram.windows(2).all(|pair| pair[0].end() <= pair[1].base);
    assert!(sorted, "memory in order, and no byte twice: {:x?}", platform.ram);
    assert!(platform.reserved.iter().all(is_whole_pages), "what is taken, in whole pages: {:x?}", platform.reserved);
    assert_eq!(platform.cpus().count(), platform.cpu_count, "each CPU is told");
    assert!((16..1020).contains(&platform.timer_interrupt), "an interrupt that exists");
}

fn is_whole_pages(region: &Region) -> bool {
    region.len != 0 && region.inward() == *region && region.end() <= 1 << 48
}

/// A command line; with a line break in it, the bundle's and the loader's.
pub fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    for line in [first, second] {
        if let Err(error) = Line(line).check() {
            assert!(error.to_string().starts_with("command line: "));
            return;
        }
    }
    let joined = join(first, second);
    let line = Line(&joined);
    for (option, _) in Line(second).options() {
        assert_eq!(line.get(option), Line(second).get(option), "the loader's {option} counts");
    }
    for (option, _) in Line(first).options().filter(|(option, _)| Line(second).get(option).is_none()) {
        assert_eq!(line.get(option), Line(first).get(option), "the bundle's {option} is not lost");
    }
    assert!(line.check().is_ok(), "two lines that mean something mean something together");
    for line in [first, second, &joined] {
        config(Line(line));
    }
}

/// What the mm layer makes of a line, it can print, and takes again.
fn config(line: Line<'_>) {
    let read = |line: Line<'_>| {
        let mut config = Config::default();
        for (option, value) in line.options() {
            if let Err(error) = config.set(option, value) {
                assert!(!error.to_string().is_empty());
                return None;
            }
        }
        Some(config)
    };
    let Some(config) = read(line) else { return };
    if let Err(error) = config.check() {
        return assert!(error.to_string().contains("means nothing"));
    }
    for (hardware, cpus) in [(8, 1), (8, 4), (16, 512)] {
        let bits = config.usable_asid_bits(hardware, cpus);
        assert!(bits.is_err() || bits.is_ok_and(|bits| (1 << bits) - 1 > cpus), "rule 7 for {cpus} CPUs: {bits:?}");
    }
    let printed = config.to_string();
    assert_eq!(read(Line(&printed)), Some(config), "printed as `{printed}`");
}

/// One or more cpio archives.
pub fn cpio(bytes: &[u8]) {
    let range = bytes.as_ptr_range();
    let inside =
        |part: &[u8]| part.is_empty() || range.contains(&part.as_ptr()) && part.as_ptr_range().end <= range.end;
    let mut entries = archive::entries(bytes);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                assert!(!entry.name.is_empty() && !entry.name.contains(&0), "{:?} is a name", entry.name);
                assert!(inside(entry.name) && inside(entry.data), "name and data lie in the archive");
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(entries.next().is_none(), "nothing is read behind an error");
            }
        }
        count += 1;
        assert!(count * 110 <= bytes.len() + 110, "no member is smaller than its header");
    }
}

/// A program file.
pub fn elf(bytes: &[u8]) {
    let plan = match program::plan(bytes) {
        Ok(plan) => plan,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for segment in &plan.segments {
        let program::Segment { start, end, file_start, file_end, .. } = *segment;
        assert!(
            start.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE) && start < end,
            "whole pages: {segment:x?}"
        );
        assert!(start >= 0x1_0000 && end <= 1 << 47, "where programs may lie: {segment:x?}");
        assert!(file_start <= file_end && file_end <= bytes.len(), "contents that the file has: {segment:x?}");
        assert!((file_end - file_start) as u64 <= end - start, "contents that fit: {segment:x?}");
    }
    assert!(plan.segments.windows(2).all(|pair| pair[0].end <= pair[1].start), "no page twice: {plan:x?}");
    let entry = plan.segments.iter().find(|segment| (segment.start..segment.end).contains(&plan.entry));
    assert!(entry.is_some_and(|segment| segment.protection.execute), "it starts in code: {plan:x?}");
    assert_eq!(Some(plan.heap), plan.segments.iter().map(|segment| segment.end).max(), "the heap is above all");
}
