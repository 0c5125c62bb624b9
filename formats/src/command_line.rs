//! The kernel command line: `key=value` words, then `--`, then the first program's arguments.
//!
//! The line is short and read rarely, so it is not taken apart: each question reads it again. The same
//! line must also boot Linux, so words that only Linux understands are accepted by name. Any other
//! word is an error: a mistyped option must not silently mean the default.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// One option the kernel knows: its name, what may follow `=`, and whether a value is that.
struct Known {
    name: &'static str,
    value: &'static str,
    accepts: fn(&str) -> bool,
}

const fn known(name: &'static str, value: &'static str, accepts: fn(&str) -> bool) -> Known {
    Known { name, value, accepts }
}

fn any(_: &str) -> bool {
    true
}

fn path(value: &str) -> bool {
    value.starts_with('/')
}

fn positive(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|number| number > 0)
}

/// What the kernel acts on. The mm layer judges the values of its own options.
const OPTIONS: &[Known] = &[
    known("init", "/PATH", path),
    known("rdinit", "/PATH", path),
    known("exit", "semihosting|restart", |value| matches!(value, "semihosting" | "restart")),
    known("frames", "on", |value| value == "on"),
    known("heartbeat", "on", |value| value == "on"),
    known("trace", "on", |value| value == "on"),
    known("watchdog", "SECONDS", positive),
    known("loglevel", "0..8", |value| value.parse::<u8>().is_ok_and(|level| level <= 8)),
    known("console", "DEVICE", any),
    known("test", "SUBSTRING", any),
    known("lazy_tlb", "SCHEME", any),
    known("lazy_tlb.debug", "on|off", any),
    known("lazy_tlb.exit", "init", any),
    known("lazy_tlb.batch", "N", any),
    known("lazy_tlb.target", "mask|slot", any),
    known("lazy_tlb.trim", "dying", any),
    known("lazy_tlb.shoot_after", "MS", any),
    known("tlbi", "broadcast|ipi|auto", any),
    known("tlbi.piggyback", "on|off", any),
    known("tlbi.exit", "flush|retire", any),
    known("asid_bits", "N", any),
];

/// Words that speak to Linux, and that mean nothing here.
const FOR_LINUX: &[&str] = &[
    "cma",
    "coherent_pool",
    "debug",
    "earlycon",
    "earlyprintk",
    "fsck.repair",
    "ignore_loglevel",
    "keep_bootcon",
    "mitigations",
    "nokaslr",
    "numa",
    "numa_policy",
    "panic",
    "printk.time",
    "quiet",
    "ro",
    "root",
    "rootfstype",
    "rootwait",
    "rw",
    "splash",
    "video",
];

/// Prefixes of Linux module parameters that the Raspberry Pi's firmware puts on the line unasked.
const FOR_LINUX_MODULES: &[&str] =
    &["8250.", "bcm2708_fb.", "bcm2709.", "dwc_otg.", "smsc95xx.", "snd_bcm2835.", "vc_mem."];

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<'l> {
    /// A word that neither the kernel nor Linux knows.
    Unknown(&'l str),
    /// A quote that nothing closes: what belongs to it is not to be told.
    OpenQuote,
    /// An option whose value means nothing.
    BadValue {
        /// The option.
        option: &'l str,
        /// What it was given.
        value: &'l str,
        /// What it may be given.
        valid: &'static str,
    },
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => {
                write!(f, "command line: unknown option {option}; valid are")?;
                OPTIONS.iter().try_for_each(|known| write!(f, " {}={}", known.name, known.value))?;
                write!(f, ", and for the first program -- ARGUMENTS; ignored because they are Linux's:")?;
                FOR_LINUX.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::OpenQuote => write!(f, "command line: a double quote is opened and not closed; close or remove it"),
            Self::BadValue { option, value, valid } => {
                write!(f, "command line: {option}={value} means nothing; valid is {option}={valid}")
            }
        }
    }
}

/// A command line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'l>(pub &'l str);

impl<'l> Line<'l> {
    /// The kernel's options, as key and value; the value is empty if there is no `=`.
    pub fn options(self) -> impl Iterator<Item = (&'l str, &'l str)> {
        words(self.0)
            .take_while(|&word| word != "--")
            .map(|word| word.split_once('=').unwrap_or((word, "")))
            .map(|(key, value)| (key, unquote(value)))
    }

    /// The value of an option; the last one counts if it is given twice.
    pub fn get(self, key: &str) -> Option<&'l str> {
        self.options().filter(|&(name, _)| name == key).last().map(|(_, value)| value)
    }

    /// The first program's arguments: what follows `--`.
    pub fn init_arguments(self) -> impl Iterator<Item = &'l str> {
        words(self.0).skip_while(|&word| word != "--").skip(1).map(unquote)
    }

    /// Whether each option is known and has a value that means something, and each quote is closed.
    pub fn check(self) -> Result<(), Error<'l>> {
        if !self.0.matches('"').count().is_multiple_of(2) {
            return Err(Error::OpenQuote);
        }
        self.options().try_for_each(|(option, value)| {
            let for_linux =
                FOR_LINUX.contains(&option) || FOR_LINUX_MODULES.iter().any(|prefix| option.starts_with(prefix));
            match OPTIONS.iter().find(|known| known.name == option) {
                Some(known) if (known.accepts)(value) => Ok(()),
                Some(known) => Err(Error::BadValue { option, value, valid: known.value }),
                None if for_linux => Ok(()),
                None => Err(Error::Unknown(option)),
            }
        })
    }
}

/// Words between blanks; a quoted stretch may contain blanks.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c.is_ascii_whitespace()
    })
    .filter(|word| !word.is_empty())
}

/// The word without the quotes around it.
fn unquote(word: &str) -> &str {
    word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(word)
}

/// One line of two: options of both, of which the loader's come last and so count; the loader's arguments for the first
/// program if it has any, else the bundle's.
pub fn join(bundled: &str, loaders: &str) -> String {
    let (bundled_options, bundled_arguments) = split(bundled);
    let (options, arguments) = split(loaders);
    let arguments = arguments.or(bundled_arguments).unwrap_or("");
    format!("{bundled_options} {options} {arguments}")
}

/// The options, and the rest from the `--` on, if there is one.
fn split(line: &str) -> (&str, Option<&str>) {
    match words(line).find(|&word| word == "--") {
        Some(mark) => {
            let (options, rest) = line.split_at(mark.as_ptr().addr() - line.as_ptr().addr());
            (options, Some(rest))
        }
        None => (line, None),
    }
}
