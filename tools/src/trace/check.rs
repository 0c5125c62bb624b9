//! What the trace event format asks of a file, and viewers do not forgive.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What a sound file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) slices: usize,
    pub(crate) instants: usize,
    pub(crate) arrows: usize,
    pub(crate) counts: usize,
}

/// A track: its process and thread.
type Track = (u64, u64);

#[derive(Default)]
struct Checker {
    /// The names of the slices that are open.
    open: BTreeMap<Track, Vec<String>>,
    last: BTreeMap<Track, f64>,
    /// How far each arrow has come, and when.
    arrows: BTreeMap<u64, (char, f64)>,
    summary: Summary,
}

/// Checks every rule: slices nest on their tracks, time does not run backwards there, each arrow has its start, its
/// middle and its end, in that order and inside of slices, and counters count.
///
/// # Errors
/// If a rule is broken; the text says where.
pub(crate) fn check(file: &Value) -> Result<Summary> {
    let events = file["traceEvents"].as_array().context("there are no traceEvents")?;
    let mut checker = Checker::default();
    for (place, event) in events.iter().enumerate() {
        checker.see(event).with_context(|| format!("event {place}: {event}"))?;
    }
    if let Some((track, open)) = checker.open.iter().find(|(_, open)| !open.is_empty()) {
        bail!("`{}` never ends on track {track:?}", open[0]);
    }
    if let Some((id, _)) = checker.arrows.iter().find(|(_, (phase, _))| *phase != 'f') {
        bail!("arrow {id} never ends");
    }
    checker.summary.arrows = checker.arrows.len();
    Ok(checker.summary)
}

impl Checker {
    fn see(&mut self, event: &Value) -> Result<()> {
        let phase = event["ph"].as_str().context("it has no phase")?;
        let pid = event["pid"].as_u64().context("it has no pid")?;
        let name = event["name"].as_str().context("it has no name")?;
        match phase {
            "M" => ensure!(event["args"]["name"].is_string(), "it names nothing"),
            "C" => {
                let counts = event["args"].as_object().context("it counts nothing")?;
                ensure!(!counts.is_empty() && counts.values().all(Value::is_u64), "it counts no number");
                self.move_on(event, (pid, u64::MAX))?;
                self.summary.counts += 1;
            }
            _ => {
                let track = (pid, event["tid"].as_u64().context("it has no tid")?);
                let ts = self.move_on(event, track)?;
                self.see_on_track(phase, name, track, ts, event)?;
            }
        }
        Ok(())
    }

    /// The time of an event, which is not before that of the last one on its track.
    fn move_on(&mut self, event: &Value, track: Track) -> Result<f64> {
        let ts = event["ts"].as_f64().context("it has no time")?;
        let last = self.last.insert(track, ts).unwrap_or(0.0);
        ensure!(last <= ts, "time runs backwards from {last}");
        Ok(ts)
    }

    fn see_on_track(&mut self, phase: &str, name: &str, track: Track, ts: f64, event: &Value) -> Result<()> {
        let open = self.open.entry(track).or_default();
        match phase {
            "B" => open.push(name.to_owned()),
            "E" => {
                let begun = open.pop().context("nothing is open")?;
                ensure!(begun == name, "`{begun}` is open");
                self.summary.slices += 1;
            }
            "i" => {
                ensure!(matches!(event["s"].as_str(), Some("g" | "p" | "t")), "its scope is none");
                self.summary.instants += 1;
            }
            "s" | "t" | "f" => {
                ensure!(!open.is_empty(), "an arrow touches no slice");
                let id = event["id"].as_u64().context("it has no id")?;
                let before = self.arrows.get(&id).copied();
                let follows = match (phase, before) {
                    ("s", before) => before.is_none(),
                    ("t", before) => before.is_some_and(|(phase, since)| phase == 's' && since <= ts),
                    (_, before) => before.is_some_and(|(phase, since)| phase == 't' && since <= ts),
                };
                ensure!(follows, "its arrow was at {before:?}");
                ensure!(phase != "f" || event["bp"] == "e", "it does not end in the slice around it");
                self.arrows.insert(id, (phase.chars().next().unwrap_or_default(), ts));
            }
            _ => bail!("`{phase}` is a phase of nothing here"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(phase: &str, ts: f64, name: &str) -> Value {
        json!({ "ph": phase, "name": name, "pid": 1, "tid": 0, "ts": ts, "s": "t", "id": 7, "bp": "e" })
    }

    fn sound() -> Vec<Value> {
        let counter = json!({ "ph": "C", "name": "dead", "pid": 1, "ts": 2.0, "args": { "dead": 1 } });
        vec![
            event("B", 1.0, "outer"),
            event("s", 1.0, "shoot"),
            event("B", 2.0, "inner"),
            event("t", 2.0, "shoot"),
            event("i", 2.5, "tlbi"),
            counter,
            event("f", 3.0, "shoot"),
            event("E", 3.0, "inner"),
            event("E", 4.0, "outer"),
        ]
    }

    fn verdict(events: Vec<Value>) -> Result<Summary> {
        check(&json!({ "traceEvents": events }))
    }

    #[test]
    fn a_sound_file_is_counted() {
        let summary = verdict(sound()).unwrap();
        assert_eq!(summary, Summary { slices: 2, instants: 1, arrows: 1, counts: 1 });
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut Vec<Value>);
        let breaks: [(Break, &str); 10] = [
            (|events| drop(events.remove(8)), "never ends on track"),
            (|events| drop(events.remove(6)), "arrow 7 never ends"),
            (|events| drop(events.remove(3)), "its arrow was at"),
            (|events| drop(events.remove(1)), "its arrow was at"),
            (|events| drop(events.remove(0)), "an arrow touches no slice"),
            (|events| events.swap(7, 8), "is open"),
            (|events| events[4]["ts"] = json!(0.5), "backwards"),
            (|events| events[4]["s"] = json!("x"), "scope"),
            (|events| events[5]["args"] = json!({ "dead": "many" }), "no number"),
            (|events| events[6]["bp"] = json!(null), "slice around it"),
        ];
        for (place, (change, says)) in breaks.into_iter().enumerate() {
            let mut events = sound();
            change(&mut events);
            let error = format!("{:#}", verdict(events).unwrap_err());
            assert!(error.contains(says), "{place}: {error}");
        }
    }
}
