//! The command line: what boots Linux is accepted, what means nothing is refused with what is valid.

use formats::command_line::{Error, Line, join};

#[test]
fn a_line_that_boots_linux_is_accepted() {
    let line = Line(
        "earlycon console=ttyAMA0 quiet nokaslr panic=-1 root=/dev/ram0 rdinit=/init 8250.nr_uarts=0 -- --any=thing",
    );
    assert_eq!(line.check(), Ok(()), "verdict");
}

#[test]
fn a_line_is_taken_apart() {
    let line = Line("  init=/bin/a lazy_tlb=eager\tquiet init=/bin/b test=\"two words\" -- -x \"a b\"  -- c=d");
    assert_eq!(line.get("init"), Some("/bin/b"), "last of two");
    assert_eq!(line.get("test"), Some("two words"), "quoted");
    assert_eq!(line.get("quiet"), Some(""), "flag");
    assert_eq!(line.get("c"), None, "absent");
    assert_eq!(line.init_arguments().collect::<Vec<_>>(), vec!["-x", "a b", "--", "c=d"], "arguments");
}

#[test]
fn a_bundled_line_goes_first() {
    let joined = join("init=/app lazy_tlb=eager -- one", "lazy_tlb=shootdown");
    let line = Line(&joined);
    assert_eq!(line.get("init"), Some("/app"), "the bundle's");
    assert_eq!(line.get("lazy_tlb"), Some("shootdown"), "the loader's counts");
    assert_eq!(line.init_arguments().collect::<Vec<_>>(), vec!["one"], "the bundle's arguments");
    let joined = join("init=/app -- one", "test=\" -- \" -- two three");
    let line = Line(&joined);
    assert_eq!(line.get("test"), Some(" -- "), "quoted");
    assert_eq!(line.init_arguments().collect::<Vec<_>>(), vec!["two", "three"], "the loader's arguments");
}

#[test]
fn an_unknown_option_is_refused_with_what_is_valid() {
    let error = Line("init=/a lazytlb=eager").check().err();
    assert_eq!(error, Some(Error::Unknown("lazytlb")), "error");
    let text = error.map_or(String::new(), |error| error.to_string());
    let named = ["lazytlb", "lazy_tlb=", "watchdog=SECONDS"];
    assert_eq!(named.iter().find(|word| !text.contains(*word)), None, "names what is valid");
}

/// Else a bundle's open quote would swallow the loader's options, which stand behind it.
#[test]
fn an_open_quote_is_refused() {
    for line in ["test=\"a b", "init=/a -- \"", "\"test=a\" -- b\" c \"\""] {
        assert_eq!(Line(line).check(), Err(Error::OpenQuote), "{line}");
    }
    assert_eq!(Line("test=\"a b\" -- \"c\"").check(), Ok(()));
}

#[test]
fn a_value_that_means_nothing_is_refused() {
    for line in ["exit=maybe", "watchdog=0", "watchdog=soon", "init=init", "loglevel=9", "exit"] {
        assert!(matches!(Line(line).check(), Err(Error::BadValue { .. })), "{line}: {:?}", Line(line).check());
    }
}
