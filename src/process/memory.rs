//! The address spaces of programs: how one is laid out, and the running thread's.

use formats::elf::{Plan, Segment};
use mm::region::{Attributes, Backing, Sharing};
use mm::space::{MapError, Placement};
use mm::{Frame, Machine, MmUser, PAGE_SIZE, Page, USER_END};

use crate::errno::Errno;
use crate::machine::Kernel;
use crate::process::stack::Image;
use crate::sched;
use crate::user_memory::bytes_of_all;

/// An address space of this kernel.
pub type Mm = mm::Mm<Kernel>;

/// The end of the first thread's stack.
pub const STACK_TOP: u64 = USER_END - (1 << 20);
/// How far that stack may grow: `RLIMIT_STACK`. Below it nothing is mapped unasked.
pub const STACK_SIZE: u64 = 8 << 20;
/// Where signal handlers return to that bring no way of their own.
pub const TRAMPOLINE: u64 = STACK_TOP + (64 << 10);

/// `mov x8, #139` (`rt_sigreturn`), `svc #0`.
static TRAMPOLINE_CODE: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];

impl From<MapError> for Errno {
    fn from(error: MapError) -> Errno {
        match error {
            MapError::Invalid => Errno::EINVAL,
            MapError::TooLow => Errno::EPERM,
            MapError::Occupied => Errno::EEXIST,
            MapError::Beyond | MapError::Unmapped | MapError::OutOfMemory => Errno::ENOMEM,
        }
    }
}

/// Makes the address space of a program that is about to start.
pub fn build(file: &'static [u8], plan: &Plan, stack: &Image) -> Result<MmUser<Kernel>, Errno> {
    let mm = Mm::create().ok_or(Errno::ENOMEM)?;
    let mut space = mm.space();
    for segment in &plan.segments {
        let length = segment.end - segment.start;
        space.map(&mm, Placement::AtFree(segment.start), length, attributes_of(segment, file))?;
    }
    space.start_heap(plan.heap);
    let stack_attributes = Attributes { name: "[stack]", ..Attributes::anonymous(mm::pte::Protection::READ_WRITE) };
    space.map(&mm, Placement::AtFree(STACK_TOP - STACK_SIZE), STACK_SIZE, stack_attributes)?;
    let trampoline = Attributes {
        name: "[sigreturn]",
        backing: Backing::Image { bytes: &TRAMPOLINE_CODE, offset: 0 },
        ..Attributes::anonymous(mm::pte::Protection::READ_EXECUTE)
    };
    space.map(&mm, Placement::AtFree(TRAMPOLINE), PAGE_SIZE, trampoline)?;
    let words = bytes_of_all(&stack.words);
    space.write_bytes(&mm, stack.start, words).map_err(|_| Errno::ENOMEM)?;
    space.write_bytes(&mm, stack.start + words.len() as u64, &stack.strings).map_err(|_| Errno::ENOMEM)?;
    drop(space);
    Ok(mm)
}

fn attributes_of(segment: &Segment, file: &'static [u8]) -> Attributes {
    let backing = match segment.file_end {
        0 => Backing::Anonymous,
        end => Backing::Image { bytes: &file[..end], offset: segment.file_start },
    };
    Attributes { protection: segment.protection, backing, sharing: Sharing::Private, name: "program" }
}

/// A copy of the running thread's address space, for a fork that goes on with this stack pointer on both sides.
pub fn fork(sp: u64) -> Result<MmUser<Kernel>, Errno> {
    let parent = current();
    // Not where another thread could write to the page while it is copied.
    let busy = Page::containing(sp).filter(|_| parent.users() == 1);
    let child = Mm::create().ok_or(Errno::ENOMEM)?;
    let copied = parent.space().fork_into(parent, &mut child.space(), busy);
    copied.map_err(|_| Errno::ENOMEM)?;
    Ok(child)
}

/// The running thread's address space.
///
/// # Panics
/// In a kernel thread.
pub fn current() -> &'static Mm {
    sched::current_mm().expect("a kernel thread has no address space of its own")
}

/// A frame of shared memory that stays as it is, and is nobody else's, while this lives.
#[derive(PartialEq, Eq)]
pub struct SharedFrame(Frame);

impl SharedFrame {
    /// Its number.
    pub fn number(&self) -> usize {
        self.0.number()
    }
}

impl Clone for SharedFrame {
    fn clone(&self) -> Self {
        Kernel::system().frames.get(self.0);
        Self(self.0)
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        Kernel::system().frames.put(self.0);
    }
}

/// The frame behind an address of shared memory; `None` if the memory is private or not there.
pub fn shared_frame(address: u64) -> Option<SharedFrame> {
    let page = Page::containing(address)?;
    let space = current().space();
    let region = space.regions().find(page)?;
    if region.attributes.sharing != Sharing::Shared {
        return None;
    }
    // The lock keeps the mapping, which has a reference, until we have ours.
    let frame = space.tables().get(page).frame()?;
    Kernel::system().frames.get(frame);
    Some(SharedFrame(frame))
}

/// What the region of an address is called; empty for one without a name.
pub fn region_name(address: u64) -> &'static str {
    let Some(page) = Page::containing(address) else { return "kernel half" };
    match current().space().regions().find(page) {
        Some(region) if region.attributes.name.is_empty() => "anonymous memory",
        Some(region) => region.attributes.name,
        None => "nothing mapped",
    }
}
