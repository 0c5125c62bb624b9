//! What the command line chooses, once, before the second CPU starts.

use core::fmt;

use crate::flush::FlushMode;
use crate::lazy::{Scheme, fixed};

/// The words `lazy_tlb=` takes.
const SCHEMES: &[(&str, Scheme)] = &[
    ("refcount", Scheme::Refcount),
    ("shootdown", Scheme::Shootdown),
    ("handoff", Scheme::Handoff),
    ("qsbr", Scheme::Qsbr),
    ("eager", Scheme::Eager),
];
const SWITCH: &[(&str, bool)] = &[("on", true), ("off", false), ("1", true), ("0", false)];
const EXIT: &[(&str, bool)] = &[("init", true), ("lazy", false)];
const TRIM: &[(&str, bool)] = &[("dying", true), ("off", false)];
const TARGETS: &[(&str, Target)] = &[("mask", Target::Mask), ("slot", Target::Slot)];
const MODES: &[(&str, FlushMode)] =
    &[("broadcast", FlushMode::Broadcast), ("ipi", FlushMode::Ipi), ("auto", FlushMode::Auto)];
const TEARDOWN: &[(&str, bool)] = &[("flush", false), ("retire", true)];

/// The schemes under which a CPU can be lazy.
const LAZY: &str = "a scheme whose CPUs are lazy: lazy_tlb=refcount, shootdown, handoff or qsbr";

/// The most dead `Mm`s that `lazy_tlb.batch=` lets gather.
const MOST_BATCHED: usize = 1024;
/// The longest time that `lazy_tlb.shoot_after=` takes, in milliseconds.
const LONGEST_WAIT: u64 = 60_000;

/// Which CPUs a shoot interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// All that `mm_cpumask` names: whoever may hold the `Mm`.
    Mask,
    /// Those whose `loaded` slot names the `Mm`: whoever has it loaded now.
    Slot,
}

/// The options of the mm layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// `lazy_tlb=`: what keeps a lazily used `Mm` alive.
    pub scheme: Scheme,
    /// `lazy_tlb.debug=1`: before each free, ask every CPU whether it still holds the `Mm`.
    pub check: bool,
    /// `lazy_tlb.exit=init`: a CPU whose task gives its `Mm` up loads `init_mm` before the user is dropped.
    pub unlazy_at_exit: bool,
    /// `lazy_tlb.batch=`: how many dead `Mm`s gather before one round of IPIs frees them; 0 for none.
    pub batch: usize,
    /// `lazy_tlb.target=`: whom a shoot interrupts.
    pub target: Target,
    /// `lazy_tlb.trim=dying`: a CPU that leaves an `Mm` without users clears its bit in `mm_cpumask`.
    pub trim: bool,
    /// `lazy_tlb.shoot_after=`: milliseconds after which `handoff` shoots who still has a dead `Mm` loaded.
    pub shoot_after: Option<u64>,
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
            unlazy_at_exit: false,
            batch: 0,
            target: Target::Mask,
            trim: false,
            shoot_after: None,
            flush: FlushMode::Broadcast,
            piggyback: false,
            retire: false,
            asid_bits: None,
        }
    }
}

impl fmt::Display for Config {
    /// The options that are set, as the command line spells them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lazy_tlb={}", self.scheme.name())?;
        for (word, is_set) in [
            (" lazy_tlb.debug=1", self.check),
            (" lazy_tlb.exit=init", self.unlazy_at_exit),
            (" lazy_tlb.target=slot", self.target == Target::Slot),
            (" lazy_tlb.trim=dying", self.trim),
            (" tlbi=ipi", self.flush == FlushMode::Ipi),
            (" tlbi=auto", self.flush == FlushMode::Auto),
            (" tlbi.piggyback=on", self.piggyback),
            (" tlbi.exit=retire", self.retire),
        ] {
            f.write_str(if is_set { word } else { "" })?;
        }
        if self.batch != 0 {
            write!(f, " lazy_tlb.batch={}", self.batch)?;
        }
        if let Some(time) = self.shoot_after {
            write!(f, " lazy_tlb.shoot_after={time}")?;
        }
        self.asid_bits.map_or(Ok(()), |bits| write!(f, " asid_bits={bits}"))
    }
}

