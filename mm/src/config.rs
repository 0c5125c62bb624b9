//! What the command line chooses, once, before the second CPU starts.

use core::fmt;

use crate::flush::FlushMode;
use crate::lazy::Scheme;

/// The words `lazy_tlb=` takes.
const SCHEMES: &[(&str, Scheme)] = &[
    ("refcount", Scheme::Refcount),
    ("shootdown", Scheme::Shootdown),
    ("handoff", Scheme::Handoff),
    ("eager", Scheme::Eager),
];

/// The words `tlbi=` takes.
const MODES: &[(&str, FlushMode)] =
    &[("broadcast", FlushMode::Broadcast), ("ipi", FlushMode::Ipi), ("auto", FlushMode::Auto)];

/// The options of the mm layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// `lazy_tlb=`: what keeps a lazily used `Mm` alive.
    pub scheme: Scheme,
    /// `lazy_tlb.debug=1`: before each free, ask every CPU whether it still holds the `Mm`.
    pub check: bool,
    /// `tlbi=`: how an invalidation reaches other CPUs.
    pub flush: FlushMode,
    /// `tlbi.piggyback=on`: the invalidation at teardown also makes lazy CPUs leave.
    pub piggyback: bool,
    /// `tlbi.exit=retire`: at teardown every CPU leaves the root, and nothing is invalidated.
    pub retire: bool,
    /// `asid_bits=`: how many bits of ASID to use; `None` for all the CPU has.
    pub asid_bits: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheme: Scheme::Refcount,
            check: false,
            flush: FlushMode::Broadcast,
            piggyback: false,
            retire: false,
            asid_bits: None,
        }
    }
}

