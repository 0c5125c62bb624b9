//! The parts of the report about machines too big to own, from what `make simulate` wrote.

use serde_json::Value;

use super::chart::{Bar, Group};
use super::curve::{Curve, Panel, curves};
use super::section::{Section, Table};
use super::sections::{series, with_bars};
use crate::simulate::winners_in_words;
use crate::table;

const COMMAND: &str = "make simulate";
/// A curve each, where modifiers do not matter.
const PLAIN: fn(&str) -> bool = |scheme| !scheme.contains('+');

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn name(scheme: &Value) -> &str {
    scheme["scheme"].as_str().unwrap_or_default()
}

/// A figure of each scheme over the number of CPUs.
fn panel(file: &Value, title: &str, key: &str, shown: impl Fn(&str) -> bool) -> Panel {
    let curve = |scheme: &Value| {
        let point = |at: &Value| Some((at["cpus"].as_f64()?, at[key].as_f64().filter(|value| *value > 0.0)?));
        let points: Vec<_> = list(&scheme["curve"]).iter().filter_map(point).collect();
        let base = name(scheme).split('+').next().unwrap_or_default();
        (!points.is_empty()).then(|| Curve { name: name(scheme).to_owned(), points, series: series(base) })
    };
    let schemes = list(&file["schemes"]).iter().filter(|scheme| shown(name(scheme)));
    Panel { name: title.to_owned(), curves: schemes.filter_map(curve).collect() }
}

/// A row for each scheme, a column for each number of CPUs.
fn rows(file: &Value, what: &str, key: &str) -> Vec<Vec<String>> {
    let row = |scheme: &Value| {
        let cell = |at: &Value| at[key].as_f64().map_or("-".to_owned(), table::number);
        let cells = list(&scheme["curve"]).iter().map(cell);
        [what.to_owned(), name(scheme).to_owned()].into_iter().chain(cells).collect()
    };
    list(&file["schemes"]).iter().map(row).collect()
}

fn heads(file: &Value) -> Vec<String> {
    let cpus = list(&file["crossings"]).iter().map(|row| format!("{} CPUs", row["cpus"]));
    ["", "scheme"].map(str::to_owned).into_iter().chain(cpus).collect()
}

pub(super) fn switches(file: Option<&Value>) -> Section {
    let (id, title) = ("scaling", "Switches per second on more CPUs");
    let Some(file) = file else { return Section::absent(id, title, COMMAND) };
    let panels = [
        panel(file, "switches/s, while nothing but the mm layer's lines are shared", "switches_mm", PLAIN),
        panel(file, "switches/s, with every line that this kernel shares", "switches", PLAIN),
    ];
    let table =
        [("switches/s, mm alone", "switches_mm"), ("switches/s, all lines", "switches"), ("IPIs/s, all lines", "ipis")];
    Section {
        id,
        title,
        text: "Simulated: on each two CPUs a pair of threads of one process wake each other by a pipe, through idle. What a switch \
               executes and which lines all CPUs write is traced on 4 to 64 virtual CPUs; what these lines allow on up to 512 \
               CPUs of a large POWER8 is computed (docs/scaling.md)."
            .to_owned(),
        command: COMMAND.to_owned(),
        figure: Some(curves(title, &panels)),
        table: Some(by_scheme(file, &table)),
    }
}

/// Each of these figures, what it is and its key in the file, for each scheme and number of CPUs.
fn by_scheme(file: &Value, figures: &[(&str, &str)]) -> Table {
    let rows = figures.iter().flat_map(|(what, key)| rows(file, what, key)).collect();
    Table { heads: heads(file), words: 2, rows }
}

pub(super) fn lives(file: Option<&Value>) -> Section {
    let (id, title) = ("crossing", "Which scheme is cheapest, by switches in a process's life");
    let Some(file) = file else { return Section::absent(id, title, COMMAND) };
    let panels = [panel(file, "IPIs in the life of a process that runs on every CPU", "ipis_life", |_| true)];
    let cheapest = list(&file["crossings"])
        .iter()
        .map(|row| format!("on {} CPUs {}", row["cpus"], winners_in_words(&row["winners"])));
    let cheapest = cheapest.collect::<Vec<_>>().join("; ");
    let table = [("IPIs in a life", "ipis_life"), ("cheaper than refcount from so many switches", "cheaper_from")];
    Section {
        id,
        title,
        text: format!(
            "A scheme pays for each switch or at the end of an address space. By the same simulation, for a process that ran on \
             every CPU, while all CPUs switch and only the mm layer's lines are shared, the cheapest is, from so many switches in \
             its life on: {cheapest}."
        ),
        command: COMMAND.to_owned(),
        figure: Some(curves(title, &panels)),
        table: Some(by_scheme(file, &table)),
    }
}

