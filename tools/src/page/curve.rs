//! Curves over powers of two, on scales of powers: who grows and who stands still.

use super::paint::{Canvas, Ink, SERIES, Side, WIDTH, draw};

const LEFT: i32 = 46;
/// For the names behind the curves.
const RIGHT: i32 = WIDTH as i32 - 104;
const HEAD: i32 = 18;
const PLOT: i32 = 150;
const FOOT: i32 = 30;
/// The least distance of two names.
const NAME: i32 = 12;

/// Curves on the same scales.
pub(super) struct Panel {
    pub(super) name: String,
    pub(super) curves: Vec<Curve>,
}

/// One curve: points of positive numbers, from left to right.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Which colour.
    pub(super) series: usize,
}

/// Draws the panels one below the other. All have the same scales, so that they can be compared.
pub(super) fn curves(what: &str, panels: &[Panel]) -> String {
    let height = HEAD + PLOT + FOOT;
    let scales = Scales::of(panels);
    draw((panels.len() as i32 * height).max(1) as u32, what, |canvas| {
        for (panel, top) in panels.iter().zip((0..).map(|row| row * height)) {
            canvas.text(&panel.name, (0, top + HEAD / 2), Side::Right, Ink::Text);
            scales.draw(canvas, top + HEAD);
            draw_curves(canvas, panel, &scales, top + HEAD);
        }
    })
}

fn draw_curves(canvas: &Canvas<'_>, panel: &Panel, scales: &Scales, top: i32) {
    let at = |&(x, y): &(f64, f64)| (scales.x(x), top + scales.y(y));
    let mut names = Vec::new();
    for curve in &panel.curves {
        let ink = Ink::Series(curve.series % SERIES);
        let points: Vec<_> = curve.points.iter().map(at).collect();
        canvas.line(&points, ink);
        points.iter().for_each(|&point| canvas.dot(point, ink));
        names.extend(points.last().map(|end| (end.1, curve.name.as_str(), ink)));
    }
    names.sort_by_key(|(y, ..)| *y);
    // Names of curves that end close to each other stand below each other, and none below the plot.
    let least = |index: usize| top + PLOT - (names.len() - index) as i32 * NAME + NAME / 2;
    let mut free = i32::MIN;
    for (index, (y, name, ink)) in names.iter().enumerate() {
        let y = (*y).min(least(index)).max(free);
        canvas.text(name, (RIGHT + 6, y), Side::Right, *ink);
        free = y + NAME;
    }
}

/// From numbers to places, by their logarithms.
struct Scales {
    x: (f64, f64),
    y: (f64, f64),
    /// The numbers below the plot.
    marks: Vec<f64>,
}

impl Scales {
    fn of(panels: &[Panel]) -> Self {
        let points = || panels.iter().flat_map(|panel| &panel.curves).flat_map(|curve| curve.points.iter().copied());
        let ends = |of: fn((f64, f64)) -> f64| {
            points().map(of).fold((f64::MAX, f64::MIN), |ends, value| (ends.0.min(value), ends.1.max(value)))
        };
        let mut marks: Vec<f64> = points().map(|(x, _)| x).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let (low, high) = ends(|(_, y)| y);
        // From a power of ten to another.
        let y = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
        Self { x: ends(|(x, _)| x), y, marks }
    }

    fn x(&self, value: f64) -> i32 {
        LEFT + (part(value, self.x) * f64::from(RIGHT - LEFT)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        PLOT - (part(value, self.y) * f64::from(PLOT)).round() as i32
    }

    fn draw(&self, canvas: &Canvas<'_>, top: i32) {
        let mut power = self.y.0;
        while power <= self.y.1 * 1.01 {
            let y = top + self.y(power);
            canvas.line(&[(LEFT, y), (RIGHT, y)], Ink::Rule);
            canvas.text(&short(power), (LEFT - 6, y), Side::Left, Ink::Muted);
            power *= 10.0;
        }
        for &mark in &self.marks {
            canvas.text(&short(mark), (self.x(mark), top + PLOT + 10), Side::Middle, Ink::Muted);
        }
    }
}

/// Where a number is between two others: 0 at the first, 1 at the second.
fn part(value: f64, (from, to): (f64, f64)) -> f64 {
    let span = (to / from).log2();
    if span > 0.0 { (value / from).log2() / span } else { 0.0 }
}

/// `10k`, `1M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.0}G", v / 1e9),
        v if v >= 1e6 => format!("{:.0}M", v / 1e6),
        v if v >= 1e3 => format!("{:.0}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_evenly_spaced_and_names_do_not_lie_on_each_other() {
        let curve = |name: &str, y: f64, series| Curve {
            name: name.to_owned(),
            points: vec![(4.0, 1e3), (16.0, y), (64.0, y)],
            series,
        };
        let panel = Panel { name: "switches".into(), curves: vec![curve("a", 1e5, 0), curve("b", 1e5, 1)] };
        let scales = Scales::of(std::slice::from_ref(&panel));
        assert_eq!((scales.x(4.0), scales.x(16.0), scales.x(64.0)), (LEFT, (LEFT + RIGHT) / 2, RIGHT));
        assert_eq!((scales.y(1e3), scales.y(1e4), scales.y(1e5)), (PLOT, PLOT / 2, 0));
        let svg = curves("c", &[panel]);
        let places: Vec<_> =
            ["\na\n", "\nb\n"].map(|name| svg[..svg.find(name).unwrap()].rfind(" y=\"").unwrap()).into();
        let y = |at: usize| svg[at + 4..].split('"').next().unwrap().parse::<i32>().unwrap();
        assert_eq!(y(places[1]) - y(places[0]), NAME, "{svg}");
        for shown in ["\n1k\n", "\n100k\n", "\n16\n", "switches"] {
            assert!(svg.contains(shown), "{shown}: {svg}");
        }
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!([4.0, 1e3, 1e7, 1e9].map(short), ["4", "1k", "10M", "1G"]);
    }
}
