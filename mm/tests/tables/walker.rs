//! A table walker of the tests' own: it knows the architecture's bits, and nothing of `mm::pte`.

use std::collections::BTreeMap;

use mm::pte::{Access, ENTRIES};
use mm::{Frame, Machine, Page, PhysAddr};

use crate::fake::Fake;

const VALID: u64 = 1;
const EL0: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 10;
const UXN: u64 = 1 << 54;

fn address(descriptor: u64) -> Frame {
    Frame::containing(PhysAddr(descriptor & 0x0000_ffff_ffff_f000))
}

/// The page's descriptor, or 0 if the walk ends early.
fn descriptor(root: Frame, page: Page) -> u64 {
    let mut table = root;
    for level in 0..3 {
        let descriptor = Fake::table(table).word((page.number() >> (27 - 9 * level)) as usize % ENTRIES);
        if descriptor & VALID == 0 {
            return 0;
        }
        table = address(descriptor);
    }
    Fake::table(table).word(page.number() as usize % ENTRIES)
}

/// Where an access by the program ends up; `None` is a fault.
pub fn translate(root: Frame, page: Page, access: Access) -> Option<Frame> {
    let descriptor = descriptor(root, page);
    let allowed = descriptor & (VALID | EL0 | ACCESSED) == VALID | EL0 | ACCESSED
        && match access {
            Access::Read => true,
            Access::Write => descriptor & READ_ONLY == 0,
            Access::Execute => descriptor & UXN == 0,
        };
    allowed.then(|| address(descriptor))
}

/// Everything that the tables of some address spaces use.
#[derive(Default)]
pub struct Census {
    /// How many tables there are.
    pub tables: usize,
    /// How often each data frame is mapped or parked.
    pub data: BTreeMap<Frame, u32>,
    /// Data frames that some program can write without a fault.
    pub writable: Vec<Frame>,
}

impl Census {
    /// Adds what is below this root, the root included.
    pub fn add(&mut self, root: Frame) {
        self.add_table(root, 0);
    }

    fn add_table(&mut self, table: Frame, level: u8) {
        self.tables += 1;
        for index in 0..ENTRIES {
            let descriptor = Fake::table(table).word(index);
            if descriptor == 0 {
                continue;
            }
            if level < 3 {
                self.add_table(address(descriptor), level + 1);
                continue;
            }
            *self.data.entry(address(descriptor)).or_default() += 1;
            if descriptor & (VALID | ACCESSED | READ_ONLY) == VALID | ACCESSED {
                self.writable.push(address(descriptor));
            }
        }
    }
}
