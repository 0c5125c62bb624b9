//! Random mapping, unmapping, protecting, forking and touching, against a simple map.
//!
//! The map knows cells: single pages on both sides of each kind of table border, and the runs of
//! pages between them. After every step no frame may be lost, counted wrongly, or writable by two
//! programs that did not agree to share it.

use std::cell::Cell as Value;
use std::ops::Range;
use std::rc::Rc;

use mm::fault::{FaultError, handle_fault};
use mm::pte::{Access, Protection};
use mm::region::{Attributes, Sharing};
use mm::space::{MapError, Placement};
use mm::{Frame, Machine, Mm, MmUser, Page};
use proptest::prelude::*;

use crate::fake::Fake;
use crate::walker::{Census, translate};

/// Borders of a leaf table, a level 2 table, a level 1 table, and a leaf table once more.
const BORDERS: [u64; 4] = [1 << 9, 1 << 18, 1 << 27, (1 << 27) + (1 << 9)];
const AROUND: u64 = 4;
const CELLS: usize = (2 * AROUND as usize + 1) * BORDERS.len() - 1;

/// The pages of a cell.
fn pages(cell: usize) -> Range<u64> {
    let (border, place) = (cell / (2 * AROUND as usize + 1), cell as u64 % (2 * AROUND + 1));
    let start = BORDERS[border] - AROUND + place;
    if place < 2 * AROUND { start..start + 1 } else { start..BORDERS[border + 1] - AROUND }
}

fn span(cells: &Range<usize>) -> (u64, u64) {
    let (start, end) = (pages(cells.start).start, pages(cells.end - 1).end);
    (start << 12, (end - start) << 12)
}

fn first_page(cell: usize) -> Page {
    Page::from_number(pages(cell).start)
}

/// What the map knows about a cell. Its value is what the first word of its first page holds.
#[derive(Clone)]
struct Cell {
    protection: Protection,
    sharing: Sharing,
    value: Rc<Value<u64>>,
}

impl Cell {
    fn forked(&self) -> Self {
        let value = match self.sharing {
            Sharing::Shared => Rc::clone(&self.value),
            Sharing::Private => Rc::new(Value::new(self.value.get())),
        };
        Self { value, ..self.clone() }
    }
}

struct Program {
    mm: MmUser<Fake>,
    cells: Vec<Option<Cell>>,
}

impl Program {
    fn new() -> Option<Self> {
        Some(Self { mm: Mm::create()?, cells: vec![None; CELLS] })
    }

    fn map(&mut self, cells: Range<usize>, protection: Protection, sharing: Sharing) {
        // A shared mapping is populated at once: keep it small.
        let large = cells.clone().any(|cell| pages(cell).count() > 1);
        let sharing = if large { Sharing::Private } else { sharing };
        let (address, length) = span(&cells);
        let attributes = Attributes { sharing, ..Attributes::anonymous(protection) };
        let mapped = self.mm.space().map(&self.mm, Placement::At(address), length, attributes);
        assert!(matches!(mapped, Ok(at) if at == address) || mapped == Err(MapError::OutOfMemory), "{mapped:?}");
        let pages = first_page(cells.start)..Page::from_number((address + length) >> 12);
        if mapped.is_err() && !self.mm.space().regions().is_free(&pages) {
            // Refused before what was there went.
            return;
        }
        for cell in cells {
            let value = Rc::new(Value::new(0));
            self.cells[cell] = mapped.is_ok().then_some(Cell { protection, sharing, value });
        }
    }

    fn unmap(&mut self, cells: Range<usize>) {
        let (address, length) = span(&cells);
        assert_eq!(self.mm.space().unmap(&self.mm, address, length), Ok(()));
        self.cells[cells].fill(None);
    }

    fn protect(&mut self, cells: Range<usize>, protection: Protection) {
        let (address, length) = span(&cells);
        let result = self.mm.space().protect(&self.mm, address, length, protection);
        let cells = &mut self.cells[cells];
        if cells.iter().any(Option::is_none) {
            assert_eq!(result, Err(MapError::Unmapped));
        } else {
            assert_eq!(result, Ok(()));
            cells.iter_mut().flatten().for_each(|cell| cell.protection = protection);
        }
    }

    fn dont_need(&mut self, cells: Range<usize>) {
        let (address, length) = span(&cells);
        let result = self.mm.space().advise_dont_need(&self.mm, address, length);
        let cells = &mut self.cells[cells];
        assert_eq!(result.is_ok(), cells.iter().all(Option::is_some));
        if result.is_ok() {
            let private = cells.iter_mut().flatten().filter(|cell| cell.sharing == Sharing::Private);
            private.for_each(|cell| cell.value = Rc::new(Value::new(0)));
        }
    }

    /// What hardware and fault handler make of an access together.
    fn access(&self, page: Page, access: Access) -> Result<Frame, FaultError> {
        let root = self.mm.root();
        if let Some(frame) = translate(root, page, access) {
            return Ok(frame);
        }
        handle_fault(&self.mm, page.address(), access)?;
        Ok(translate(root, page, access).expect("the handler said that the access will succeed"))
    }

