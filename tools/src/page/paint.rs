//! Drawing on SVG by `plotters`, in colours that the page chooses, and as wide as the page.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Units across; on a phone about one unit is one pixel, so text stays readable.
pub(super) const WIDTH: u32 = 420;
/// The size of text.
pub(super) const TEXT: u32 = 11;

/// A colour of the page's style sheet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ink {
    Text,
    /// On a bar.
    OnBar,
    Muted,
    Rule,
    /// One of [`SERIES`] colours that are easy to tell apart.
    Series(usize),
}

/// How many colours there are to tell apart.
pub(super) const SERIES: usize = 6;

impl Ink {
    /// `plotters` wants a number: one that stands for the name.
    fn stand_in(self) -> RGBColor {
        match self {
            Ink::Text => RGBColor(1, 0, 0),
            Ink::Muted => RGBColor(2, 0, 0),
            Ink::Rule => RGBColor(3, 0, 0),
            Ink::OnBar => RGBColor(5, 0, 0),
            Ink::Series(which) => RGBColor(4, 0, (which % SERIES) as u8),
        }
    }

    fn variable(self) -> String {
        match self {
            Ink::Text => "var(--text)".to_owned(),
            Ink::Muted => "var(--muted)".to_owned(),
            Ink::Rule => "var(--rule)".to_owned(),
            Ink::OnBar => "var(--page)".to_owned(),
            Ink::Series(which) => format!("var(--series-{})", which % SERIES),
        }
    }
}

/// Where text stands as seen from its point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Right,
    Left,
    Middle,
}

/// A drawing under way.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
}

impl Canvas<'_> {
    /// A box; one that is too narrow to see is drawn all the same.
    pub(super) fn bar(&self, [left, top, right, bottom]: [i32; 4], ink: Ink) {
        let corners = [(left, top), (right.max(left + 1), bottom)];
        written(self.area.draw(&Rectangle::new(corners, ink.stand_in().filled())));
    }

    pub(super) fn line(&self, points: &[(i32, i32)], ink: Ink) {
        written(self.area.draw(&PathElement::new(points.to_vec(), ink.stand_in().stroke_width(1))));
    }

    pub(super) fn dot(&self, at: (i32, i32), ink: Ink) {
        written(self.area.draw(&Circle::new(at, 2, ink.stand_in().filled())));
    }

    pub(super) fn text(&self, words: &str, at: (i32, i32), side: Side, ink: Ink) {
        let horizontal = match side {
            Side::Right => HPos::Left,
            Side::Left => HPos::Right,
            Side::Middle => HPos::Center,
        };
        let colour = ink.stand_in();
        let style = TextStyle::from(("sans-serif", TEXT).into_font()).color(&colour);
        written(self.area.draw(&Text::new(words.to_owned(), at, style.pos(Pos::new(horizontal, VPos::Center)))));
    }
}

/// A string takes all that is written.
fn written<E: std::fmt::Debug>(drawn: Result<(), E>) {
    drawn.expect("a string takes all that is written");
}

/// Draws so many units high, and says in words what it is for who cannot see it.
pub(super) fn draw(height: u32, what: &str, paint: impl FnOnce(&Canvas<'_>)) -> String {
    let mut svg = String::new();
    paint(&Canvas { area: SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area() });
    let inks = (0..SERIES).map(Ink::Series).chain([Ink::Text, Ink::OnBar, Ink::Muted, Ink::Rule]);
    for ink in inks {
        let RGBColor(red, green, blue) = ink.stand_in();
        svg = svg.replace(&format!("#{red:02X}{green:02X}{blue:02X}"), &ink.variable());
    }
    // As wide as the page lets it be.
    let size = format!("width=\"{WIDTH}\" height=\"{height}\" ");
    svg.replacen(&size, &format!("role=\"img\" aria-label=\"{}\" ", super::section::escaped(what)), 1)
}
