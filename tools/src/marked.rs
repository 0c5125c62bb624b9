//! Text in a Markdown file that a command writes anew, between two marks.

use std::path::Path;

use anyhow::{Context, Result};

/// The marks around what the target `name` of make writes.
fn marks(name: &str) -> [String; 2] {
    [format!("<!-- {name}: what follows is made by `make {name}` -->"), format!("<!-- {name}: end -->")]
}

/// Puts `text` between the marks of `name` in the file.
///
/// # Errors
/// If the file has no such marks.
pub(crate) fn insert(file: &Path, name: &str, text: &str) -> Result<()> {
    let context = || file.display().to_string();
    let page = std::fs::read_to_string(file).with_context(context)?;
    let [begin, end] = marks(name);
    let page =
        between(&page, name, text).with_context(|| format!("{}: no `{begin}` before `{end}`", file.display()))?;
    std::fs::write(file, page).with_context(context)
}

fn between(page: &str, name: &str, text: &str) -> Option<String> {
    let [begin, end] = marks(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let [begin, end] = marks("bench");
        let page = format!("a\n{begin}\nold\n{end}\nb\n");
        let once = between(&page, "bench", "new\n").unwrap();
        assert_eq!(once, format!("a\n{begin}\n\nnew\n\n{end}\nb\n"));
        assert_eq!(between(&once, "bench", "new\n").unwrap(), once);
        assert_eq!(between(&page, "matrix", "new"), None);
    }
}
