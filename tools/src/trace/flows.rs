//! Which interrupt answers which: from an `ipi_send` over its `ipi_handle` to its `ipi_ack`.
//!
//! Records carry no number for that, because none is needed. A CPU asks nobody anew before all have acknowledged, so
//! the request that a CPU handles is the last that its sender sent to it. Requests to reschedule are not acknowledged
//! one by one: a CPU that looks has heard all that were sent to it.

use std::collections::BTreeMap;

use super::parse::Record;

/// Requests that say no more than "look".
const RESCHEDULE: &str = "resched";

/// One arrow: the places of its three records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) send: usize,
    pub(super) handle: usize,
    pub(super) ack: usize,
}

/// All arrows whose three records are there.
pub(super) fn find(records: &[Record]) -> Vec<Flow> {
    let mut waiting = sends(records);
    let mut flows = Vec::new();
    for (handle, record) in records.iter().enumerate().filter(|(_, record)| record.event == "ipi_handle") {
        let Some(ack) = ack_of(records, handle) else { continue };
        let key = (record.number("from"), record.cpu, record.what());
        let Some(sent) = waiting.get_mut(&key) else { continue };
        // Those that were sent by then: all records of that time count, whichever line comes first.
        let known = sent.partition_point(|&send| records[send].ns <= record.ns);
        let mut answered: Vec<usize> = sent.drain(..known).collect();
        if record.what() != RESCHEDULE {
            answered = answered.pop().into_iter().collect();
        }
        flows.extend(answered.into_iter().map(|send| Flow { send, handle, ack }));
    }
    flows
}

/// Who asked, if it will be told; who was asked; for what.
type Route<'a> = (Option<u64>, u64, &'a str);

/// The places of all requests, by their route.
fn sends(records: &[Record]) -> BTreeMap<Route<'_>, Vec<usize>> {
    let mut sends: BTreeMap<Route<'_>, Vec<usize>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate().filter(|(_, record)| record.event == "ipi_send") {
        let Some(to) = record.number("to") else { continue };
        let from = (record.what() != RESCHEDULE).then_some(record.cpu);
        sends.entry((from, to, record.what())).or_default().push(place);
    }
    sends
}

/// The end of the work that begins at `handle`: the same CPU's next acknowledgement.
fn ack_of(records: &[Record], handle: usize) -> Option<usize> {
    let cpu = records[handle].cpu;
    let is_ack = |record: &Record| record.cpu == cpu && record.event == "ipi_ack";
    records[handle..].iter().position(is_ack).map(|distance| handle + distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ns: u64, cpu: u64, event: &str, words: &str) -> Record {
        let words = words.split_whitespace().map(str::to_owned).collect();
        Record { ns, cpu, task: 0, event: event.to_owned(), words }
    }

    #[test]
    fn a_request_is_answered_by_whom_it_was_sent_to() {
        let records = [
            record(1, 0, "ipi_send", "shoot to=1"),
            record(1, 0, "ipi_send", "shoot to=2"),
            record(2, 2, "ipi_handle", "shoot from=0"),
            record(3, 1, "ipi_handle", "shoot from=0"),
            record(4, 1, "ipi_ack", "shoot from=0"),
            record(5, 2, "ipi_ack", "shoot from=0"),
            record(9, 0, "ipi_send", "shoot to=3"),
        ];
        let flow = |send, handle, ack| Flow { send, handle, ack };
        assert_eq!(find(&records), [flow(1, 2, 5), flow(0, 3, 4)]);
    }

    #[test]
    fn the_last_request_is_meant_and_of_reschedules_all() {
        let records = [
            record(1, 0, "ipi_send", "shoot to=1"),
            record(2, 0, "ipi_send", "shoot to=1"),
            record(2, 1, "ipi_handle", "shoot from=0"),
            record(3, 1, "ipi_ack", "shoot from=0"),
            record(4, 0, "ipi_send", "resched to=1"),
            record(4, 2, "ipi_send", "resched to=1"),
            record(5, 1, "ipi_handle", "resched"),
            record(6, 1, "ipi_ack", "resched"),
        ];
        let flow = |send, handle, ack| Flow { send, handle, ack };
        assert_eq!(find(&records), [flow(1, 2, 3), flow(4, 6, 7), flow(5, 6, 7)]);
    }
}
