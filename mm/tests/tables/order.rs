//! In which order things happen: entry, barrier, invalidation, barrier, and only then the free.

use mm::fault::handle_fault;
use mm::pte::{Access, Protection};
use mm::region::{Attributes, Backing, Sharing};
use mm::space::{CEILING, LOWEST, MapError, Placement};
use mm::{Frame, Machine, Mm, Page, Sequence};

use crate::fake::{Event, Fake};
use crate::running::{HERE, LEAF_SPAN, PAGE, Running, word};
use crate::walker::translate;
use Sequence::{Complete, InvalidateAsid, InvalidateLeaf, InvalidateWalk, PublishEntries, RefreshLeaf};

#[test]
fn new_tables_and_content_are_published_before_what_names_them() {
    let program = Running::start(50);
    program.map_as(HERE, 2, Attributes::anonymous(Protection::READ_WRITE));
    assert_eq!(Fake::sequences(), []);
    program.touch(HERE, Access::Read);
    assert_eq!(Fake::sequences(), [PublishEntries; 5], "three tables, the zeroes, the entry");
    program.touch(HERE + PAGE, Access::Write);
    assert_eq!(Fake::sequences(), [PublishEntries; 2], "the zeroes, the entry");
}

#[test]
fn a_frame_is_free_only_after_its_invalidation() {
    let program = Running::start(50);
    program.map(HERE, 3);
    let free = program.system.frames.free();
    program.unmap(HERE + PAGE, 1);
    let expected = [PublishEntries, InvalidateLeaf, Complete];
    assert_eq!(Fake::log(), expected.map(|sequence| Event::Ran(sequence, free)));
    assert_eq!(program.system.frames.free(), free + 1);
}

#[test]
fn a_freed_table_takes_the_walk_caches_along() {
    let program = Running::start(50);
    program.map(HERE, 1);
    program.map(HERE + LEAF_SPAN, 1);
    let free = program.system.frames.free();
    program.unmap(HERE, 1);
    assert_eq!(Fake::sequences(), [PublishEntries, InvalidateWalk, Complete]);
    assert_eq!(program.system.frames.free(), free + 2, "the page and its leaf table");
    program.unmap(HERE + LEAF_SPAN, 1);
    assert_eq!(Fake::sequences(), [PublishEntries, InvalidateAsid, Complete], "tables above leaves went");
    assert_eq!(program.system.frames.free(), free + 2 + 4);
}

#[test]
fn what_was_never_used_needs_no_invalidation() {
    let program = Running::start(50);
    program.map(HERE, 1);
    program.map_as(HERE + PAGE, 100, Attributes::anonymous(Protection::READ_WRITE));
    program.unmap(HERE + PAGE, 100);
    assert_eq!(Fake::sequences(), []);
}

#[test]
fn fewer_rights_are_flushed_and_more_are_not() {
    let program = Running::start(50);
    program.map(HERE, 2);
    program.protect(HERE, 1, Protection::READ);
    assert_eq!(Fake::sequences(), [PublishEntries, InvalidateLeaf, Complete, PublishEntries]);
    program.protect(HERE, 1, Protection::READ_WRITE);
    assert_eq!(Fake::sequences(), [PublishEntries]);
    program.touch(HERE, Access::Write);
    assert_eq!(Fake::sequences(), [RefreshLeaf], "this CPU had cached the narrower rights");
}

#[test]
fn no_access_keeps_the_content() {
    let program = Running::start(50);
    program.map(HERE, 2);
    program.mm.space().write_bytes(&program.mm, HERE, &[7; 8]).unwrap();
    Fake::log();
    program.protect(HERE, 1, Protection::NONE);
    assert_eq!(Fake::sequences(), [PublishEntries, InvalidateLeaf, Complete, PublishEntries]);
    assert_eq!(word(&program.mm, HERE), None);
    program.protect(HERE, 1, Protection::READ);
    assert_eq!(Fake::sequences(), [PublishEntries], "invalid to valid");
    assert_eq!(word(&program.mm, HERE), Some(0x0707_0707_0707_0707));
}

