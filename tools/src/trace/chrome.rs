//! Records as Chrome trace events, which Perfetto and chrome://tracing read.
//!
//! A track for each CPU: the thread that runs there, in it its system call, in that a fault, and interrupts innermost.
//! Another track for each CPU shows what it is lazy on; a counter, the dead `Mm`s. (The format: "Trace Event Format",
//! Google, 2016.)

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::flows::{self, Flow};
use super::names::Names;
use super::parse::{Record, Trace};

/// The two groups of tracks, which the format calls processes.
pub(super) const CPUS: u64 = 1;
pub(super) const LAZY: u64 = 2;

/// What is open on a CPU's track, from the outermost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Thread,
    Call,
    Fault,
    /// Other CPUs were interrupted, and may be waited for.
    Round,
    /// A request of another CPU.
    Request,
}

/// A slice that is open.
#[derive(Clone, Debug)]
struct Slice {
    level: Level,
    name: String,
    args: Value,
}

/// One CPU's tracks.
#[derive(Default)]
struct Cpu {
    task: u64,
    open: Vec<Slice>,
    lazy: Option<String>,
}

/// What the records become.
struct Converter {
    events: Vec<Value>,
    names: Names,
    cpus: BTreeMap<u64, Cpu>,
    /// What is open in threads that do not run.
    suspended: BTreeMap<u64, Vec<Slice>>,
}

/// The whole file.
pub(crate) fn convert(trace: &Trace, about: &Value) -> Value {
    let records = &trace.records;
    let mut converter =
        Converter { events: Vec::new(), names: Names::of(records), cpus: BTreeMap::new(), suspended: BTreeMap::new() };
    let mut arrows: BTreeMap<usize, Vec<(&str, usize)>> = BTreeMap::new();
    for (id, Flow { send, handle, ack }) in flows::find(records).into_iter().enumerate() {
        for (place, phase) in [(send, "s"), (handle, "t"), (ack, "f")] {
            arrows.entry(place).or_default().push((phase, id));
        }
    }
    for (place, record) in records.iter().enumerate() {
        converter.add(record, arrows.get(&place).map_or(&[], Vec::as_slice));
    }
    converter.finish(records.last().map_or(0, |record| record.ns));
    json!({ "traceEvents": converter.events, "displayTimeUnit": "ns", "otherData": about })
}

/// Microseconds, as the format has it.
fn time(ns: u64) -> Value {
    json!(ns as f64 / 1000.0)
}

/// The words of a record that name something.
fn arguments(record: &Record) -> Value {
    record.words.iter().filter_map(|word| word.split_once('=')).map(|(key, value)| (key, json!(value))).collect()
}

impl Converter {
    fn add(&mut self, record: &Record, arrows: &[(&str, usize)]) {
        self.meet(record);
        let end = matches!(record.event.as_str(), "ipi_ack");
        // An arrow ends in the slice that ends with it, and begins in the one that begins with it.
        if end {
            self.draw(record, arrows);
        }
        match record.event.as_str() {
            "call_enter" => self.open(record, Level::Call, record.what().to_owned()),
            "call_exit" => self.close(record, Level::Call),
            "fault_enter" => self.open(record, Level::Fault, "fault".to_owned()),
            "fault_exit" => self.close(record, Level::Fault),
            "ipi_send" => self.send(record),
            "ipi_done" => self.close(record, Level::Round),
            "ipi_handle" => self.open(record, Level::Request, record.what().to_owned()),
            "ipi_ack" => self.close(record, Level::Request),
            "name" => self.names.learn(record),
            event if event.starts_with("switch_") => self.switch(record),
            _ => self.instant(record),
        }
        if !end {
            self.draw(record, arrows);
        }
        if let Some(dead) = record.number("dead") {
            let args = json!({ "dead Mms": dead });
            self.events
                .push(json!({ "ph": "C", "name": "dead Mms", "pid": CPUS, "ts": time(record.ns), "args": args }));
        }
    }

    /// Opens a CPU's tracks at its first record.
    fn meet(&mut self, record: &Record) {
        if self.cpus.contains_key(&record.cpu) {
            return;
        }
        for (group, name) in [(CPUS, "CPUs"), (LAZY, "lazy on")] {
            let named = |what, name| json!({ "ph": "M", "name": what, "pid": group, "tid": record.cpu, "args": { "name": name } });
            self.events.push(named("process_name", name.to_owned()));
            self.events.push(named("thread_name", format!("CPU {}", record.cpu)));
        }
        self.cpus.insert(record.cpu, Cpu { task: record.task, ..Cpu::default() });
        let name = self.names.at(record, None);
        self.begin(record, Slice { level: Level::Thread, name, args: json!({}) });
    }

