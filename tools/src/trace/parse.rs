//! The text of `/proc/trace`, as a console shows it, in records.

use anyhow::{Context, Result, bail, ensure};

/// How the first line of the text begins.
const TITLE: &str = "#       seconds cpu ";

/// What a kernel recorded, in the order of time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) records: Vec<Record>,
    /// How many older records gave way to these.
    pub(crate) overwritten: u64,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) ns: u64,
    pub(crate) cpu: u64,
    /// The number of the thread that ran; 0 for a kernel thread.
    pub(crate) task: u64,
    pub(crate) event: String,
    /// The words that follow: `key=value`, or a word that stands for itself.
    pub(crate) words: Vec<String>,
}

impl Record {
    /// The value of a `key=value` word.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The same as a number.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// The first word, where it stands for itself.
    pub(crate) fn what(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// The last trace on a console; whatever else the console says is left out.
///
/// # Errors
/// If there is none, or a part of it is missing or is no record.
pub(crate) fn parse(console: &str) -> Result<Trace> {
    let start = console.rfind(TITLE).context("the console has no trace: was the kernel booted with trace=on?")?;
    let mut lines = console[start..].lines().skip(1).peekable();
    let (mut trace, mut promised) = (Trace::default(), 0);
    while let Some(line) = lines.next_if(|line| line.starts_with("# cpu")) {
        let (written, overwritten) = counts(line).with_context(|| format!("`{line}` does not say how many"))?;
        promised += written.checked_sub(overwritten).with_context(|| format!("`{line}` cannot be"))?;
        trace.overwritten += overwritten;
    }
    for line in lines.by_ref().take(promised as usize) {
        trace.records.push(record(line).with_context(|| format!("`{}` is no record", line.trim_end()))?);
    }
    let found = trace.records.len();
    ensure!(found as u64 == promised, "the trace is cut off: {found} records of {promised}");
    if let Some(pair) = trace.records.windows(2).find(|pair| pair[0].ns > pair[1].ns) {
        bail!("time runs backwards, from {} ns to {} ns", pair[0].ns, pair[1].ns);
    }
    Ok(trace)
}

/// `# cpu0: 20344 records, 12152 of them overwritten`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_once(": ")?.1.split_whitespace();
    let written = words.next()?.parse().ok()?;
    let overwritten = words.nth(1)?.parse().ok()?;
    Some((written, overwritten))
}

fn record(line: &str) -> Option<Record> {
    let mut words = line.split_whitespace();
    let (seconds, below) = words.next()?.split_once('.')?;
    let ns = if below.len() == 9 { below.parse::<u64>().ok()? } else { return None };
    Some(Record {
        ns: seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(ns)?,
        cpu: words.next()?.parse().ok()?,
        task: words.next()?.parse().ok()?,
        event: words.next()?.to_owned(),
        words: words.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
result something
#       seconds cpu     task event                what
# cpu0: 3 records, 1 of them overwritten
# cpu1: 1 records, 0 of them overwritten
    1.000000016   0       12 call_enter           futex x0=0x1000
    1.000000032   1        0 switch_kernel_kernel thread=idle
    2.500000000   0       12 call_exit            futex returns=-110
init: done
";

    #[test]
    fn records_are_read_and_counted() {
        let trace = parse(TEXT).unwrap();
        assert_eq!((trace.records.len(), trace.overwritten), (3, 1));
        let last = &trace.records[2];
        assert_eq!((last.ns, last.cpu, last.task), (2_500_000_000, 0, 12));
        assert_eq!((last.event.as_str(), last.what(), last.get("returns")), ("call_exit", "futex", Some("-110")));
        assert_eq!(trace.records[1].get("thread"), Some("idle"));
    }

    #[test]
    fn what_is_no_whole_trace_is_refused() {
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error("hello").contains("trace=on"));
        assert!(error(&TEXT.replace("# cpu1: 1", "# cpu1: 9")).contains("is no record"));
        let cut = &TEXT[..TEXT.find("    2.5").unwrap()];
        assert!(error(cut).contains("cut off: 2 records of 3"));
        assert!(error(&TEXT.replace("1.000000032", "1.32")).contains("is no record"));
        assert!(error(&TEXT.replace("1.000000032", "1.000000002")).contains("backwards"));
    }
}
