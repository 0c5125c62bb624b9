//! The one format in which every test on target reports: `ok NAME`, `FAIL NAME: why`, `skip NAME: why`, a sum.

/// What became of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ok,
    Fail,
    Skip,
}

/// One reported test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    /// Why it failed or was skipped.
    pub(crate) why: &'a str,
}

/// The reported tests of a console, in order.
pub(crate) fn lines(console: &str) -> impl Iterator<Item = Line<'_>> {
    console.lines().filter_map(parse)
}

fn parse(line: &str) -> Option<Line<'_>> {
    let line = line.trim_end();
    let (kind, rest) = if let Some(rest) = line.strip_prefix("ok ") {
        (Kind::Ok, rest)
    } else if let Some(rest) = line.strip_prefix("FAIL ") {
        (Kind::Fail, rest)
    } else {
        (Kind::Skip, line.strip_prefix("skip ")?)
    };
    // Names hold no blank; names may hold `::`, so only a colon before a blank ends one.
    let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
    (!name.is_empty() && !name.contains(' ')).then_some(Line { kind, name, why })
}

/// The last line of a report: tests passed and failed.
pub(crate) fn sum(console: &str) -> Option<(usize, usize)> {
    console.lines().rev().find_map(|line| {
        let (passed, failed) = line.trim().split_once(" passed, ")?;
        Some((passed.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
    })
}

/// Passed, failed, and what each failure was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) skipped: usize,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// Judges one boot: what its lines say, and whether they, their sum and the exit status agree.
    ///
    /// A boot must not pass by saying nothing, nor by dying after its last `ok`.
    pub(crate) fn of_boot(console: &str, status: i32) -> Self {
        let mut tally = Self::default();
        for line in lines(console) {
            match line.kind {
                Kind::Ok => tally.passed += 1,
                Kind::Skip => tally.skipped += 1,
                Kind::Fail => tally.failures.push(format!("{}: {}", line.name, line.why)),
            }
        }
        let counted = (tally.passed, tally.failures.len());
        if counted == (0, 0) && tally.skipped == 0 {
            tally.failures.push(format!("report: no test reported (exit status {status})"));
        } else if sum(console) != Some(counted) {
            tally.failures.push(format!("report: the last line does not sum up {} ok, {} FAIL", counted.0, counted.1));
        } else if (status == 0) != (counted.1 == 0) {
            tally.failures.push(format!("report: exit status {status} after {} failures", counted.1));
        }
        tally
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_noise_is_not() {
        let console = "boot\r\nok a::b\r\nFAIL c: got 1: want 2\nskip d: no PAN\nok, well then\nok two words\n";
        let seen: Vec<_> = lines(console).map(|l| (l.kind, l.name, l.why)).collect();
        assert_eq!(seen, [(Kind::Ok, "a::b", ""), (Kind::Fail, "c", "got 1: want 2"), (Kind::Skip, "d", "no PAN")]);
    }

    #[test]
    fn a_whole_report_passes() {
        let tally = Tally::of_boot("ok a\nok b\nskip c: why\n2 passed, 0 failed\n", 0);
        assert_eq!((tally.passed, tally.skipped, tally.failures.len()), (2, 1, 0));
    }

    #[test]
    fn silence_a_lost_sum_and_a_wrong_status_fail() {
        let first = |console, status| Tally::of_boot(console, status).failures.join("|");
        assert!(first("", 0).contains("no test"));
        assert!(first("hello\n", 101).contains("status 101"));
        assert!(first("ok a\n", 0).contains("does not sum"));
        assert!(first("ok a\n2 passed, 0 failed\n", 0).contains("does not sum"));
        assert!(first("ok a\n1 passed, 0 failed\n", 101).contains("exit status 101"));
        assert!(first("ok a\nFAIL b: x\n1 passed, 1 failed\n", 0).contains("exit status 0"));
        assert_eq!(first("ok a\nFAIL b: x\n1 passed, 1 failed\n", 1), "b: x");
    }

    #[test]
    fn sums_are_read_from_the_end() {
        assert_eq!(sum("1 passed, 0 failed\n3 passed, 2 failed\nbye\n"), Some((3, 2)));
        assert_eq!(sum("nothing"), None);
    }
}