/// An option the mm layer does not take. Its text says what is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError<'a> {
    /// `lazy_tlb=` names no scheme.
    UnknownScheme(&'a str),
    /// An option that looks like one of ours and is none.
    UnknownOption(&'a str),
    /// An option that is on or off got something else.
    NotASwitch(&'static str, &'a str),
    /// `tlbi=` names no mode.
    UnknownMode(&'a str),
    /// `tlbi.exit=` names nothing that can be done at teardown.
    UnknownExit(&'a str),
    /// Two options that are valid each, and together mean nothing.
    Together {
        /// The one that cannot be.
        option: &'static str,
        /// The one that it cannot be with, and its value.
        with: (&'static str, &'static str),
        /// What it can be with.
        valid: &'static str,
    },
    /// `asid_bits=` is not a number the CPU can do.
    BadAsidBits {
        /// What was given.
        given: &'a str,
        /// The most this CPU has.
        most: u32,
    },
    /// Fewer usable ASIDs than CPUs + 1: the allocator could run dry (rule 7).
    TooFewAsids {
        /// What was asked for.
        bits: u32,
        /// The least that serves the CPUs.
        least: u32,
        /// How many CPUs there are.
        cpus: usize,
    },
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownScheme(given) => {
                write!(f, "lazy_tlb={given}: no such scheme; valid are")?;
                SCHEMES.iter().try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::UnknownOption(given) => {
                write!(f, "{given}: no such option; valid are")?;
                Config::OPTIONS.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::NotASwitch(option, given) => write!(f, "{option}={given}: valid are on, off, 1 and 0"),
            Self::UnknownMode(given) => {
                write!(f, "tlbi={given}: no such mode; valid are")?;
                MODES.iter().try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::UnknownExit(given) => write!(f, "tlbi.exit={given}: valid are flush and retire"),
            Self::Together { option, with: (name, value), valid } => {
                write!(f, "{option} means nothing with {name}={value}; it is valid with {valid}")
            }
            Self::BadAsidBits { given, most } => {
                write!(f, "asid_bits={given}: valid are 2 to {most}, the size this CPU has")
            }
            Self::TooFewAsids { bits, least, cpus } => {
                write!(f, "asid_bits={bits}: too few ASIDs for {cpus} CPUs; the least is asid_bits={least}")
            }
        }
    }
}

impl Config {
    /// The options this layer takes, as `/chosen/bootargs` spells them.
    pub const OPTIONS: &'static [&'static str] =
        &["lazy_tlb", "lazy_tlb.debug", "tlbi", "tlbi.piggyback", "tlbi.exit", "asid_bits"];

    /// Takes one option. Those of other layers are ignored; what begins like one of ours must be one.
    ///
    /// # Errors
    /// If the option or its value is none of the valid ones.
    pub fn set<'a>(&mut self, option: &'a str, value: &'a str) -> Result<(), ConfigError<'a>> {
        match option {
            "lazy_tlb" => {
                let found = SCHEMES.iter().find(|(name, _)| *name == value);
                self.scheme = found.ok_or(ConfigError::UnknownScheme(value))?.1;
            }
            "lazy_tlb.debug" => self.check = switch("lazy_tlb.debug", value)?,
            "tlbi" => {
                let found = MODES.iter().find(|(name, _)| *name == value);
                self.flush = found.ok_or(ConfigError::UnknownMode(value))?.1;
            }
            "tlbi.piggyback" => self.piggyback = switch("tlbi.piggyback", value)?,
            "tlbi.exit" => match value {
                "flush" => self.retire = false,
                "retire" => self.retire = true,
                _ => return Err(ConfigError::UnknownExit(value)),
            },
            "asid_bits" => {
                let bits = value.parse().ok().filter(|bits| (2..=16).contains(bits));
                self.asid_bits = Some(bits.ok_or(ConfigError::BadAsidBits { given: value, most: 16 })?);
            }
            _ if ["lazy_tlb", "tlbi", "asid"].iter().any(|ours| option.starts_with(ours)) => {
                return Err(ConfigError::UnknownOption(option));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the options mean something together. Asked once, when all of them are known.
    ///
    /// # Errors
    /// If two of them do not.
    pub fn check(&self) -> Result<(), ConfigError<'static>> {
        let (mode, scheme) = (("tlbi", self.flush.name()), ("lazy_tlb", self.scheme.name()));
        let no = |option, with, valid| Err(ConfigError::Together { option, with, valid });
        match self.scheme {
            _ if self.piggyback && self.flush != FlushMode::Ipi => no("tlbi.piggyback=on", mode, "tlbi=ipi"),
            _ if self.piggyback && self.retire => no("tlbi.piggyback=on", ("tlbi.exit", "retire"), "tlbi.exit=flush"),
            Scheme::Eager if self.piggyback => no("tlbi.piggyback=on", scheme, "a scheme whose CPUs are lazy"),
            // Before the first table goes, every CPU must have left: only these schemes know how to ask.
            Scheme::Shootdown | Scheme::Eager => Ok(()),
            _ if self.retire => no("tlbi.exit=retire", scheme, "lazy_tlb=shootdown or lazy_tlb=eager"),
            _ => Ok(()),
        }
    }

    /// The ASID size to use on a CPU that has `hardware_bits`, for so many CPUs.
    ///
    /// # Errors
    /// If the CPU has fewer bits than asked for, or the ASIDs would not go round.
    pub fn usable_asid_bits(&self, hardware_bits: u32, cpus: usize) -> Result<u32, ConfigError<'static>> {
        let bits = self.asid_bits.unwrap_or(hardware_bits);
        if bits > hardware_bits {
            return Err(ConfigError::BadAsidBits { given: "more than there are", most: hardware_bits });
        }
        // Usable are all but 0, and a rollover may find one reserved per CPU: one more must be free.
        let least = (cpus as u32 + 2).next_power_of_two().trailing_zeros();
        if bits < least { Err(ConfigError::TooFewAsids { bits, least, cpus }) } else { Ok(bits) }
    }
}

fn switch<'a>(option: &'static str, value: &'a str) -> Result<bool, ConfigError<'a>> {
    match value {
        "0" | "off" => Ok(false),
        "1" | "on" => Ok(true),
        _ => Err(ConfigError::NotASwitch(option, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn nonsense_names_the_valid_words() {
        let error = Config::default().set("lazy_tlb", "nonsense").unwrap_err();
        assert_eq!(error.to_string(), "lazy_tlb=nonsense: no such scheme; valid are refcount shootdown handoff eager");
    }

    /// What is not done is not taken in silence.
    #[test]
    fn an_option_of_ours_must_be_known() {
        let mut config = Config::default();
        assert_eq!(config.set("lazy_tlb.speed", "9"), Err(ConfigError::UnknownOption("lazy_tlb.speed")));
        assert_eq!(config.set("init", "/init"), Ok(()));
    }

    #[test]
    fn what_means_nothing_together_is_refused_with_both_names() {
        let check = |options: &[(&'static str, &'static str)]| {
            let mut config = Config::default();
            options.iter().for_each(|(option, value)| config.set(option, value).unwrap());
            config.check().map_err(|error| error.to_string())
        };
        let piggyback = ("tlbi.piggyback", "on");
        assert_eq!(check(&[("tlbi", "ipi"), piggyback]), Ok(()));
        assert_eq!(check(&[("tlbi", "ipi"), piggyback, ("tlbi.piggyback", "off"), ("tlbi", "auto")]), Ok(()));
        for (others, words) in [
            (&[][..], ["tlbi.piggyback=on", "tlbi=ipi"]),
            (&[("tlbi", "auto")], ["tlbi.piggyback=on", "tlbi=ipi"]),
            (&[("tlbi", "ipi"), ("lazy_tlb", "eager")], ["tlbi.piggyback=on", "lazy_tlb=eager"]),
            (
                &[("tlbi", "ipi"), ("lazy_tlb", "shootdown"), ("tlbi.exit", "retire")],
                ["tlbi.piggyback=on", "tlbi.exit=retire"],
            ),
        ] {
            let error = check(&[others, &[piggyback]].concat()).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        for scheme in ["refcount", "handoff"] {
            let error = check(&[("lazy_tlb", scheme), ("tlbi.exit", "retire")]).unwrap_err();
            assert!(error.contains("tlbi.exit=retire") && error.contains("lazy_tlb=shootdown"), "{error}");
        }
        assert_eq!(check(&[("lazy_tlb", "eager"), ("tlbi.exit", "retire")]), Ok(()));
        assert_eq!(check(&[("lazy_tlb", "shootdown"), ("tlbi.exit", "retire"), ("tlbi", "auto")]), Ok(()));
    }

    #[test]
    fn unknown_flush_words_name_the_valid_ones() {
        let error = |option, value| Config::default().set(option, value).unwrap_err().to_string();
        assert_eq!(error("tlbi", "none"), "tlbi=none: no such mode; valid are broadcast ipi auto");
        assert_eq!(error("tlbi.exit", "skip"), "tlbi.exit=skip: valid are flush and retire");
        assert_eq!(error("tlbi.piggyback", "yes"), "tlbi.piggyback=yes: valid are on, off, 1 and 0");
    }

    /// Rule 7: usable ASIDs (all but 0) >= CPUs + 1.
    #[test]
    fn asids_must_go_round() {
        let config = |bits| Config { asid_bits: Some(bits), ..Config::default() };
        assert_eq!(config(2).usable_asid_bits(16, 2), Ok(2));
        assert_eq!(config(2).usable_asid_bits(16, 3), Err(ConfigError::TooFewAsids { bits: 2, least: 3, cpus: 3 }));
        assert_eq!(config(3).usable_asid_bits(16, 6), Ok(3));
        assert!(config(3).usable_asid_bits(16, 7).is_err());
        assert!(config(16).usable_asid_bits(8, 1).is_err());
    }
}
