//! A build for one scheme: `LAZULI_FIXED_SCHEME=shootdown cargo build …`.
//!
//! Nobody needs one. It is what the choice at boot is measured against (`make choice`, docs/decisions/0011): in it the
//! scheme's part in the switch is a constant, and what other schemes would do there is left out.

use crate::config::Config;
use crate::lazy::{Departure, Entry, Scheme};
use crate::machine::Machine;

/// The one scheme, if there is only one.
pub(crate) const FIXED: Option<Scheme> = match option_env!("LAZULI_FIXED_SCHEME") {
    Some(name) => Some(named(name.as_bytes())),
    None => None,
};

const fn named(name: &[u8]) -> Scheme {
    match name {
        b"refcount" => Scheme::Refcount,
        b"shootdown" => Scheme::Shootdown,
        b"handoff" => Scheme::Handoff,
        b"qsbr" => Scheme::Qsbr,
        b"eager" => Scheme::Eager,
        _ => panic!("LAZULI_FIXED_SCHEME is one of refcount, shootdown, handoff, qsbr and eager"),
    }
}

/// Whether this build can do what the options ask for: a build for one scheme has its plain form only.
pub(crate) fn allows(config: &Config) -> bool {
    FIXED.is_none_or(|fixed| config.scheme == fixed && !config.trim)
}

/// The scheme's part in becoming lazy.
#[inline(always)]
pub(crate) fn entry<M: Machine>() -> Entry {
    FIXED.map_or_else(M::entry, Entry::of)
}

/// The scheme's part in leaving an `Mm`.
#[inline(always)]
pub(crate) fn departure<M: Machine>() -> Departure {
    FIXED.map_or_else(M::departure, Departure::plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_named_as_the_option_is() {
        for scheme in [Scheme::Refcount, Scheme::Shootdown, Scheme::Handoff, Scheme::Qsbr, Scheme::Eager] {
            assert_eq!(named(scheme.name().as_bytes()), scheme);
        }
    }
}
