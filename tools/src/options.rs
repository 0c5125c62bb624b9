//! Short names of command lines of the mm layer: a scheme and its modifiers, such as `shootdown+slot+trim`.

use anyhow::{Context, Result};

/// What each word after the scheme stands for.
const MODIFIERS: &[(&str, &str)] = &[
    ("debug", "lazy_tlb.debug=1"),
    ("exit", "lazy_tlb.exit=init"),
    ("slot", "lazy_tlb.target=slot"),
    ("trim", "lazy_tlb.trim=dying"),
    ("batch4", "lazy_tlb.batch=4"),
    ("batch16", "lazy_tlb.batch=16"),
    ("after5", "lazy_tlb.shoot_after=5"),
    ("ipi", "tlbi=ipi"),
    ("auto", "tlbi=auto"),
    ("piggyback", "tlbi.piggyback=on"),
    ("retire", "tlbi.exit=retire"),
];

/// The schemes alone.
pub(crate) const SCHEMES: &[&str] = &["refcount", "shootdown", "handoff", "qsbr", "eager"];

/// The words of the command line that a name stands for, without `lazy_tlb=` itself, and the scheme.
///
/// # Errors
/// If a word of it stands for nothing.
pub(crate) fn of(name: &str) -> Result<(String, String)> {
    let mut words = name.split('+');
    let scheme = words.next().unwrap_or_default().to_owned();
    let meaning = |word: &str| {
        let found = MODIFIERS.iter().find(|(short, _)| *short == word);
        let known = || MODIFIERS.iter().map(|(short, _)| *short).collect::<Vec<_>>().join(", ");
        found.map(|(_, option)| *option).with_context(|| format!("`{word}` in `{name}` is none of {}", known()))
    };
    let options = words.map(meaning).collect::<Result<Vec<_>>>()?.join(" ");
    Ok((scheme, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_words() {
        let of = |name| of(name).unwrap();
        assert_eq!(of("eager"), ("eager".to_owned(), String::new()));
        let (scheme, options) = of("shootdown+slot+batch4");
        assert_eq!((scheme.as_str(), options.as_str()), ("shootdown", "lazy_tlb.target=slot lazy_tlb.batch=4"));
    }

    #[test]
    fn an_unknown_word_names_the_known() {
        let error = of("shootdown+fast").unwrap_err().to_string();
        assert!(error.contains("fast") && error.contains("slot"), "{error}");
    }
}
