//! What threads are called, by their numbers.

use std::collections::BTreeMap;

use super::parse::Record;

/// Names as they change with time.
pub(super) struct Names {
    /// The last that was heard.
    now: BTreeMap<u64, String>,
    /// The first that will be heard, for a thread that runs before it says its name.
    first: BTreeMap<u64, String>,
}

impl Names {
    /// Looks ahead for names.
    pub(super) fn of(records: &[Record]) -> Self {
        let mut first = BTreeMap::new();
        for record in records.iter().filter(|record| record.event == "name") {
            first.entry(record.task).or_insert_with(|| record.what().to_owned());
        }
        Self { now: BTreeMap::new(), first }
    }

    /// A thread has said its name.
    pub(super) fn learn(&mut self, record: &Record) {
        self.now.insert(record.task, record.what().to_owned());
    }

    /// What to call the thread of a record; `kernel` is its name if it is one of the kernel's.
    pub(super) fn at(&self, record: &Record, kernel: Option<&str>) -> String {
        if record.task == 0 {
            return kernel.unwrap_or("kernel").to_owned();
        }
        let name = self.now.get(&record.task).or(self.first.get(&record.task));
        name.map_or_else(|| format!("thread {}", record.task), |name| format!("{name} {}", record.task))
    }
}
