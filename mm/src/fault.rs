//! Page faults: a page appears, or is marked as used, when it is first used, and is copied when it
//! is first written.

use crate::addr::{Frame, PAGE_SIZE, Page};
use crate::flush::refresh;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::pte::{Access, Descriptor};
use crate::region::{Backing, OutOfMemory, Region};
use crate::space::Space;
use crate::stale::Stale;
use crate::table::Leaf;

/// Why an access cannot be made good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// Nothing is mapped there.
    Unmapped,
    /// What is mapped there forbids it.
    Denied,
    /// There is no frame left.
    OutOfMemory,
}

impl From<OutOfMemory> for FaultError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Makes an access to a user address possible, if the program may make it. The caller runs in `mm`
/// and repeats the access.
///
/// Another CPU may have done it meanwhile; then there is nothing left to do.
///
/// # Errors
/// As [`FaultError`] says.
pub fn handle_fault<M: Machine>(mm: &Mm<M>, address: u64, access: Access) -> Result<(), FaultError> {
    let page = Page::containing(address).ok_or(FaultError::Unmapped)?;
    mm.space().fault_in(mm, page, access).map(drop)
}

impl<M: Machine> Space<M> {
    /// Makes the page accessible in this way; gives its frame.
    pub(crate) fn fault_in(&mut self, mm: &Mm<M>, page: Page, access: Access) -> Result<Frame, FaultError> {
        let region = self.regions.find(page).ok_or(FaultError::Unmapped)?;
        if !region.attributes.protection.allows(access) {
            return Err(FaultError::Denied);
        }
        let leaf = self.tables.leaf_or_create(page)?;
        if !leaf.get(page).is_empty() {
            return admit(mm, region, page, &leaf, access);
        }
        let frame = provide(region, page, &leaf)?;
        M::run(Sequence::PublishEntries, 0);
        Ok(frame)
    }
}

/// Makes a page that has a frame accessible in this way. Kept apart from the first use of a page, which is short.
#[inline(never)]
fn admit<M: Machine>(
    mm: &Mm<M>,
    region: &Region,
    page: Page,
    leaf: &Leaf<M>,
    access: Access,
) -> Result<Frame, FaultError> {
    let mut entry = leaf.get(page);
    let frame = entry.frame().ok_or(FaultError::Unmapped)?;
    if entry.is_valid() && entry.is_untouched() {
        entry = entry.as_touched();
        // In place, and nobody has to be told: what faults is not cached.
        leaf.widen(page, entry);
        M::run(Sequence::PublishEntries, 0);
        if entry.allows(access) {
            return Ok(frame);
        }
    }
    if entry.allows(access) {
        // Somebody was faster, or this CPU cached the entry before its rights were widened.
        refresh(mm, page);
        return Ok(frame);
    }
    if entry.is_copy_on_write() && M::system().frames.is_shared(frame) {
        return Ok(copy(mm, region, page, leaf, frame)?);
    }
    // The other owners are gone. The frame stays and only rights are added: no CPU has
    // to be told.
    leaf.widen(page, entry.as_exclusive(region.attributes.protection));
    M::run(Sequence::PublishEntries, 0);
    refresh(mm, page);
    Ok(frame)
}

/// Gives an unmapped page a frame with what its region says it holds. The caller publishes it.
fn provide<M: Machine>(region: &Region, page: Page, leaf: &Leaf<M>) -> Result<Frame, OutOfMemory> {
    if !region.attributes.protection.write
        && let Some(frame) = lend::<M>(region, page, leaf)
    {
        return Ok(frame);
    }
    let frame = fill::<M>(region, page)?;
    enter(region, page, leaf, Descriptor::page(frame, region.attributes.protection));
    Ok(frame)
}

/// How many pages an image lends at a time: an aligned run of so many, all of which one leaf table translates.
const RUN: u64 = 16;

/// Maps the image's own frames, where they hold the pages, which the program may not write to: all who run from the
/// image have those in common. Should one of them gain the right to write, its first write makes a copy.
///
/// The neighbours of a page come with it: an entry costs a small part of the fault that it most likely saves.
#[inline(never)]
fn lend<M: Machine>(region: &Region, page: Page, leaf: &Leaf<M>) -> Option<Frame> {
    let protection = region.attributes.protection;
    let start = Page::from_number(page.number() / RUN * RUN);
    let run = start.max(region.pages.start)..start.offset(RUN).min(region.pages.end);
    let image = region.image_of(&run);
    let whole = image.len() / PAGE_SIZE as usize;
    if whole == 0 {
        return None;
    }
    let first = M::first_frame_of(&image[..whole * PAGE_SIZE as usize])?;
    if protection.execute {
        M::system().frames.make_executable(first.number()..first.number() + whole);
    }
    let lent = run.start..run.start.offset(whole as u64);
    leaf.install_run(&lent, Descriptor::page(first, protection).as_lent());
    leaf.get(page).frame()
}

/// The same ahead of the first access: until then no TLB holds the entry, and taking it away again
/// needs no invalidation.
pub(crate) fn provide_untouched<M: Machine>(region: &Region, page: Page, leaf: &Leaf<M>) -> Result<(), OutOfMemory> {
    let frame = fill::<M>(region, page)?;
    enter(region, page, leaf, Descriptor::page(frame, region.attributes.protection).as_untouched());
    Ok(())
}

/// Gives a page of another address space, in which nobody runs yet, a copy of a frame.
pub(crate) fn provide_copy<M: Machine>(
    region: &Region,
    page: Page,
    leaf: &Leaf<M>,
    original: Frame,
) -> Result<(), OutOfMemory> {
    let frame = M::system().frames.alloc().ok_or(OutOfMemory)?;
    M::copy_frame(original, frame);
    enter(region, page, leaf, Descriptor::page(frame, region.attributes.protection));
    Ok(())
}

/// A frame with what the page holds at first.
fn fill<M: Machine>(region: &Region, page: Page) -> Result<Frame, OutOfMemory> {
    let frame = M::system().frames.alloc().ok_or(OutOfMemory)?;
    match region.attributes.backing {
        Backing::Anonymous => M::zero_frame(frame),
        Backing::Image { .. } => M::fill_frame(frame, region.image_of(&(page..page.offset(1)))),
    }
    Ok(frame)
}

/// Gives a page a copy of the frame that it shares. Another frame behind the same page needs
/// break-before-make: were the new entry written over the old one, a CPU could read through the old
/// frame what another had just written to the new one (Arm ARM D8.17.1).
#[cold]
fn copy<M: Machine>(
    mm: &Mm<M>,
    region: &Region,
    page: Page,
    leaf: &Leaf<M>,
    original: Frame,
) -> Result<Frame, OutOfMemory> {
    let frame = M::system().frames.alloc().ok_or(OutOfMemory)?;
    M::copy_frame(original, frame);
    Stale::flushed(mm, |stale| leaf.clear(page, stale));
    enter(region, page, leaf, Descriptor::page(frame, region.attributes.protection));
    M::run(Sequence::PublishEntries, 0);
    Ok(frame)
}

/// Installs a page whose content was just written.
#[inline(always)]
fn enter<M: Machine>(region: &Region, page: Page, leaf: &Leaf<M>, new: Descriptor) {
    if region.attributes.protection.execute
        && let Some(frame) = new.frame()
    {
        M::sync_instructions(frame);
    }
    // Who walks to the new entry must find the content, not what the frame held before.
    M::run(Sequence::PublishEntries, 0);
    leaf.install(page, new);
}
