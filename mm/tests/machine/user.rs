//! What programs do to their memory, and what they must then find there.
//!
//! Each access goes through the TLB of the CPU it is made on. What it finds is compared with what
//! the program last stored there: a stale entry, another's entry or a freed frame reads wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::{FaultError, handle_fault};
use crate::pte::{Access, Protection};
use crate::region::{Attributes, Sharing};
use crate::space::Placement;
use crate::{Mm, Page, PageRange};

use super::hardware::Bits;
use super::kernel::{self, User};
use super::{Event, Lying, MmNumber, State, world};

/// The word of a page that programs use.
const WORD: usize = 7;
/// So many faults at one access mean that it never succeeds.
const MOST_FAULTS: u32 = 60;

/// What a program may do with its pages, and what it stored there last; `None` where two threads
/// raced and either may have won.
#[derive(Clone, Default, Hash)]
pub(super) struct Promised {
    rights: BTreeMap<Page, Protection>,
    contents: BTreeMap<Page, Option<u64>>,
    /// What others may store to at any time.
    shared: BTreeSet<Page>,
}

impl Promised {
    /// Somebody else has the shared pages too from now on: what they hold is anybody's guess.
    fn forget_shared(&mut self) {
        self.contents.extend(self.shared.iter().map(|&page| (page, None)));
    }
}

/// Pages `start` to `end` - 1, by number.
pub fn pages(start: u64, end: u64) -> PageRange {
    Page::from_number(start)..Page::from_number(end)
}

fn each(pages: &PageRange) -> impl Iterator<Item = Page> + use<> {
    (pages.start.number()..pages.end.number()).map(Page::from_number)
}

fn length(pages: &PageRange) -> u64 {
    pages.end.address() - pages.start.address()
}

/// Does something that changes these pages: while it lasts, old and new may be seen; afterwards
/// what was there is gone on every CPU.
fn change<T>(mm: &Mm<Lying>, pages: &PageRange, what: impl FnOnce() -> T, promise: impl FnOnce(&mut Promised)) -> T {
    let number = kernel::begin_change(mm, pages.clone());
    let result = what();
    let mut state = world().lock();
    promise(state.oracle.promised(number));
    state.oracle.changed(number, pages);
    result
}

/// Maps private zero-filled pages, in place of what is there.
pub fn map(mm: &Mm<Lying>, pages: PageRange, protection: Protection) {
    map_as(mm, pages, Attributes::anonymous(protection));
}

/// Maps zero-filled pages that children will share. They are there at once, and nobody has used them.
pub fn map_shared(mm: &Mm<Lying>, pages: PageRange, protection: Protection) {
    map_as(mm, pages, Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(protection) });
}

fn map_as(mm: &Mm<Lying>, pages: PageRange, attributes: Attributes) {
    world().lock().oracle.attend_to(each(&pages));
    let place = Placement::At(pages.start.address());
    change(
        mm,
        &pages,
        || mm.space().map(mm, place, length(&pages), attributes).expect("the machine has memory enough"),
        |promised| {
            promised.rights.extend(each(&pages).map(|page| (page, attributes.protection)));
            promised.contents.extend(each(&pages).map(|page| (page, Some(0))));
            promised.shared.retain(|page| !pages.contains(page));
            promised.shared.extend(each(&pages).filter(|_| attributes.sharing == Sharing::Shared));
        },
    );
}

/// Unmaps pages.
pub fn unmap(mm: &Mm<Lying>, pages: PageRange) {
    let (start, length) = (pages.start.address(), length(&pages));
    let forget = |promised: &mut Promised| promised.rights.retain(|page, _| !pages.contains(page));
    change(mm, &pages, || mm.space().unmap(mm, start, length).expect("nothing refuses it"), forget);
}

/// Gives mapped pages other rights.
pub fn protect(mm: &Mm<Lying>, pages: PageRange, protection: Protection) {
    let (start, length) = (pages.start.address(), length(&pages));
    let grant = |promised: &mut Promised| promised.rights.extend(each(&pages).map(|page| (page, protection)));
    change(mm, &pages, || mm.space().protect(mm, start, length, protection).expect("all are mapped"), grant);
}

