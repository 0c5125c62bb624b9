//! A program that runs on the honest machine, and what tests do with its memory.

use mm::fault::handle_fault;
use mm::pte::{Access, Protection};
use mm::region::Attributes;
use mm::space::Placement;
use mm::{Machine, Mm, MmUser, Page, System};

use crate::fake::Fake;
use crate::walker::translate;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// In the middle of what a leaf table covers.
pub const HERE: u64 = (5 << 39) + (1 << 20);
/// Bytes that a leaf table covers.
pub const LEAF_SPAN: u64 = 2 << 20;

/// A program that runs on the machine's CPU, so that it has an ASID.
pub struct Running {
    /// Its machine.
    pub system: &'static System<Fake>,
    /// Its address space.
    pub mm: MmUser<Fake>,
}

impl Running {
    /// Starts one on a machine of so many free frames.
    pub fn start(frames: usize) -> Self {
        let system = Fake::start(frames);
        let mm = Mm::create().unwrap();
        system.transition(None, Some(&mm));
        Fake::log();
        Self { system, mm }
    }

    /// Maps memory of this kind.
    pub fn map_as(&self, address: u64, pages: u64, attributes: Attributes) {
        let mapped = self.mm.space().map(&self.mm, Placement::At(address), pages * PAGE, attributes);
        assert_eq!(mapped, Ok(address));
    }

    /// Maps private memory and touches each page of it.
    pub fn map(&self, address: u64, pages: u64) {
        self.map_as(address, pages, Attributes::anonymous(Protection::READ_WRITE));
        (0..pages).for_each(|page| self.touch(address + page * PAGE, Access::Write));
        Fake::log();
    }

    /// Has it use an address, which must be allowed.
    pub fn touch(&self, address: u64, access: Access) {
        assert_eq!(handle_fault(&self.mm, address, access), Ok(()));
    }

    /// Unmaps pages.
    pub fn unmap(&self, address: u64, pages: u64) {
        assert_eq!(self.mm.space().unmap(&self.mm, address, pages * PAGE), Ok(()));
    }

    /// Changes the rights of pages.
    pub fn protect(&self, address: u64, pages: u64, protection: Protection) {
        assert_eq!(self.mm.space().protect(&self.mm, address, pages * PAGE, protection), Ok(()));
    }

    /// Forks it.
    pub fn fork(&self) -> MmUser<Fake> {
        self.fork_with(None)
    }

    /// The same with a page that both sides are about to write to.
    pub fn fork_with(&self, busy: Option<u64>) -> MmUser<Fake> {
        let child = Mm::create().unwrap();
        self.mm.space().fork_into(&self.mm, &mut child.space(), busy.and_then(Page::containing)).unwrap();
        child
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.system.transition(Some(&self.mm), None);
    }
}

/// The word at an address, if it can be read.
pub fn word(mm: &Mm<Fake>, address: u64) -> Option<u64> {
    let frame = translate(mm.root(), Page::containing(address).unwrap(), Access::Read)?;
    Some(Fake::table(frame).word((address % PAGE) as usize / 8))
}
