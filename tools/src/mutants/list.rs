//! The mutants: what `cargo mutants --list --json` says.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What is changed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Genre {
    /// A function returns something at once.
    FnValue,
    BinaryOperator,
    UnaryOperator,
    /// A guard is always true, or never.
    MatchArmGuard,
    /// An arm is gone.
    MatchArm,
    /// A field keeps its default.
    StructField,
}

/// One of them.
pub(super) struct Mutant {
    /// With file, line and column.
    pub(super) name: String,
    pub(super) file: String,
    function: String,
    pub(super) genre: Genre,
    pub(super) replacement: String,
    /// Line and column, from 1.
    start: (usize, usize),
    end: (usize, usize),
}

/// All of a list.
pub(super) fn parse(json: &str) -> Result<Vec<Mutant>> {
    let value: Value = serde_json::from_str(json).context("the list of mutants is no JSON")?;
    value.as_array().context("the list of mutants is no list")?.iter().map(Mutant::parse).collect()
}

impl Mutant {
    fn parse(value: &Value) -> Result<Self> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = |end: &str| {
            let field = |name| value.pointer(&format!("/span/{end}/{name}")).and_then(Value::as_u64).unwrap_or(0);
            (field("line") as usize, field("column") as usize)
        };
        let genre = match text("/genre").as_str() {
            "FnValue" => Genre::FnValue,
            "BinaryOperator" => Genre::BinaryOperator,
            "UnaryOperator" => Genre::UnaryOperator,
            "MatchArmGuard" => Genre::MatchArmGuard,
            "MatchArm" => Genre::MatchArm,
            "StructField" => Genre::StructField,
            other => bail!("a mutant of the unknown genre `{other}`"),
        };
        Ok(Self {
            name: text("/name"),
            file: text("/file"),
            function: text("/function/function_name"),
            genre,
            replacement: text("/replacement"),
            start: place("start"),
            end: place("end"),
        })
    }

    /// The last part of its function's name.
    pub(super) fn function_name(&self) -> String {
        self.function.rsplit("::").next().unwrap_or_default().to_owned()
    }

    /// Its name without line and column: it stays the same when something above it changes.
    pub(super) fn key(&self) -> String {
        let rest = self.name.strip_prefix(&self.file).unwrap_or(&self.name);
        let what = rest.split_once(": ").map_or(rest, |(_, what)| what);
        format!("{}: {what}", self.file)
    }

    /// Where it stands in its file.
    pub(super) fn range(&self, text: &str) -> Range<usize> {
        place(text, self.start)..place(text, self.end)
    }
}

fn place(text: &str, (line, column): (usize, usize)) -> usize {
    let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let in_line = text[before..].char_indices().nth(column - 1).map_or(text.len() - before, |(at, _)| at);
    before + in_line
}