pub(super) fn published(file: Option<&Value>) -> Section {
    let (mut groups, mut rows) = (Vec::new(), Vec::new());
    for check in file.map(|file| list(&file["published"])).unwrap_or_default() {
        let what = check["what"].as_str().unwrap_or_default().to_owned();
        let (published, predicted) = (check["published"].as_f64(), check["predicted"].as_f64());
        let bars = [("published", published, 0), ("model", predicted, 1)];
        let bar = |(name, value, series): (&str, Option<f64>, usize)| {
            Some(Bar { name: name.to_owned(), value: value?, limit: None, series })
        };
        groups.push(Group { name: what.clone(), bars: bars.into_iter().filter_map(bar).collect() });
        let number = |value: Option<f64>| value.map_or("-".to_owned(), table::number);
        let error = format!("{:+.0} %", 100.0 * check["error"].as_f64().unwrap_or(0.0));
        let role = if check["calibrates"] == true { "sets a parameter" } else { "check" };
        rows.push(vec![what, role.to_owned(), number(published), number(predicted), error]);
    }
    let section = Section {
        id: "published",
        title: "The model beside what was published",
        text: "What others measured on real machines, and what the same model says. Figures that set a parameter are no check. \
               docs/scaling.md says where they come from and why the model is off."
            .to_owned(),
        command: COMMAND.to_owned(),
        figure: None,
        table: Some(Table {
            heads: ["figure", "role", "published", "model", "error"].map(str::to_owned).into(),
            words: 2,
            rows,
        }),
    };
    with_bars(section, groups)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> Value {
        let at = |cpus: u32, switches: f64| json!({"cpus": cpus, "switches": switches, "switches_mm": 2.0 * switches, "ipis": switches, "ipis_life": 0.0, "cheaper_from": (cpus == 8).then_some(300)});
        json!({
            "schemes": [
                {"scheme": "refcount", "curve": [at(4, 10.0), at(8, 20.0)]},
                {"scheme": "shootdown+slot", "curve": [at(4, 30.0), at(8, 60.0)]},
            ],
            "crossings": [
                {"cpus": 4, "winners": [{"from": 0, "scheme": "eager"}, {"from": 12, "scheme": "handoff"}]},
                {"cpus": 8, "winners": []},
            ],
            "published": [{"what": "X", "published": 4.0, "predicted": 5.0, "error": 0.25, "calibrates": false}],
        })
    }

    #[test]
    fn curves_are_of_plain_schemes_and_tables_of_all() {
        let section = switches(Some(&file()));
        let figure = section.figure.unwrap();
        assert!(figure.contains("\nrefcount\n") && !figure.contains("shootdown+slot"), "{figure}");
        let table = section.table.unwrap();
        assert_eq!(table.heads, ["", "scheme", "4 CPUs", "8 CPUs"]);
        assert_eq!(
            (table.rows.len(), table.rows[1].join(" ")),
            (6, "switches/s, mm alone shootdown+slot 60.0 120".into())
        );
    }

    #[test]
    fn the_cheapest_are_told_in_order() {
        let section = lives(Some(&file()));
        assert!(section.text.contains("on 4 CPUs eager from 0, handoff from 12; on 8"), "{}", section.text);
        let row = &section.table.unwrap().rows[3];
        assert_eq!(row.join("|"), "cheaper than refcount from so many switches|shootdown+slot|-|300");
    }

    #[test]
    fn the_model_stands_beside_what_was_published() {
        let section = published(Some(&file()));
        assert_eq!(section.table.unwrap().rows, [["X", "check", "4.00", "5.00", "+25 %"]]);
        assert!(section.figure.is_some());
    }

    #[test]
    fn without_a_simulation_the_parts_say_how_to_make_it() {
        for section in [switches(None), lives(None), published(None)] {
            assert!(section.figure.is_none() && section.command == "make simulate", "{}", section.id);
        }
    }
}
