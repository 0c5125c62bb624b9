//! Bars, in groups, from left to right.

use super::paint::{Canvas, Ink, SERIES, Side, WIDTH, draw};
use crate::table;

/// Units that a letter takes, about, and a number behind the longest bar.
const LETTER: usize = 6;
const NUMBER: i32 = 68;
const ROW: i32 = 15;
const GAP: i32 = 8;

/// Bars about one thing.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) bars: Vec<Bar>,
}

/// One bar.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    /// A mark that it should not pass.
    pub(super) limit: Option<f64>,
    /// Which colour.
    pub(super) series: usize,
}

/// Draws the groups one below the other. Each has a scale of its own: bars are compared within a group.
pub(super) fn bars(what: &str, groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| 1 + group.bars.len()).sum();
    let height = rows as i32 * ROW + groups.len() as i32 * GAP;
    draw(height.max(1) as u32, what, |canvas| {
        let mut y = 0;
        let longest_name = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.name.chars().count()).max();
        let left = (longest_name.unwrap_or(0) * LETTER + 10) as i32;
        for group in groups {
            canvas.text(&group.name, (0, y + ROW / 2), Side::Right, Ink::Text);
            y += ROW;
            let values = group.bars.iter().flat_map(|bar| [Some(bar.value), bar.limit]).flatten();
            let largest = values.fold(f64::MIN_POSITIVE, f64::max);
            for bar in &group.bars {
                draw_bar(canvas, bar, (left, y), largest);
                y += ROW;
            }
            y += GAP;
        }
    })
}

/// Draws what follows each other, one below the other: each bar begins where the one before ended.
pub(super) fn steps(what: &str, stages: &[(String, f64)]) -> String {
    let height = (stages.len() as i32 * ROW).max(1) as u32;
    let whole = stages.iter().map(|(_, value)| value).sum::<f64>().max(f64::MIN_POSITIVE);
    let longest_name = stages.iter().map(|(name, _)| name.chars().count()).max();
    let left = (longest_name.unwrap_or(0) * LETTER + 10) as i32;
    let place = |value: f64| left + (value / whole * f64::from(WIDTH as i32 - left)).round() as i32;
    draw(height, what, |canvas| {
        let mut before = 0.0;
        for (y, (name, value)) in (0..).step_by(ROW as usize).zip(stages) {
            let (start, end) = (place(before), place(before + value));
            before += value;
            canvas.text(name, (left - 6, y + ROW / 2), Side::Left, Ink::Muted);
            canvas.bar([start, y + 2, end, y + ROW - 2], Ink::Series(0));
            // Beside the bar, where there is room.
            let (at, side, ink) = match end + NUMBER <= WIDTH as i32 {
                true => (end + 5, Side::Right, Ink::Text),
                false if end - start >= NUMBER => (end - 5, Side::Left, Ink::OnBar),
                false => (start - 5, Side::Left, Ink::Text),
            };
            canvas.text(&table::number(*value), (at, y + ROW / 2), side, ink);
        }
    })
}

fn draw_bar(canvas: &Canvas<'_>, bar: &Bar, (left, y): (i32, i32), largest: f64) {
    let longest = WIDTH as i32 - NUMBER - left;
    let length = |value: f64| (value / largest * f64::from(longest)).round() as i32;
    let end = left + length(bar.value);
    canvas.text(&bar.name, (left - 6, y + ROW / 2), Side::Left, Ink::Muted);
    canvas.bar([left, y + 2, end, y + ROW - 2], Ink::Series(bar.series % SERIES));
    let mut number = end;
    if let Some(limit) = bar.limit {
        let at = left + length(limit);
        canvas.line(&[(at, y), (at, y + ROW)], Ink::Text);
        number = number.max(at);
    }
    canvas.text(&table::number(bar.value), (number + 5, y + ROW / 2), Side::Right, Ink::Text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_begins_where_the_one_before_ended() {
        let stages = [("a".to_owned(), 200.0), ("bc".to_owned(), 100.0), ("d".to_owned(), 100.0)];
        let svg = steps("boot", &stages);
        // 22 units for the longest name, 398 for the whole.
        for bar in
            ["x=\"22\" y=\"2\" width=\"199\"", "x=\"221\" y=\"17\" width=\"100\"", "x=\"321\" y=\"32\" width=\"99\""]
        {
            assert!(svg.contains(bar), "{bar}: {svg}");
        }
        assert_eq!(svg.matches("var(--page)").count(), 1, "a number on the bar that ends at the border: {svg}");
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_in_the_pages_colours() {
        let bar = |name: &str, value, series| Bar { name: name.to_owned(), value, limit: None, series };
        let bars_of = vec![bar("refcount", 200.0, 0), bar("eager", 100.0, 1)];
        let svg = bars("costs", &[Group { name: "fork & exit".to_owned(), bars: bars_of }]);
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"costs\" viewBox=\"0 0 420 53\""), "{svg}");
        assert!(svg.contains("width=\"294\"") && svg.contains("width=\"147\""), "{svg}");
        assert!(svg.contains("var(--series-0)") && svg.contains("var(--series-1)") && svg.contains("fork &amp; exit"));
        assert!(!svg.contains("#0"), "no colour of its own: {svg}");
    }
}
