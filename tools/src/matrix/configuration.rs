//! The ways to configure the kernel: every scheme with every modifier and every way to flush that means something.

use mm::Config;

/// What `lazy_tlb=` takes.
const SCHEMES: [&str; 5] = ["refcount", "shootdown", "handoff", "qsbr", "eager"];
/// Modifiers of a scheme: a short name and the words on the command line.
const MODIFIERS: [(&str, &str); 8] = [
    ("", ""),
    ("+exit", "lazy_tlb.exit=init"),
    ("+slot", "lazy_tlb.target=slot"),
    ("+trim", "lazy_tlb.trim=dying"),
    ("+slot+trim", "lazy_tlb.target=slot lazy_tlb.trim=dying"),
    ("+batch16", "lazy_tlb.batch=16"),
    ("+batch16+slot", "lazy_tlb.batch=16 lazy_tlb.target=slot"),
    ("+shoot5", "lazy_tlb.shoot_after=5"),
];
/// Ways to flush, likewise.
const FLUSHES: [(&str, &str); 7] = [
    ("", ""),
    (" retire", "tlbi.exit=retire"),
    (" ipi", "tlbi=ipi"),
    (" ipi+piggyback", "tlbi=ipi tlbi.piggyback=on"),
    (" ipi+retire", "tlbi=ipi tlbi.exit=retire"),
    (" auto", "tlbi=auto"),
    (" auto+retire", "tlbi=auto tlbi.exit=retire"),
];

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// Such as `shootdown+slot ipi+piggyback`.
    pub(crate) name: String,
    /// What stands on the kernel's command line.
    pub(crate) words: String,
    /// What the kernel makes of that.
    pub(crate) config: Config,
}

impl Configuration {
    /// `None` if the kernel refuses it: then it means nothing.
    fn new(name: String, words: String) -> Option<Self> {
        let mut config = Config::default();
        for (option, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            config.set(option, value).ok()?;
        }
        config.check().ok()?;
        Some(Self { name, words, config })
    }
}

/// All that mean something, the schemes in the order of the command line's own list.
pub(crate) fn all() -> Vec<Configuration> {
    let mut all = Vec::new();
    for scheme in SCHEMES {
        for (flush, flush_words) in FLUSHES {
            for (modifier, modifier_words) in MODIFIERS {
                let words = format!("lazy_tlb={scheme} {modifier_words} {flush_words}");
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
                all.extend(Configuration::new(format!("{scheme}{modifier}{flush}"), words));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_is_there_and_what_does_not_is_not() {
        let names: Vec<_> = all().into_iter().map(|configuration| configuration.name).collect();
        for there in [
            "refcount",
            "shootdown+slot+trim",
            "shootdown+exit ipi+piggyback",
            "handoff+shoot5 ipi",
            "qsbr auto",
            "eager retire",
            "shootdown+batch16 auto",
        ] {
            assert!(names.iter().any(|name| name == there), "{there} in {names:?}");
        }
        for absent in ["refcount+slot", "eager+exit", "handoff retire", "eager ipi+piggyback", "qsbr+shoot5"] {
            assert!(names.iter().all(|name| name != absent), "{absent}");
        }
    }

    /// What the mm layer prints of a configuration is what we asked for.
    #[test]
    fn no_word_is_lost() {
        for configuration in all() {
            let mut printed: Vec<_> = configuration.config.to_string().split(' ').map(str::to_owned).collect();
            let mut given: Vec<_> = configuration.words.split(' ').map(str::to_owned).collect();
            printed.sort();
            given.sort();
            assert_eq!(printed, given, "{}", configuration.name);
        }
    }
}