#[test]
fn fork_takes_the_parents_write_rights_before_it_returns() {
    let program = Running::start(50);
    program.map(HERE, 2);
    let child = program.fork();
    let sequences = Fake::sequences();
    let flush = [PublishEntries, InvalidateLeaf, InvalidateLeaf, Complete, PublishEntries];
    assert!(sequences.ends_with(&flush), "{sequences:?}");
    for mm in [&program.mm, &child] {
        assert_eq!(translate(mm.root(), Page::containing(HERE).unwrap(), Access::Write), None);
    }
    assert_eq!(word(&child, HERE), Some(0));
}

#[test]
fn a_copy_breaks_before_it_makes_and_the_last_owner_does_not_copy() {
    let program = Running::start(50);
    program.map(HERE, 2);
    let child = program.fork();
    Fake::log();
    program.mm.space().write_bytes(&program.mm, HERE, &[1; 8]).unwrap();
    let broken = [PublishEntries, InvalidateLeaf, Complete];
    assert_eq!(Fake::sequences(), [&broken[..], &[PublishEntries; 2]].concat(), "break, content, make");
    assert_eq!((word(&program.mm, HERE), word(&child, HERE)), (Some(0x0101_0101_0101_0101), Some(0)));

    let frame = translate(child.root(), Page::containing(HERE).unwrap(), Access::Read);
    assert_eq!(handle_fault(&child, HERE, Access::Write), Ok(()));
    assert_eq!(Fake::sequences(), [PublishEntries], "the child never ran: nothing to refresh");
    assert_eq!(translate(child.root(), Page::containing(HERE).unwrap(), Access::Write), frame);
    drop(child);
    Fake::log();
    program.touch(HERE + PAGE, Access::Write);
    assert_eq!(Fake::sequences(), [PublishEntries, RefreshLeaf], "rights are added: nobody else is told");
}

#[test]
fn teardown_invalidates_once_and_gives_everything_back() {
    let program = Running::start(50);
    let before = program.system.frames.free();
    program.map(HERE, 3);
    program.map(LOWEST, 3);
    program.unmap(HERE, 3);
    program.unmap(LOWEST, 3);
    assert_eq!(program.system.frames.free(), before);
    program.map(HERE, 3);
    let system = program.system;
    drop(program);
    let flushes = Fake::sequences().into_iter().filter(|&sequence| sequence == InvalidateAsid).count();
    assert_eq!((flushes, system.frames.free()), (1, 49), "all but init_mm's root");
}

#[test]
fn teardown_invalidates_even_if_nothing_is_mapped_any_more() {
    let program = Running::start(50);
    program.map(HERE, 3);
    program.unmap(HERE, 3);
    Fake::log();
    drop(program);
    assert!(Fake::sequences().contains(&InvalidateAsid), "a walk cache may know tables that are gone");
}

#[test]
fn teardown_of_what_never_had_a_table_invalidates_nothing() {
    let program = Running::start(50);
    program.map_as(HERE, 3, Attributes::anonymous(Protection::READ_WRITE));
    drop(program);
    assert!(!Fake::sequences().contains(&InvalidateAsid));
}

#[test]
fn shared_frames_are_kept_until_the_flush() {
    let program = Running::start(400);
    program.map(HERE, 101);
    let child = program.fork();
    let free = program.system.frames.free();
    Fake::log();
    program.unmap(HERE, 100);
    assert_eq!(program.system.frames.free(), free, "the child still has them");
    let rounds = Fake::sequences().into_iter().filter(|&sequence| sequence == Complete).count();
    assert_eq!(rounds, 100_usize.div_ceil(mm::stale::MOST_SHARED));
    drop(child);
    assert_eq!(program.system.frames.free(), free + 100 + 4, "the child's pages but one, and its tables");
    drop(program);
    assert_eq!(Fake::system().frames.free(), 399);
}