/// An option the mm layer does not take. Its text says what is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError<'a> {
    /// `lazy_tlb=` names no scheme.
    UnknownScheme(&'a str),
    /// An option that looks like one of ours and is none.
    UnknownOption(&'a str),
    /// An option got a value that it does not take.
    BadValue {
        /// The option.
        option: &'static str,
        /// What was given.
        given: &'a str,
        /// What it takes.
        valid: &'static str,
    },
    /// Two options that are valid each, and together mean nothing.
    Together {
        /// The one that cannot be.
        option: &'static str,
        /// The one that it cannot be with, and its value.
        with: (&'static str, &'static str),
        /// What it can be with.
        valid: &'static str,
    },
    /// The build knows another scheme only, or none of the modifiers that change the switch.
    OtherBuild(Scheme),
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
            Self::BadValue { option, given, valid } => write!(f, "{option}={given}: valid are {valid}"),
            Self::Together { option, with: (name, value), valid } => {
                write!(f, "{option} means nothing with {name}={value}; it is valid with {valid}")
            }
            Self::OtherBuild(fixed) => {
                let name = fixed.name();
                write!(f, "this kernel was built for plain lazy_tlb={name}; build it without LAZULI_FIXED_SCHEME")
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
    pub const OPTIONS: &'static [&'static str] = &[
        "lazy_tlb",
        "lazy_tlb.debug",
        "lazy_tlb.exit",
        "lazy_tlb.batch",
        "lazy_tlb.target",
        "lazy_tlb.trim",
        "lazy_tlb.shoot_after",
        "tlbi",
        "tlbi.piggyback",
        "tlbi.exit",
        "asid_bits",
    ];

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
            "lazy_tlb.debug" => self.check = word("lazy_tlb.debug", value, SWITCH, "on, off, 1 and 0")?,
            "lazy_tlb.exit" => self.unlazy_at_exit = word("lazy_tlb.exit", value, EXIT, "init and lazy")?,
            "lazy_tlb.trim" => self.trim = word("lazy_tlb.trim", value, TRIM, "dying and off")?,
            "lazy_tlb.target" => self.target = word("lazy_tlb.target", value, TARGETS, "mask and slot")?,
            "lazy_tlb.batch" => {
                let number = value.parse().ok().filter(|&number| number <= MOST_BATCHED);
                self.batch = number.ok_or(bad_value("lazy_tlb.batch", value, "0 to 1024"))?;
            }
            "lazy_tlb.shoot_after" => {
                let time = value.parse().ok().filter(|&time| time <= LONGEST_WAIT);
                let error = bad_value("lazy_tlb.shoot_after", value, "1 to 60000, in milliseconds, and 0 for never");
                self.shoot_after = Some(time.ok_or(error)?).filter(|&time| time != 0);
            }
            "tlbi" => self.flush = word("tlbi", value, MODES, "broadcast, ipi and auto")?,
            "tlbi.piggyback" => self.piggyback = word("tlbi.piggyback", value, SWITCH, "on, off, 1 and 0")?,
            "tlbi.exit" => self.retire = word("tlbi.exit", value, TEARDOWN, "flush and retire")?,
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

    /// Whether each final drop asks all CPUs of `mm_cpumask`.
    pub(crate) fn shoots_each(&self) -> bool {
        self.scheme == Scheme::Shootdown && self.target == Target::Mask && self.batch == 0
    }

    /// Whether the options mean something together. [`System::new`](crate::System::new) asks.
    ///
    /// # Errors
    /// If two of them do not.
    pub fn check(&self) -> Result<(), ConfigError<'static>> {
        if let Some(fixed) = fixed::FIXED.filter(|_| !fixed::allows(self)) {
            return Err(ConfigError::OtherBuild(fixed));
        }
        let shootdown = self.scheme == Scheme::Shootdown;
        let mode = ("tlbi", self.flush.name());
        let scheme = ("lazy_tlb", self.scheme.name());
        // The option, whether it is set, whether it means something here, what forbids it, and what allows it.
        let rules = [
            ("lazy_tlb.exit=init", self.unlazy_at_exit, self.scheme != Scheme::Eager, scheme, LAZY),
            ("lazy_tlb.batch", self.batch != 0, shootdown, scheme, "lazy_tlb=shootdown"),
            // Retiring sends a round for each, and leaves nobody for a later one.
            ("lazy_tlb.batch", self.batch != 0, !self.retire, ("tlbi.exit", "retire"), "tlbi.exit=flush"),
            ("lazy_tlb.target=slot", self.target == Target::Slot, shootdown, scheme, "lazy_tlb=shootdown"),
            ("lazy_tlb.trim=dying", self.trim, shootdown, scheme, "lazy_tlb=shootdown"),
            (
                "lazy_tlb.shoot_after",
                self.shoot_after.is_some(),
                self.scheme == Scheme::Handoff,
                scheme,
                "lazy_tlb=handoff",
            ),
            ("tlbi.piggyback=on", self.piggyback, self.flush == FlushMode::Ipi, mode, "tlbi=ipi"),
            ("tlbi.piggyback=on", self.piggyback, !self.retire, ("tlbi.exit", "retire"), "tlbi.exit=flush"),
            ("tlbi.piggyback=on", self.piggyback, self.scheme != Scheme::Eager, scheme, LAZY),
            // Before the first table goes, every CPU must have left: only these schemes know how to ask.
            (
                "tlbi.exit=retire",
                self.retire,
                shootdown || self.scheme == Scheme::Eager,
                scheme,
                "lazy_tlb=shootdown or lazy_tlb=eager",
            ),
        ];
        match rules.into_iter().find(|&(_, is_set, means_something, ..)| is_set && !means_something) {
            Some((option, _, _, with, valid)) => Err(ConfigError::Together { option, with, valid }),
            None => Ok(()),
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

fn bad_value<'a>(option: &'static str, given: &'a str, valid: &'static str) -> ConfigError<'a> {
    ConfigError::BadValue { option, given, valid }
}

/// What one of these words stands for.
fn word<'a, T: Copy>(
    option: &'static str,
    given: &'a str,
    words: &[(&str, T)],
    valid: &'static str,
) -> Result<T, ConfigError<'a>> {
    let found = words.iter().find(|(word, _)| *word == given);
    found.map(|(_, meaning)| *meaning).ok_or(bad_value(option, given, valid))
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn nonsense_names_the_valid_words() {
        let error = Config::default().set("lazy_tlb", "nonsense").unwrap_err();
        assert_eq!(
            error.to_string(),
            "lazy_tlb=nonsense: no such scheme; valid are refcount shootdown handoff qsbr eager"
        );
    }

    #[test]
    fn only_plain_shootdown_asks_all_of_the_mask_each_time() {
        let with = |options: &[(&'static str, &'static str)]| {
            let mut config = Config::default();
            options.iter().for_each(|(option, value)| config.set(option, value).unwrap());
            config.shoots_each()
        };
        let shootdown = ("lazy_tlb", "shootdown");
        assert!(with(&[shootdown]) && with(&[shootdown, ("lazy_tlb.target", "mask")]));
        assert!(!with(&[shootdown, ("lazy_tlb.target", "slot")]) && !with(&[shootdown, ("lazy_tlb.batch", "3")]));
        assert!(!with(&[("lazy_tlb", "handoff")]) && !with(&[("lazy_tlb", "handoff"), ("lazy_tlb.target", "slot")]));
    }

    /// What is not done is not taken in silence.
    #[test]
    fn an_option_of_ours_must_be_known() {
        let mut config = Config::default();
        assert_eq!(config.set("lazy_tlb.speed", "9"), Err(ConfigError::UnknownOption("lazy_tlb.speed")));
        assert_eq!(config.set("init", "/init"), Ok(()));
    }

    #[test]
    fn a_bad_value_names_the_valid_ones() {
        for (option, value, valid) in [
            ("lazy_tlb.debug", "yes", "on, off, 1 and 0"),
            ("lazy_tlb.exit", "1", "init and lazy"),
            ("lazy_tlb.trim", "1", "dying and off"),
            ("lazy_tlb.target", "all", "mask and slot"),
            ("lazy_tlb.batch", "-1", "0 to 1024"),
            ("lazy_tlb.batch", "1025", "0 to 1024"),
            ("lazy_tlb.shoot_after", "60001", "1 to 60000"),
            ("tlbi", "magic", "broadcast, ipi and auto"),
            ("tlbi.exit", "skip", "flush and retire"),
            ("tlbi.piggyback", "yes", "on, off, 1 and 0"),
        ] {
            let text = Config::default().set(option, value).unwrap_err().to_string();
            assert!(text.starts_with(&std::format!("{option}={value}: ")) && text.contains(valid), "{text}");
        }
    }

    /// A bundle's words come first, and whoever boots it may take each back.
    #[test]
    fn the_last_word_counts() {
        let mut config = Config::default();
        for (option, value) in [
            ("lazy_tlb", "shootdown"),
            ("lazy_tlb.debug", "1"),
            ("lazy_tlb.exit", "init"),
            ("lazy_tlb.batch", "16"),
            ("lazy_tlb.target", "slot"),
            ("lazy_tlb.trim", "dying"),
            ("lazy_tlb.shoot_after", "5"),
            ("tlbi", "ipi"),
            ("tlbi.piggyback", "on"),
            ("tlbi.exit", "retire"),
            ("lazy_tlb", "refcount"),
            ("lazy_tlb.debug", "0"),
            ("lazy_tlb.exit", "lazy"),
            ("lazy_tlb.batch", "0"),
            ("lazy_tlb.target", "mask"),
            ("lazy_tlb.trim", "off"),
            ("lazy_tlb.shoot_after", "0"),
            ("tlbi", "broadcast"),
            ("tlbi.piggyback", "off"),
            ("tlbi.exit", "flush"),
        ] {
            config.set(option, value).unwrap();
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn what_means_nothing_together_is_refused_with_both_names() {
        let check = |line: &'static str| {
            let mut config = Config::default();
            let words = line.split_whitespace().filter_map(|word| word.split_once('='));
            words.for_each(|(option, value)| config.set(option, value).unwrap());
            config.check().map_err(|error| error.to_string())
        };
        for good in [
            "lazy_tlb=shootdown lazy_tlb.target=slot lazy_tlb.batch=16 lazy_tlb.trim=dying",
            "lazy_tlb=handoff lazy_tlb.shoot_after=5 lazy_tlb.exit=init",
            "tlbi=ipi tlbi.piggyback=on",
            "tlbi=ipi tlbi.piggyback=on tlbi.piggyback=off tlbi=auto",
            "lazy_tlb=eager tlbi.exit=retire",
            "lazy_tlb=shootdown tlbi.exit=retire tlbi=auto",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, words) in [
            (
                "lazy_tlb=handoff lazy_tlb.target=slot",
                ["lazy_tlb.target=slot", "lazy_tlb=handoff", "lazy_tlb=shootdown"],
            ),
            ("lazy_tlb=qsbr lazy_tlb.trim=dying", ["lazy_tlb.trim=dying", "lazy_tlb=qsbr", "lazy_tlb=shootdown"]),
            ("lazy_tlb.batch=16", ["lazy_tlb.batch", "lazy_tlb=refcount", "lazy_tlb=shootdown"]),
            ("lazy_tlb.shoot_after=5", ["lazy_tlb.shoot_after", "lazy_tlb=refcount", "lazy_tlb=handoff"]),
            ("lazy_tlb=eager lazy_tlb.exit=init", ["lazy_tlb.exit=init", "lazy_tlb=eager", "qsbr"]),
            ("tlbi.piggyback=on", ["tlbi.piggyback=on", "tlbi=broadcast", "tlbi=ipi"]),
            ("tlbi=auto tlbi.piggyback=on", ["tlbi.piggyback=on", "tlbi=auto", "tlbi=ipi"]),
            ("tlbi=ipi lazy_tlb=eager tlbi.piggyback=on", ["tlbi.piggyback=on", "lazy_tlb=eager", "shootdown"]),
            (
                "tlbi=ipi lazy_tlb=shootdown tlbi.piggyback=on tlbi.exit=retire",
                ["tlbi.piggyback=on", "tlbi.exit=retire", "tlbi.exit=flush"],
            ),
            ("tlbi.exit=retire", ["tlbi.exit=retire", "lazy_tlb=refcount", "lazy_tlb=shootdown"]),
            ("lazy_tlb=handoff tlbi.exit=retire", ["tlbi.exit=retire", "lazy_tlb=handoff", "lazy_tlb=eager"]),
            ("lazy_tlb=qsbr tlbi.exit=retire", ["tlbi.exit=retire", "lazy_tlb=qsbr", "lazy_tlb=eager"]),
        ] {
            let error = check(bad).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_printed_can_be_given_again() {
        let line = "lazy_tlb=shootdown lazy_tlb.debug=1 lazy_tlb.exit=init lazy_tlb.target=slot \
                    lazy_tlb.trim=dying tlbi=auto tlbi.exit=retire lazy_tlb.batch=16 asid_bits=8";
        let mut config = Config::default();
        line.split(' ')
            .filter_map(|word| word.split_once('='))
            .for_each(|(name, value)| config.set(name, value).unwrap());
        assert_eq!(config.to_string(), line);
        assert_eq!(Config::default().to_string(), "lazy_tlb=refcount");
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
