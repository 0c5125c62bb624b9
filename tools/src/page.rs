//! `lazuli report`: what was measured, as one page that needs no network, and as the tables of docs/RESULTS.md.

mod browser;
mod chart;
mod counted;
mod curve;
mod paint;
mod paths;
mod scaling;
mod section;
mod sections;
mod timeline;

use std::path::PathBuf;

use anyhow::{Context, Result};

use self::section::Section;
use crate::marked;

/// Options of `lazuli report`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where `make bench`, `make bars`, `make matrix`, `make simulate` and `make trace` leave their figures
    #[arg(long, default_value = "build")]
    folder: PathBuf,
    /// The page to write
    #[arg(long, default_value = "build/report.html")]
    html: PathBuf,
    /// The Markdown file to write the same tables to
    #[arg(long)]
    page: Option<PathBuf>,
    /// The Markdown file between whose marks the table of both kernels goes
    #[arg(long)]
    readme: Option<PathBuf>,
    /// Open the page in Chromium and see whether all is there
    #[arg(long)]
    check: bool,
}

/// Writes the page, and says what it lacks.
pub(crate) fn run(options: &Options) -> Result<()> {
    let sections = sections::all(&options.folder)?;
    let text = html(&sections);
    write(&options.html, &text)?;
    let lacking: Vec<_> = sections.iter().filter(|section| section.figure.is_none()).collect();
    for section in &lacking {
        println!("no figure for \"{}\"; to make it: {}", section.title, section.command);
    }
    match &options.page {
        Some(page) if lacking.is_empty() => write(page, &markdown(&sections))?,
        Some(page) => println!("{} stays as it is, until all figures are there", page.display()),
        None => {}
    }
    if let Some(readme) = options.readme.as_ref().filter(|_| lacking.is_empty())
        && let Some(table) = sections::of_both_kernels(&options.folder)?
    {
        marked::insert(readme, "report", &table.markdown())?;
    }
    println!("Open {}", options.html.display());
    if options.check { browser::check(&options.html, &text, &sections) } else { Ok(()) }
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

const TITLE: &str = "Lazuli: results";
const INTRODUCTION: &str = "\
What each lazy-TLB scheme costs, in counts that anybody can make again. Times are instructions under QEMU's -icount: they \
compare, they are not the speed of a machine.";

fn html(sections: &[Section]) -> String {
    let links: String = sections.iter().map(|s| format!("<a href=\"#{}\">{}</a>\n", s.id, s.title)).collect();
    let body: String = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{TITLE}</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <h1>{TITLE}</h1>\n<p>{INTRODUCTION}</p>\n<nav>\n{links}</nav>\n{body}</body>\n</html>\n",
        include_str!("page/style.css"),
    )
}

fn markdown(sections: &[Section]) -> String {
    let body: Vec<_> = sections.iter().map(Section::markdown).collect();
    format!("# Results\n\n{INTRODUCTION} Made by `make report`, which draws them, too.\n\n{}", body.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_links_to_its_parts() {
        let page = html(&[Section::absent("bars", "Bars", "make bars")]);
        assert!(page.contains("<a href=\"#bars\">Bars</a>") && page.contains("<section id=\"bars\">"));
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("name=\"viewport\""));
    }
}
