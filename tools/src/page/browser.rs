//! The page as a reader meets it: opened in Chromium on a phone's width, by day and by night, and clicked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use super::section::{Section, escaped};

const PROGRAM: &str = "chromium";
/// How Chromium begins what a page says on its console.
const CONSOLE: &str = "CONSOLE";
/// Chromium's numbers for what the reader prefers, and the ground that the style sheet gives the page then.
const GROUNDS: [(&str, &str); 2] = [("1", "rgb(253,253,251)"), ("0", "rgb(23,24,27)")];

/// Opens `page` as `html`, and leaves a picture of it beside it. Where there is no Chromium, says so and no more.
///
/// # Errors
/// If the page complains, or lacks what it should have.
pub(super) fn check(html: &Path, page: &str, sections: &[Section]) -> Result<()> {
    if Command::new(PROGRAM).arg("--version").output().is_err() {
        println!("SKIPPED: the report in a browser, because there is no {PROGRAM}; as root: apt-get install chromium");
        return Ok(());
    }
    let probe = html.with_extension("probe.html");
    let text = include_str!("probe.html").replace("PAGE", &escaped(page));
    std::fs::write(&probe, text).with_context(|| format!("cannot write {}", probe.display()))?;
    for (preference, ground) in GROUNDS {
        let scheme = format!("--blink-settings=preferredColorScheme={preference}");
        let output = browse(&[&scheme, "--virtual-time-budget=3000", "--dump-dom"], &probe)?;
        judge(&String::from_utf8_lossy(&output.stdout), &expected(sections, ground))?;
    }
    let picture = std::path::absolute(html.with_extension("png"))?;
    browse(&["--hide-scrollbars", "--window-size=800,4200", &format!("--screenshot={}", picture.display())], html)?;
    ensure!(picture.exists(), "{PROGRAM} left no picture");
    println!("ok: opened and clicked in {PROGRAM}; {} shows it", html.with_extension("png").display());
    std::fs::remove_file(&probe).with_context(|| format!("cannot remove {}", probe.display()))
}

/// Runs Chromium on a page, which must say nothing on its console.
fn browse(options: &[&str], page: &Path) -> Result<Output> {
    let page: PathBuf = std::path::absolute(page)?;
    // Pages of our own: no sandbox is needed, and as root none is to be had.
    let fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"];
    let output = Command::new(PROGRAM)
        .args(fixed)
        .args(options)
        .arg(format!("file://{}", page.display()))
        .output()
        .with_context(|| format!("cannot start {PROGRAM}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{PROGRAM} failed: {said}");
    let complaints: Vec<_> = said.lines().filter(|line| line.contains(CONSOLE)).collect();
    ensure!(complaints.is_empty(), "on the page's console: {}", complaints.join("\n"));
    Ok(output)
}

/// What probe.html should find: all figures and tables to be seen, all links to lead somewhere, nothing wider than the
/// phone.
fn expected(sections: &[Section], ground: &str) -> String {
    let figures = sections.iter().filter(|section| section.figure.is_some()).count();
    let tables = sections.iter().filter(|section| section.table.is_some()).count();
    format!("figures={figures} tables={tables} links={} over=0 ground={ground}", sections.len())
}

fn judge(dom: &str, expected: &str) -> Result<()> {
    let found = dom.split("verdict: ").nth(1).and_then(|rest| rest.split('<').next());
    let found = found.context("the page's probe found nothing")?.trim();
    ensure!(found == expected, "in the browser: {found}; it should be: {expected}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_finds_is_held_against_the_sections() {
        let sections = [Section::absent("a", "A", "make a"), Section::absent("b", "B", "make b")];
        let wanted = expected(&sections, "rgb(1,2,3)");
        assert_eq!(wanted, "figures=0 tables=0 links=2 over=0 ground=rgb(1,2,3)");
        assert!(judge(&format!("<p>verdict: {wanted}</p>"), &wanted).is_ok());
        let error = judge("<p>verdict: figures=1</p>", &wanted).unwrap_err().to_string();
        assert!(error.contains("figures=1;"), "{error}");
        assert!(judge("<p></p>", &wanted).is_err());
    }
}