    fn cpu(&mut self, record: &Record) -> &mut Cpu {
        self.cpus.get_mut(&record.cpu).expect("`meet` came first")
    }

    fn event(&mut self, phase: &str, record: &Record, name: &str, group: u64, args: Value) {
        self.events.push(json!({
            "ph": phase, "name": name, "cat": record.event, "pid": group, "tid": record.cpu,
            "ts": time(record.ns), "args": args,
        }));
    }

    fn begin(&mut self, record: &Record, slice: Slice) {
        self.event("B", record, &slice.name, CPUS, slice.args.clone());
        self.cpu(record).open.push(slice);
    }

    /// Opens a slice. One of the same level or inside of it has lost its end: it ends here.
    fn open(&mut self, record: &Record, level: Level, name: String) {
        self.end_from(record, level, &json!({}));
        self.begin(record, Slice { level, name, args: arguments(record) });
    }

    fn close(&mut self, record: &Record, level: Level) {
        if self.cpu(record).open.iter().any(|slice| slice.level == level) {
            self.end_from(record, level, &arguments(record));
        }
    }

    /// Ends every slice of this level and inside of it, and returns them, outermost first; of that, `args` tell more.
    fn end_from(&mut self, record: &Record, level: Level, args: &Value) -> Vec<Slice> {
        let open = &mut self.cpu(record).open;
        let ended = open.split_off(open.partition_point(|slice| slice.level < level));
        for (depth, slice) in ended.iter().enumerate().rev() {
            self.event("E", record, &slice.name, CPUS, if depth == 0 { args.clone() } else { json!({}) });
        }
        ended
    }

    /// Another thread runs, or the same in another address space.
    fn switch(&mut self, record: &Record) {
        self.lazy(record);
        let name = self.names.at(record, record.get("thread"));
        let cpu = self.cpu(record);
        let same = cpu.task == record.task && cpu.open.first().is_some_and(|slice| slice.name == name);
        if same {
            return self.instant(record);
        }
        let left = std::mem::replace(&mut cpu.task, record.task);
        let mut inside = self.end_from(record, Level::Thread, &json!({}));
        if left != 0 && !inside.is_empty() {
            self.suspended.insert(left, inside.split_off(1));
        }
        self.begin(record, Slice { level: Level::Thread, name, args: arguments(record) });
        for slice in self.suspended.remove(&record.task).unwrap_or_default() {
            self.begin(record, slice);
        }
    }

    /// A CPU becomes lazy, or stops being lazy, on an `Mm`.
    fn lazy(&mut self, record: &Record) {
        let enters = record.event == "switch_user_kernel";
        let leaves =
            enters || matches!(record.event.as_str(), "unlazied" | "switch_kernel_same" | "switch_kernel_other");
        if leaves && let Some(name) = self.cpu(record).lazy.take() {
            self.event("E", record, &name, LAZY, json!({}));
        }
        if enters {
            let name = format!("mm {}", record.get("mm").unwrap_or("?"));
            self.event("B", record, &name, LAZY, json!({}));
            self.cpu(record).lazy = Some(name);
        }
    }

    fn send(&mut self, record: &Record) {
        let is_open = self.cpu(record).open.iter().any(|slice| slice.level == Level::Round);
        if record.what() == "resched" {
            self.instant(record);
        } else if !is_open {
            self.open(record, Level::Round, format!("ask: {}", record.what()));
        }
    }

    fn instant(&mut self, record: &Record) {
        if record.event == "unlazied" {
            self.lazy(record);
        }
        let scope = if record.event == "asid_rollovers" { "g" } else { "t" };
        let mut event = json!({
            "ph": "i", "name": record.event, "cat": record.event, "pid": CPUS, "tid": record.cpu,
            "ts": time(record.ns), "args": arguments(record),
        });
        event["s"] = json!(scope);
        self.events.push(event);
    }

    fn draw(&mut self, record: &Record, arrows: &[(&str, usize)]) {
        for (phase, id) in arrows {
            let mut event = json!({
                "ph": phase, "name": record.what(), "cat": "ipi", "id": id, "pid": CPUS, "tid": record.cpu,
                "ts": time(record.ns),
            });
            if *phase == "f" {
                event["bp"] = json!("e");
            }
            self.events.push(event);
        }
    }

    /// Ends whatever is open.
    fn finish(&mut self, ns: u64) {
        for cpu in self.cpus.keys().copied().collect::<Vec<_>>() {
            let end = Record { ns, cpu, task: 0, event: "end".to_owned(), words: Vec::new() };
            self.end_from(&end, Level::Thread, &json!({}));
            if let Some(name) = self.cpu(&end).lazy.take() {
                self.event("E", &end, &name, LAZY, json!({}));
            }
        }
    }
}
