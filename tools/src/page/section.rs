//! A part of the report: words, a figure, a table, and how to make them again. As HTML and as Markdown.

use std::fmt::Write;

/// Words and numbers in rows.
pub(super) struct Table {
    pub(super) heads: Vec<String>,
    /// How many columns, from the first, hold words; the others hold numbers.
    pub(super) words: usize,
    pub(super) rows: Vec<Vec<String>>,
}

/// One part.
pub(super) struct Section {
    /// Its name in a link.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What it shows, for whoever sees it for the first time.
    pub(super) text: String,
    /// A command that makes the figures again.
    pub(super) command: String,
    /// An SVG.
    pub(super) figure: Option<String>,
    pub(super) table: Option<Table>,
}

impl Section {
    /// A part whose figures were not made yet.
    pub(super) fn absent(id: &'static str, title: &'static str, command: &str) -> Self {
        let text = "Not measured yet; the command below does it.".to_owned();
        Self { id, title, text, command: command.to_owned(), figure: None, table: None }
    }

    pub(super) fn html(&self) -> String {
        let Self { id, title, .. } = self;
        let mut out = format!("<section id=\"{id}\">\n<h2>{}</h2>\n<p>{}</p>\n", escaped(title), escaped(&self.text));
        if let Some(figure) = &self.figure {
            let _ = writeln!(out, "<figure>{figure}</figure>");
        }
        let _ = writeln!(out, "<p class=\"again\">Again: <code>{}</code></p>", escaped(&self.command));
        if let Some(table) = &self.table {
            let _ = writeln!(out, "<details><summary>All numbers</summary><div>{}</div></details>", table.html());
        }
        out + "</section>\n"
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n{}\n\nAgain: `{}`\n", self.title, self.text, self.command);
        if let Some(table) = &self.table {
            let _ = write!(out, "\n{}", table.markdown());
        }
        out
    }
}

impl Table {
    fn html(&self) -> String {
        let row = |cells: &[String], tag: &str| {
            let cell = |(column, text): (usize, &String)| {
                let class = if column < self.words { "" } else { " class=\"number\"" };
                format!("<{tag}{class}>{}</{tag}>", escaped(text))
            };
            format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
        };
        let body: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        format!("<table>\n<thead>{}</thead>\n<tbody>{body}</tbody>\n</table>", row(&self.heads, "th"))
    }

    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<_> =
            (0..self.heads.len()).map(|at| if at < self.words { "---" } else { "---:" }.into()).collect();
        let body: String = self.rows.iter().map(|cells| line(cells)).collect();
        line(&self.heads) + &line(&rule) + &body
    }
}

/// Text between tags.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_says_the_same_in_both_languages() {
        let table = Table {
            heads: vec!["scheme".into(), "RMW".into()],
            words: 1,
            rows: vec![vec!["a<b".into(), "2.00".into()]],
        };
        let section = Section {
            id: "x",
            title: "Costs",
            text: "What it costs.".into(),
            command: "make bench".into(),
            figure: Some("<svg/>".into()),
            table: Some(table),
        };
        let html = section.html();
        assert!(
            html.contains("<figure><svg/></figure>") && html.contains("<td>a&lt;b</td><td class=\"number\">2.00</td>")
        );
        let expected = "\
## Costs

What it costs.

Again: `make bench`

| scheme | RMW |
| --- | ---: |
| a<b | 2.00 |
";
        assert_eq!(section.markdown(), expected);
    }

    #[test]
    fn what_is_absent_names_its_command() {
        let section = Section::absent("y", "Costs", "make bars");
        assert!(section.html().contains("<code>make bars</code>") && !section.html().contains("<figure>"));
    }
}