/// Neither side will fault on the page that both are about to write to, and neither sees what the other writes.
#[test]
fn a_busy_page_is_copied_at_once() {
    let program = Running::start(60);
    program.map(HERE, 2);
    program.mm.space().write_bytes(&program.mm, HERE, &[7; 8]).unwrap();
    let writable = |mm: &Mm<Fake>, address| translate(mm.root(), Page::containing(address).unwrap(), Access::Write);
    let child = program.fork_with(Some(HERE + 8));
    assert_eq!(word(&child, HERE), word(&program.mm, HERE), "the copy");
    let (ours, theirs) = (writable(&program.mm, HERE), writable(&child, HERE));
    assert!(ours.is_some() && theirs.is_some() && ours != theirs, "{ours:?} {theirs:?}");
    assert_eq!(writable(&program.mm, HERE + PAGE).or(writable(&child, HERE + PAGE)), None, "the other one is shared");
    program.protect(HERE, 1, Protection::READ);
    let reader = program.fork_with(Some(HERE));
    assert_eq!(writable(&reader, HERE), None, "what may not be written will not be");
    assert_eq!(program.system.frames.references(ours.unwrap()), 2, "and is shared");
}

#[test]
fn shared_memory_is_there_before_a_fork_can_miss_it() {
    let program = Running::start(50);
    let attributes = Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(Protection::READ_WRITE) };
    program.map_as(HERE, 2, attributes);
    assert_eq!(program.mm.space().tables().resident(), 2);
    let child = program.fork();
    program.mm.space().write_bytes(&program.mm, HERE + PAGE, &[9; 8]).unwrap();
    assert_eq!(handle_fault(&child, HERE + PAGE, Access::Read), Ok(()));
    assert_eq!(word(&child, HERE + PAGE), Some(0x0909_0909_0909_0909));
    program.mm.space().advise_dont_need(&program.mm, HERE, 2 * PAGE).unwrap();
    assert_eq!(word(&program.mm, HERE + PAGE), Some(0x0909_0909_0909_0909));
}

/// More than there is cannot succeed: it is not tried, which would take all memory from everybody for a while.
#[test]
fn shared_memory_beyond_all_is_refused_before_anything_changes() {
    let program = Running::start(50);
    let attributes = Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(Protection::READ_WRITE) };
    program.map(HERE, 1);
    let mapped = program.mm.space().map(&program.mm, Placement::At(HERE), 50 * PAGE, attributes);
    assert_eq!(mapped, Err(MapError::OutOfMemory));
    assert_eq!((program.system.frames.refused(), program.mm.space().tables().resident()), (0, 1));
    assert_eq!(program.mm.space().regions().iter().count(), 1, "what was there");
}

/// The first access finds the frame there and marks it as used; until then nothing is cached, so
/// neither marking it nor taking it away invalidates anything.
#[test]
fn shared_memory_is_untouched_until_its_first_access() {
    let program = Running::start(50);
    let attributes = Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(Protection::READ_WRITE) };
    program.map(HERE, 1);
    program.map_as(HERE + PAGE, 3, attributes);
    let page = |index: u64| Page::containing(HERE + index * PAGE).unwrap();
    assert_eq!(translate(program.mm.root(), page(1), Access::Read), None, "it faults");
    Fake::log();
    program.touch(HERE + PAGE, Access::Read);
    assert_eq!(Fake::sequences(), [PublishEntries]);
    assert!(translate(program.mm.root(), page(1), Access::Write).is_some(), "with all its rights");
    program.protect(HERE + 2 * PAGE, 1, Protection::READ);
    assert_eq!(Fake::sequences(), [PublishEntries], "fewer rights to what nobody could use");
    program.touch(HERE + 2 * PAGE, Access::Read);
    Fake::log();
    program.unmap(HERE + 3 * PAGE, 1);
    assert_eq!(Fake::sequences(), [], "never used");
    program.unmap(HERE + PAGE, 1);
    assert_eq!(Fake::sequences(), [PublishEntries, InvalidateLeaf, Complete], "used");
}

#[test]
fn an_image_is_read_on_demand_and_code_is_synchronised() {
    static BYTES: [u8; 5000] = [3; 5000];
    let program = Running::start(50);
    let backing = Backing::Image { bytes: &BYTES, offset: 0 };
    program.map_as(HERE, 3, Attributes { backing, ..Attributes::anonymous(Protection::READ_EXECUTE) });
    program.touch(HERE + PAGE, Access::Execute);
    let frame = translate(program.mm.root(), Page::containing(HERE + PAGE).unwrap(), Access::Execute).unwrap();
    let free = program.system.frames.free();
    let expected = [Event::Synced(frame), Event::Ran(PublishEntries, free), Event::Ran(PublishEntries, free)];
    assert!(Fake::log().ends_with(&expected), "synchronised, and only then mapped");
    let end = HERE + 5000 / 8 * 8;
    assert_eq!((word(&program.mm, end - 8), word(&program.mm, end)), (Some(0x0303_0303_0303_0303), Some(0)));
}