/// A copy of an address space, page by page when one of both writes.
pub fn fork(mm: &Mm<Lying>) -> User {
    let child = kernel::create();
    let all = pages(0, Page::END.number());
    let mut promised = Promised::default();
    let copy = || mm.space().fork_into(mm, &mut child.space(), None).expect("the machine has memory enough");
    change(mm, &all, copy, |parent| {
        parent.forget_shared();
        promised = parent.clone();
    });
    let mut state = world().lock();
    let number = state.oracle.number_of(child.root()).expect("it was just made");
    *state.oracle.promised(number) = promised;
    child
}

/// Loads from a page of the running task's own address space.
pub fn load(page: Page) -> Result<u64, FaultError> {
    access(page, None)
}

/// Stores to a page of the running task's own address space.
pub fn store(page: Page, value: u64) -> Result<(), FaultError> {
    access(page, Some(value)).map(drop)
}

/// What the hardware makes of an access.
enum Outcome {
    Done(u64),
    /// There is no translation, or it does not allow this.
    Fault,
}

fn access(page: Page, value: Option<u64>) -> Result<u64, FaultError> {
    let world = world();
    let user = kernel::own_borrowed().expect("a task without an address space touches none");
    let kind = if value.is_some() { Access::Write } else { Access::Read };
    for _ in 0..MOST_FAULTS {
        if world.lock().rng.one_in(world.setup.lies.preempt) {
            kernel::user_tick();
        }
        let event = Event::Touch(page, value.is_some());
        let outcome = world.step(event, |state, cpu| state.access(cpu, &user, page, value));
        let alone = page..page.offset(1);
        let fault = || handle_fault(&**user, page.address(), kind);
        let handled = match outcome {
            Outcome::Done(found) => return Ok(found),
            // Perhaps another frame takes its place (copy on write), also if there was none: a
            // sibling may have mapped it and forked meanwhile.
            Outcome::Fault if value.is_some() => change(&user, &alone, fault, |_| ()),
            Outcome::Fault => fault(),
        };
        if let Err(error) = handled {
            let mut state = world.lock();
            let number = state.oracle.number_of(user.root()).expect("it runs");
            let racing = state.oracle.is_changing(number, page);
            let may = state.oracle.promised(number).rights.get(&page).is_some_and(|rights| rights.allows(kind));
            if may && !racing {
                world.fail(state, &format!("mm {number} may {kind:?} {page:?}, and was told {error:?}"));
            }
            return Err(error);
        }
    }
    world.fail(world.lock(), &format!("{page:?} faults for ever"));
}

impl State {
    fn access(&mut self, cpu: usize, mm: &Mm<Lying>, page: Page, value: Option<u64>) -> Outcome {
        let usable = self.translations(cpu, page);
        let Some(&entry) = self.rng.pick(&usable) else { return Outcome::Fault };
        if value.is_some() && !entry.writable() {
            return Outcome::Fault;
        }
        let number = self.oracle.number_of(mm.root()).expect("it runs");
        let found = self.memory.peek(entry.frame()).word(WORD);
        self.compare(number, page, value, entry, found);
        if let Some(value) = value {
            self.memory.peek(entry.frame()).set_word(WORD, value);
        }
        Outcome::Done(found)
    }

    /// Compares an access with what the program was promised.
    fn compare(&mut self, number: MmNumber, page: Page, value: Option<u64>, entry: Bits, found: u64) {
        let racing = self.oracle.is_changing(number, page);
        let kind = if value.is_some() { Access::Write } else { Access::Read };
        let promised = self.oracle.promised(number);
        let rights = promised.rights.get(&page).copied();
        let expected = promised.contents.get(&page).copied().flatten();
        if let Some(value) = value {
            let known = !racing && !promised.shared.contains(&page);
            promised.contents.insert(page, known.then_some(value));
        }
        if racing {
            return;
        }
        if !rights.is_some_and(|rights| rights.allows(kind)) {
            self.oracle.report(format!("mm {number} could {kind:?} {page:?} by {entry:x?}, its rights are {rights:?}"));
        } else if expected.is_some_and(|expected| expected != found) {
            self.oracle.report(format!("mm {number} found {found:#x} in {page:?}, it had stored {expected:x?}"));
        }
    }
}
