//! Which RAM is free before there is a frame allocator: the device tree's, less what it holds already.

use core::ops::Range;

use mm::frame::{FrameAllocator, FrameInfo};
use mm::{Frame, Machine};
use spin::once::Once;

use crate::arch::boot::BootInfo;
use crate::arch::mmu::{self, PAGE};
use crate::arch::page;
use crate::platform::{Platform, Region, Table};
use crate::start::refuse;
use crate::sync::{IrqLock, Relax};
use crate::{heap, platform};

/// The least and the most that the heap gets; a sixteenth of the RAM between them.
const HEAP: Range<u64> = 4 << 20..64 << 20;

static FREE: IrqLock<Option<Table<Region, 96>>> = IrqLock::new(None);

/// Maps all RAM, sets aside what is taken, and starts the heap.
///
/// A machine with too little RAM is refused.
pub(crate) fn init(boot: &BootInfo, platform: &Platform) {
    if !has(&boot.image_pa) {
        refuse("the image, with what is bundled in it, does not fit into the RAM; give the machine more");
    }
    let mut free = Table::new();
    for ram in platform.ram.iter() {
        insert(&mut free, *ram);
    }
    // The first page is left out also where nothing claims it: spin tables live there, and no frame is 0.
    for taken in [&(0..PAGE), &boot.image_pa, &boot.device_tree_pa] {
        remove(&mut free, taken);
    }
    for taken in platform.reserved.iter() {
        remove(&mut free, &(taken.base..taken.end()));
    }
    *FREE.lock() = Some(free);

    mmu::map_ram(platform.ram.iter().map(|ram| ram.base..ram.end()));

    let total: u64 = platform.ram.iter().map(|ram| ram.len).sum();
    let len = (total / 16).clamp(HEAP.start, HEAP.end) & !(PAGE - 1);
    let heap = take(len).unwrap_or_else(|| {
        refuse(format_args!("no {} MiB of RAM in one piece for the heap; give the machine more", len >> 20))
    });
    // SAFETY: `take` gives each byte away once, and RAM is mapped.
    unsafe { heap::init(mmu::phys_to_virt(heap), len as usize) };
}

/// True if the whole range is RAM.
pub(crate) fn has(range: &Range<u64>) -> bool {
    platform::get().ram.iter().any(|ram| ram.base <= range.start && range.end <= ram.end())
}

/// Who gives frames once the mm layer has them.
static SOURCE: Once<fn() -> Option<Frame>, Relax> = Once::new();

/// Takes one frame for good.
pub fn take_frame() -> Option<u64> {
    match SOURCE.get() {
        Some(alloc) => alloc().map(|frame| frame.address().0),
        None => take(PAGE),
    }
}

/// Takes `len` bytes, whole pages in one piece, for good: from the end of the largest free range.
pub fn take(len: u64) -> Option<u64> {
    debug_assert!(len.is_multiple_of(PAGE));
    let mut free = FREE.lock();
    let largest = free.as_mut()?.iter_mut().max_by_key(|range| range.len)?;
    largest.len = largest.len.checked_sub(len)?;
    Some(largest.end())
}

/// The allocator of all frames that are still free; from then on [`take_frame`] asks the system that has it.
pub fn frame_allocator<M: Machine>(ram: &[Region]) -> FrameAllocator<M> {
    let first = ram.first().map_or(0, |ram| ram.base / PAGE);
    let end = ram.last().map_or(0, |ram| ram.end() / PAGE);
    let count = (end - first) as usize;
    let bytes = (count * size_of::<FrameInfo>()).next_multiple_of(PAGE as usize);
    let info = take(bytes as u64).unwrap_or_else(|| refuse("no RAM for the list of frames; give the machine more"));
    let info = mmu::phys_to_virt(info);
    // SAFETY: RAM of our own, whole pages, which `take` gave for good; all zeroes is a valid `FrameInfo`.
    let info = unsafe {
        (0..bytes).step_by(PAGE as usize).for_each(|offset| page::zero(info as u64 + offset as u64));
        core::slice::from_raw_parts(info.cast(), count)
    };
    let free = FREE.lock().take().unwrap_or_default();
    SOURCE.call_once(|| || M::system().frames.alloc());
    let ranges = free.iter().map(|range| (range.base / PAGE) as usize..(range.end() / PAGE) as usize);
    FrameAllocator::new(Frame::from_number(first as usize), info, ranges)
}

fn insert(free: &mut Table<Region, 96>, region: Region) {
    if region.len != 0 {
        free.push(region).expect("the RAM is in more pieces than the kernel is built for");
    }
}

/// Cuts the pages that `taken` touches out of `free`.
fn remove(free: &mut Table<Region, 96>, taken: &Range<u64>) {
    let hole = Region { base: taken.start, len: taken.end - taken.start }.outward();
    let mut rest = Table::new();
    for range in free.iter() {
        range.without(hole).into_iter().for_each(|part| insert(&mut rest, part));
    }
    *free = rest;
}