/// Whoever runs from an image has its own frames, and nobody can change them.
#[test]
fn an_image_is_mapped_where_it_lies_and_copied_by_who_writes() {
    static BYTES: [u8; 3 * 4096 + 8] = [3; 3 * 4096 + 8];
    let program = Running::start(50);
    let kept = Fake::keep(&BYTES);
    let backing = Backing::Image { bytes: &BYTES, offset: 4096 };
    let attributes = |protection| Attributes { backing, ..Attributes::anonymous(protection) };
    program.map_as(HERE, 3, attributes(Protection::READ_EXECUTE));
    let frame_at = |mm: &Mm<Fake>, address| translate(mm.root(), Page::containing(address).unwrap(), Access::Read);
    program.touch(HERE + PAGE, Access::Execute);
    let free = program.system.frames.free();
    program.touch(HERE, Access::Read);
    assert_eq!(program.system.frames.free(), free, "nothing is copied");
    assert_eq!(frame_at(&program.mm, HERE), Some(Frame::from_number(kept.number() + 1)));
    program.touch(HERE + 2 * PAGE, Access::Read);
    assert_eq!(program.system.frames.free(), free - 1, "the image ends in this page: zeroes follow");
    let child = program.fork();
    program.protect(HERE, 1, Protection::READ_WRITE);
    program.touch(HERE, Access::Write);
    Fake::table(frame_at(&program.mm, HERE).unwrap()).set_word(0, 9);
    assert_eq!(handle_fault(&child, HERE, Access::Read), Ok(()));
    assert_eq!([word(&program.mm, HERE), word(&child, HERE)], [9, 0x0303_0303_0303_0303].map(Some));
    program.map_as(HERE + LEAF_SPAN, 1, attributes(Protection::READ_WRITE));
    program.touch(HERE + LEAF_SPAN, Access::Read);
    Fake::table(frame_at(&program.mm, HERE + LEAF_SPAN).unwrap()).set_word(0, 9);
    drop(child);
    program.unmap(HERE, 3);
    assert_eq!(Fake::table(Frame::from_number(kept.number() + 1)).word(0), 0x0303_0303_0303_0303);
    assert!(program.system.frames.is_kept(kept), "the image stays");
}

#[test]
fn memory_that_becomes_code_is_synchronised_once() {
    let program = Running::start(50);
    program.map(HERE, 1);
    program.protect(HERE, 1, Protection::READ_EXECUTE);
    assert_eq!(synced(), 1);
    program.protect(HERE, 1, Protection::READ_EXECUTE);
    assert_eq!(synced(), 0);
}

/// A fault brings the neighbours that are there for the taking: in the same aligned run of sixteen pages, in the region,
/// whole in the image, and not mapped yet.
#[test]
fn an_image_lends_the_neighbours_too() {
    static BYTES: [u8; 30 * 4096 + 8] = [3; 30 * 4096 + 8];
    let program = Running::start(50);
    let kept = Fake::keep(&BYTES).number();
    let backing = Backing::Image { bytes: &BYTES, offset: 0 };
    program.map_as(HERE + 3 * PAGE, 31, Attributes { backing, ..Attributes::anonymous(Protection::READ) });
    let lent = |mm: &Mm<Fake>, index: u64| {
        let frame = translate(mm.root(), Page::containing(HERE + index * PAGE).unwrap(), Access::Read);
        frame.map(|frame| frame.number().wrapping_sub(kept) + 3)
    };
    program.protect(HERE + 5 * PAGE, 1, Protection::READ_WRITE);
    program.touch(HERE + 5 * PAGE, Access::Write);
    program.protect(HERE + 5 * PAGE, 1, Protection::READ);
    let copy = lent(&program.mm, 5);
    program.touch(HERE + 4 * PAGE, Access::Read);
    let expected = |index| {
        if index < 3 {
            None
        } else if index == 5 {
            copy
        } else {
            Some(index as usize)
        }
    };
    (0..16).for_each(|index| assert_eq!(lent(&program.mm, index), expected(index), "page {index}"));
    assert_eq!(lent(&program.mm, 16), None, "another run");
    program.touch(HERE + 33 * PAGE, Access::Read);
    assert_eq!(lent(&program.mm, 32), Some(32), "also if the page itself is none of them");
    let child = program.fork();
    assert_eq!((lent(&child, 4), lent(&child, 5)), (None, copy), "a child has the copies, and may borrow itself");
}

