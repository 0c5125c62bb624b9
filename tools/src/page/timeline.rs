//! A few microseconds of a trace: who ran where, who asked whom, and what became of one address space.

use std::collections::BTreeMap;

use serde_json::Value;

use super::paint::{Canvas, Ink, Side, WIDTH, draw};
use super::section::Table;

/// What of an address space's end is worth a number in the drawing.
const STEPS: [&str; 6] = ["mms_died", "slots_tagged", "shoot_found_lazy", "shoot_found_gone", "unlazied", "mms_freed"];
const LEFT: i32 = 46;
const RIGHT: i32 = WIDTH as i32 - 8;
const ROW: i32 = 58;
/// The group of tracks that shows what CPUs are lazy on, as `lazuli trace` numbers them.
const LAZY: u64 = 2;

/// A stretch of time on a CPU.
#[derive(Clone, Debug)]
struct Slice {
    group: u64,
    cpu: u64,
    name: String,
    /// How many others it lies in.
    depth: usize,
    start: f64,
    end: f64,
}

/// Something that happened at one moment.
#[derive(Clone, Debug)]
struct Step {
    cpu: u64,
    name: String,
    mm: String,
    at: f64,
}

/// A trace file, taken apart.
#[derive(Default)]
pub(super) struct Timeline {
    slices: Vec<Slice>,
    steps: Vec<Step>,
    /// Where each arrow starts, goes through and ends.
    arrows: BTreeMap<u64, Vec<(u64, f64)>>,
}

/// The end of one address space.
pub(super) struct Scene {
    pub(super) figure: String,
    pub(super) table: Table,
}

impl Timeline {
    /// Takes apart what `lazuli trace` wrote; what is no event of its kind is left out.
    pub(super) fn of(file: &Value) -> Self {
        let mut timeline = Self::default();
        let mut open: BTreeMap<(u64, u64), Vec<(String, f64)>> = BTreeMap::new();
        for event in file["traceEvents"].as_array().into_iter().flatten() {
            let (Some(phase), Some(at), Some(cpu)) =
                (event["ph"].as_str(), event["ts"].as_f64(), event["tid"].as_u64())
            else {
                continue;
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (group, name) = (event["pid"].as_u64().unwrap_or_default(), text(&event["name"]));
            let inside = open.entry((group, cpu)).or_default();
            match phase {
                "B" => inside.push((name, at)),
                "E" => {
                    let Some((name, start)) = inside.pop() else { continue };
                    timeline.slices.push(Slice { group, cpu, name, depth: inside.len(), start, end: at });
                }
                "i" if STEPS.contains(&name.as_str()) => {
                    timeline.steps.push(Step { cpu, name, mm: text(&event["args"]["mm"]), at });
                }
                "s" | "t" | "f" => {
                    timeline.arrows.entry(event["id"].as_u64().unwrap_or_default()).or_default().push((cpu, at));
                }
                _ => {}
            }
        }
        timeline
    }

    /// The shortest way of an address space from its death to its free on which `wanted` happens, on two CPUs or more.
    pub(super) fn shortest(&self, wanted: &str) -> Option<Scene> {
        let lives = self.steps.iter().filter(|step| step.name == "mms_died").filter_map(|died| {
            let of_it = |step: &&Step| step.mm == died.mm && step.at >= died.at;
            let freed = self.steps.iter().filter(of_it).find(|step| step.name == "mms_freed")?;
            let steps = self.steps.iter().filter(of_it).filter(|step| step.at <= freed.at);
            let steps: Vec<&Step> = steps.collect();
            let cpus = steps.iter().any(|step| step.cpu != died.cpu);
            (cpus && steps.iter().any(|step| step.name == wanted)).then_some(steps)
        });
        let length = |steps: &Vec<&Step>| steps.last().map_or(0.0, |last| last.at - steps[0].at);
        let steps = lives.min_by(|a, b| length(a).total_cmp(&length(b)))?;
        Some(Scene { figure: self.draw(&steps), table: table(&steps) })
    }

    fn draw(&self, steps: &[&Step]) -> String {
        let (first, last) = (steps[0].at, steps[steps.len() - 1].at);
        let margin = (last - first) * 0.06;
        let window = Window { start: first - margin, end: last + margin };
        let mut cpus: Vec<u64> = steps.iter().map(|step| step.cpu).collect();
        let arrows: Vec<_> =
            self.arrows.values().filter(|points| points.iter().all(|(_, at)| window.has(*at))).collect();
        cpus.extend(arrows.iter().flat_map(|points| points.iter().map(|(cpu, _)| *cpu)));
        cpus.sort_unstable();
        cpus.dedup();
        let top = |cpu: u64| cpus.iter().position(|&other| other == cpu).unwrap_or(0) as i32 * ROW;
        draw(cpus.len() as u32 * ROW as u32 + 16, "a time line of CPUs", |canvas| {
            for &cpu in &cpus {
                canvas.text(&format!("CPU {cpu}"), (0, top(cpu) + 12), Side::Right, Ink::Text);
            }
            for slice in self.slices.iter().filter(|slice| cpus.contains(&slice.cpu)) {
                draw_slice(canvas, slice, &window, top(slice.cpu));
            }
            for points in arrows {
                // From the inside of one CPU's row to that of the other.
                let at = |(cpu, at): (u64, f64)| (window.x(at), top(cpu) + 30);
                let way: Vec<_> = points.iter().take(2).map(|&point| at(point)).collect();
                canvas.line(&way, Ink::Text);
                way.last().iter().for_each(|&&end| canvas.dot(end, Ink::Text));
            }
            for (number, step) in steps.iter().enumerate() {
                let at = (window.x(step.at), top(step.cpu) + 50);
                canvas.dot((at.0, at.1 - 8), Ink::Series(5));
                canvas.text(&(number + 1).to_string(), at, Side::Middle, Ink::Series(5));
            }
            let scale = format!("{:.0} instructions", (window.end - window.start) * 1000.0);
            canvas.text(&scale, (RIGHT, cpus.len() as i32 * ROW + 8), Side::Left, Ink::Muted);
        })
    }
}

/// What of time is shown.
struct Window {
    start: f64,
    end: f64,
}

impl Window {
    fn has(&self, at: f64) -> bool {
        (self.start..=self.end).contains(&at)
    }

