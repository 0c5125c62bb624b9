//! What can be wrong with a device tree, in words that say what to mend.

use core::fmt;

use dtoolkit::error::FdtParseError;

/// Why a device tree cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are no device tree, or a damaged one.
    Malformed(FdtParseError),
    /// Something the kernel cannot do without is not there.
    Missing(&'static str),
    /// A property is absent, has the wrong length, or a value that means nothing.
    BadProperty {
        /// Which node, by its role.
        node: &'static str,
        /// Which property.
        property: &'static str,
    },
    /// There is more of something than the kernel is built for.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are accepted.
        most: usize,
    },
    /// Two entries for memory claim the same bytes.
    OverlappingMemory {
        /// Where the second begins.
        base: u64,
    },
}

impl Error {
    pub(super) const fn bad(node: &'static str, property: &'static str) -> Self {
        Self::BadProperty { node, property }
    }
}

impl From<FdtParseError> for Error {
    fn from(error: FdtParseError) -> Self {
        Self::Malformed(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device tree: ")?;
        match self {
            Self::Malformed(error) => write!(f, "{error}; pass an undamaged one in x0"),
            Self::Missing(what) => write!(f, "{what} is missing"),
            Self::BadProperty { node, property } => {
                write!(f, "property {property} of {node} is missing or makes no sense")
            }
            Self::TooMany { what, most } => write!(f, "more than {most} {what}"),
            Self::OverlappingMemory { base } => {
                write!(f, "the memory that begins at {base:#x} overlaps the one before it")
            }
        }
    }
}