/// What runs from an image fetches from frames that never change, wherever and in whatever program they are mapped.
#[test]
fn code_of_an_image_is_synchronised_once_for_all() {
    static BYTES: [u8; 4096] = [3; 4096];
    let program = Running::start(50);
    Fake::keep(&BYTES);
    let backing = Backing::Image { bytes: &BYTES, offset: 0 };
    for (address, expected) in [(HERE, 1), (HERE + LEAF_SPAN, 0)] {
        program.map_as(address, 1, Attributes { backing, ..Attributes::anonymous(Protection::READ_EXECUTE) });
        program.touch(address, Access::Execute);
        assert_eq!(synced(), expected, "{address:#x}");
    }
}

/// How often instructions were synchronised since the last call.
fn synced() -> usize {
    Fake::log().iter().filter(|event| matches!(event, Event::Synced(_))).count()
}

#[test]
fn bytes_are_written_across_pages() {
    let program = Running::start(50);
    program.map_as(HERE, 3, Attributes::anonymous(Protection::READ_WRITE));
    let bytes: Vec<u8> = (0..PAGE + 10).map(|byte| byte as u8).collect();
    program.mm.space().write_bytes(&program.mm, HERE + PAGE - 3, &bytes).unwrap();
    assert_eq!(word(&program.mm, HERE + PAGE - 8), Some(0x0201_0000_0000_0000));
    assert_eq!(word(&program.mm, HERE + PAGE), Some(0x0a09_0807_0605_0403));
    assert_eq!(word(&program.mm, HERE + 2 * PAGE), Some(0x0009_0807_0605_0403), "the end");
}

#[test]
fn bytes_may_begin_within_a_word_and_fill_others() {
    let program = Running::start(20);
    program.map(HERE, 1);
    let bytes: [u8; 20] = core::array::from_fn(|index| index as u8 + 1);
    program.mm.space().write_bytes(&program.mm, HERE + 5, &bytes).unwrap();
    let words = [0, 8, 16, 24].map(|at| word(&program.mm, HERE + at).unwrap());
    let expected = [0x0302_0100_0000_0000, 0x0b0a_0908_0706_0504, 0x1312_1110_0f0e_0d0c, 0x14];
    assert_eq!(words, expected);
}

#[test]
fn mappings_find_their_place() {
    let program = Running::start(50);
    let map = |placement, length| {
        program.mm.space().map(&program.mm, placement, length, Attributes::anonymous(Protection::READ))
    };
    assert_eq!(map(Placement::Anywhere, 1), Ok(CEILING - PAGE));
    assert_eq!(map(Placement::Anywhere, 2 * PAGE), Ok(CEILING - 3 * PAGE));
    assert_eq!(map(Placement::Near(HERE + 1), PAGE), Ok(HERE));
    assert_eq!(map(Placement::Near(HERE), PAGE), Ok(CEILING - 4 * PAGE));
    assert_eq!(map(Placement::AtFree(HERE), PAGE), Err(MapError::Occupied));
    assert_eq!(map(Placement::At(HERE), PAGE), Ok(HERE));
    assert_eq!(map(Placement::At(HERE + 1), PAGE), Err(MapError::Invalid));
    assert_eq!(map(Placement::Anywhere, 0), Err(MapError::Invalid));
    assert_eq!(map(Placement::At(0), PAGE), Err(MapError::TooLow));
    assert_eq!(map(Placement::At(mm::USER_END - PAGE), 2 * PAGE), Err(MapError::Beyond));
    assert_eq!(map(Placement::Anywhere, mm::USER_END - PAGE), Err(MapError::OutOfMemory));
    assert_eq!(map(Placement::Anywhere, u64::MAX), Err(MapError::OutOfMemory));
    assert_eq!(map(Placement::At(HERE), mm::USER_END), Err(MapError::Beyond));
    assert_eq!(map(Placement::At(HERE), mm::USER_END + PAGE), Err(MapError::OutOfMemory), "there is no such place");
    // All that may be given at once: then there is nothing left, below it neither.
    assert_eq!(map(Placement::At(mm::space::LOWEST), CEILING - mm::space::LOWEST), Ok(mm::space::LOWEST));
    assert_eq!(map(Placement::Anywhere, PAGE), Err(MapError::OutOfMemory));
    assert_eq!(map(Placement::AtFree(CEILING), 64 << 20), Ok(CEILING), "above it there is room for a stack");
    let unmap = |address, length| program.mm.space().unmap(&program.mm, address, length);
    assert_eq!(unmap(mm::space::LOWEST, PAGE), Ok(()));
    assert_eq!(map(Placement::Anywhere, PAGE), Ok(mm::space::LOWEST));
    assert_eq!(unmap(HERE, 0), Err(MapError::Invalid));
    assert_eq!(unmap(HERE, u64::MAX), Err(MapError::Beyond));
}