    fn x(&self, at: f64) -> i32 {
        let part = (at - self.start) / (self.end - self.start).max(f64::MIN_POSITIVE);
        LEFT + (part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)) as i32
    }
}

fn draw_slice(canvas: &Canvas<'_>, slice: &Slice, window: &Window, top: i32) {
    /// Units that a letter takes, about.
    const LETTER: i32 = 7;
    if slice.end < window.start || slice.start > window.end {
        return;
    }
    let (left, right) = (window.x(slice.start), window.x(slice.end));
    let (y, height, ink) = match slice {
        Slice { group: LAZY, .. } => (38, 3, Ink::Series(2)),
        Slice { depth: 0, name, .. } if name == "idle" => (4, 15, Ink::Rule),
        Slice { depth: 0, .. } => (4, 15, Ink::Series(0)),
        Slice { name, .. } if name == "fault" => (21, 7, Ink::Series(1)),
        Slice { name, .. } if name.starts_with("ask") || matches!(name.as_str(), "shoot" | "tlb" | "resched") => {
            (28, 7, Ink::Series(3))
        }
        Slice { .. } => (21, 7, Ink::Series(4)),
    };
    canvas.bar([left, top + y, right, top + y + height], ink);
    if slice.depth == 0 && slice.group != LAZY && slice.name.len() as i32 * LETTER < right - left {
        let words = if ink == Ink::Rule { Ink::Text } else { Ink::OnBar };
        canvas.text(&slice.name, ((left + right) / 2, top + y + height / 2), Side::Middle, words);
    }
}

fn table(steps: &[&Step]) -> Table {
    let start = steps[0].at;
    let row = |(number, step): (usize, &&Step)| {
        let after = format!("{:.0}", (step.at - start) * 1000.0);
        vec![(number + 1).to_string(), step.name.clone(), format!("CPU {}", step.cpu), after]
    };
    Table {
        heads: ["step", "what", "where", "instructions later"].map(str::to_owned).to_vec(),
        words: 3,
        rows: steps.iter().enumerate().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> Value {
        let event = |phase: &str, cpu: u64, name: &str, ts: f64, mm: &str| json!({ "ph": phase, "pid": 1, "tid": cpu, "name": name, "ts": ts, "id": 1, "args": { "mm": mm } });
        json!({ "traceEvents": [
            event("B", 0, "reader 7", 0.0, ""),
            event("B", 1, "idle", 0.0, ""),
            event("i", 0, "mms_died", 1.0, "0x1"),
            event("i", 0, "mms_died", 2.0, "0x2"),
            event("s", 0, "shoot", 2.0, ""),
            event("t", 1, "shoot", 3.0, ""),
            event("i", 1, "shoot_found_lazy", 3.0, "0x2"),
            event("f", 1, "shoot", 3.5, ""),
            event("i", 0, "mms_freed", 4.0, "0x2"),
            event("i", 0, "mms_freed", 9.0, "0x1"),
            event("E", 0, "reader 7", 10.0, ""),
            event("E", 1, "idle", 10.0, ""),
        ] })
    }

    #[test]
    fn the_end_of_one_address_space_is_told() {
        let scene = Timeline::of(&file()).shortest("shoot_found_lazy").unwrap();
        let steps: Vec<_> = scene.table.rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(steps, ["1 mms_died CPU 0 0", "2 shoot_found_lazy CPU 1 1000", "3 mms_freed CPU 0 2000"]);
        for shown in ["CPU 0", "CPU 1", "reader 7", "idle", "polyline"] {
            assert!(scene.figure.contains(shown), "{shown}: {}", scene.figure);
        }
    }

    #[test]
    fn what_did_not_happen_is_not_shown() {
        assert!(Timeline::of(&file()).shortest("slots_tagged").is_none());
        assert!(Timeline::of(&json!({})).shortest("mms_died").is_none());
    }
}
