//! Memory that a process watches over.

use std::io;

use crate::report::{Verdict, ensure};
use crate::sys::memory::{Mapping, PAGE};

/// Pages of memory that a process watches over.
const PAGES: usize = 16;

/// Memory at an address that is the same in every child, with content that is not.
pub struct Kept {
    memory: Mapping,
    seed: u8,
}

impl Kept {
    /// Gets and fills it.
    pub fn new(seed: u8) -> io::Result<Self> {
        let kept = Self { memory: Mapping::private(PAGES * PAGE)?, seed };
        for page in 0..PAGES {
            // SAFETY: inside the mapping just made.
            unsafe { kept.memory.start().add(page * PAGE + 64).write_volatile(kept.expected(page)) };
        }
        Ok(kept)
    }

    fn expected(&self, page: usize) -> u8 {
        self.seed.wrapping_mul(31).wrapping_add(page as u8)
    }

    /// Whether all of it is still there.
    pub fn check(&self) -> Verdict {
        for page in 0..PAGES {
            // SAFETY: inside the mapping, which is readable.
            let found = unsafe { self.memory.start().add(page * PAGE + 64).read_volatile() };
            let expected = self.expected(page);
            ensure(found == expected, || format!("page {page} holds {found} instead of {expected}"))?;
        }
        Ok(())
    }
}