#[test]
fn the_break_moves_both_ways() {
    let program = Running::start(50);
    let brk = |wanted| program.mm.space().brk(&program.mm, wanted);
    assert_eq!(brk(HERE), 0, "no heap yet");
    program.mm.space().start_heap(HERE + 5);
    let start = HERE + PAGE;
    assert_eq!(brk(0), start);
    assert_eq!(brk(start + 100), start + 100);
    assert_eq!(program.mm.space().regions().iter().next().map(|heap| heap.attributes.name), Some("[heap]"));
    program.touch(start, Access::Write);
    assert_eq!(brk(start + 200), start + 200, "within the page that is there");
    assert_eq!(handle_fault(&program.mm, start + PAGE, Access::Read), Err(mm::fault::FaultError::Unmapped));
    assert_eq!(brk(start + 5 * PAGE), start + 5 * PAGE);
    program.touch(start + 4 * PAGE, Access::Write);
    assert_eq!(brk(start - 1), start + 5 * PAGE, "below the heap");
    program.map(start + 6 * PAGE, 1);
    assert_eq!(brk(start + 7 * PAGE), start + 5 * PAGE, "something is in the way");
    let child = program.fork();
    assert_eq!(child.space().brk(&child, 0), start + 5 * PAGE, "a child has its parent's heap");
    assert_eq!(brk(start), start);
    assert_eq!(program.mm.space().tables().resident(), 1, "only what was in the way");
}

#[test]
fn shared_memory_may_take_the_last_frame() {
    let program = Running::start(20);
    program.map(HERE, 1);
    let attributes = Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(Protection::READ_WRITE) };
    // The tables are there.
    let free = program.system.frames.free() as u64;
    let map = |length| program.mm.space().map(&program.mm, Placement::At(HERE + PAGE), length, attributes);
    assert_eq!(map((free + 1) * PAGE), Err(MapError::OutOfMemory));
    assert_eq!((map(free * PAGE), program.system.frames.free()), (Ok(HERE + PAGE), 0));
}

#[test]
fn running_out_of_frames_loses_none() {
    let program = Running::start(8);
    program.map_as(HERE, 10, Attributes::anonymous(Protection::READ_WRITE));
    let touched = (0..10).filter(|page| handle_fault(&program.mm, HERE + page * PAGE, Access::Write).is_ok());
    assert_eq!(touched.count(), 3, "two roots and three tables leave three");
    let attributes = Attributes { sharing: Sharing::Shared, ..Attributes::anonymous(Protection::READ_WRITE) };
    program.unmap(HERE, 10);
    // As many pages as there are frames, and none for tables.
    let mapped = program.mm.space().map(&program.mm, Placement::At(HERE), 6 * PAGE, attributes);
    assert_eq!((mapped, program.system.frames.free()), (Err(MapError::OutOfMemory), 6));
    assert!(program.mm.space().regions().iter().next().is_none());
}