    fn touch(&mut self, cell: usize, access: Access, value: u64) {
        let result = self.access(first_page(cell), access);
        let Some(known) = &self.cells[cell] else {
            return assert_eq!(result, Err(FaultError::Unmapped));
        };
        if !known.protection.allows(access) {
            return assert_eq!(result, Err(FaultError::Denied));
        }
        match result {
            Ok(frame) => {
                assert_eq!(Fake::table(frame).word(0), known.value.get(), "cell {cell}");
                if access == Access::Write {
                    Fake::table(frame).set_word(0, value);
                    known.value.set(value);
                }
            }
            Err(error) => assert_eq!(error, FaultError::OutOfMemory),
        }
    }

    fn fork(&self, busy: usize) -> Option<Self> {
        let mut child = Self::new()?;
        self.mm.space().fork_into(&self.mm, &mut child.mm.space(), Some(first_page(busy))).ok()?;
        child.cells = self.cells.iter().map(|cell| cell.as_ref().map(Cell::forked)).collect();
        Some(child)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map(Range<usize>, Protection, Sharing),
    Unmap(Range<usize>),
    Protect(Range<usize>, Protection),
    DontNeed(Range<usize>),
    Touch(usize, Access, u64),
    Fork(usize),
    Exit,
}

fn cells() -> impl Strategy<Value = Range<usize>> {
    let few = (0..CELLS, 1..6_usize).prop_map(|(start, count)| start..(start + count).min(CELLS));
    let any = (0..CELLS, 0..CELLS).prop_map(|(a, b)| a.min(b)..a.max(b) + 1);
    prop_oneof![3 => few, 1 => any]
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        3 => Just(Protection::READ_WRITE),
        1 => Just(Protection::READ),
        1 => Just(Protection::READ_EXECUTE),
        1 => Just(Protection::NONE),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sharing = prop_oneof![2 => Just(Sharing::Private), 1 => Just(Sharing::Shared)];
    let access = prop_oneof![1 => Just(Access::Read), 3 => Just(Access::Write), 1 => Just(Access::Execute)];
    prop_oneof![
        4 => (cells(), protection(), sharing).prop_map(|(cells, protection, sharing)| Step::Map(cells, protection, sharing)),
        2 => cells().prop_map(Step::Unmap),
        2 => (cells(), protection()).prop_map(|(cells, protection)| Step::Protect(cells, protection)),
        1 => cells().prop_map(Step::DontNeed),
        12 => (0..CELLS, access, 1..1000_u64).prop_map(|(cell, access, value)| Step::Touch(cell, access, value)),
        1 => (0..CELLS).prop_map(Step::Fork),
        1 => Just(Step::Exit),
    ]
}

/// No frame is lost, each is counted right, and what two programs can write they agreed to share.
fn check(programs: &[Program]) {
    let system = Fake::system();
    let mut census = Census::default();
    census.add(system.init_mm().root());
    programs.iter().for_each(|program| census.add(program.mm.root()));
    assert_eq!(system.frames.total() - system.frames.free(), census.tables + census.data.len(), "frames in use");
    for (&frame, &mappings) in &census.data {
        assert_eq!(system.frames.references(frame), mappings, "references of {frame:?}");
    }
    let agreed = programs.iter().flat_map(|program| {
        let shared = |cell: &Option<Cell>| cell.as_ref().is_some_and(|cell| cell.sharing == Sharing::Shared);
        let cells = (0..CELLS).filter(move |&cell| shared(&program.cells[cell]));
        cells.filter_map(|cell| translate(program.mm.root(), first_page(cell), Access::Read))
    });
    let agreed: Vec<_> = agreed.collect();
    for frame in census.writable {
        assert!(census.data[&frame] == 1 || agreed.contains(&frame), "{frame:?} is private but others can write it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_follow_a_simple_map(frames in 12..200_usize, steps in prop::collection::vec((any::<usize>(), step()), 1..80)) {
        let system = Fake::start(frames);
        let mut programs = vec![Program::new().unwrap()];
        for (chosen, step) in steps {
            let chosen = chosen % programs.len();
            let program = &mut programs[chosen];
            match step {
                Step::Map(cells, protection, sharing) => program.map(cells, protection, sharing),
                Step::Unmap(cells) => program.unmap(cells),
                Step::Protect(cells, protection) => program.protect(cells, protection),
                Step::DontNeed(cells) => program.dont_need(cells),
                Step::Touch(cell, access, value) => program.touch(cell, access, value),
                Step::Fork(busy) => programs.extend(programs[chosen].fork(busy)),
                Step::Exit if programs.len() > 1 => drop(programs.swap_remove(chosen)),
                Step::Exit => {}
            }
            check(&programs);
        }
        drop(programs);
        prop_assert_eq!(system.frames.free(), frames - 1, "all but init_mm's root are back");
        prop_assert_eq!(system.frames.refused(), 0);
    }
}
