//! Who gets which frame, what is counted, and which mistakes are refused.

extern crate std;

use super::*;
use crate::fake::{BASE, Fake};
use alloc::vec;

fn frames(count: usize, free: impl IntoIterator<Item = usize>) -> FrameAllocator<Fake> {
    let free = free.into_iter().map(|index| BASE + index..BASE + index + 1);
    FrameAllocator::new(Frame::from_number(BASE), Fake::info(count), free)
}

fn numbered(index: usize) -> Frame {
    Frame::from_number(BASE + index)
}

#[test]
fn hands_out_each_free_frame_once() {
    let frames = frames(8, [1, 2, 5]);
    let given = core::array::from_fn(|_| frames.alloc());
    assert_eq!(given, [Some(numbered(1)), Some(numbered(2)), Some(numbered(5)), None]);
    assert_eq!((frames.free(), frames.total()), (0, 3));
    frames.put(numbered(2));
    assert_eq!((frames.free(), frames.alloc()), (1, Some(numbered(2))));
}

#[test]
fn the_last_reference_frees() {
    let frames = frames(1, 0..1);
    let frame = frames.alloc().unwrap();
    frames.get(frame);
    assert!(frames.is_shared(frame));
    frames.put(frame);
    assert_eq!((frames.is_shared(frame), frames.free()), (false, 0));
    frames.put(frame);
    assert_eq!((frames.references(frame), frames.free()), (0, 1));
}

#[test]
fn a_kept_frame_is_shared_and_never_free() {
    let frames = frames(4, 2..4);
    frames.keep(BASE..BASE + 2);
    let kept = numbered(1);
    for _ in 0..2 {
        assert!(frames.is_shared(kept), "with nobody who could write to it");
        frames.put(kept);
    }
    frames.get(kept);
    assert_eq!((frames.is_kept(kept), frames.free()), (true, 2));
    assert!(!frames.is_kept(numbered(2)));
}

#[test]
#[should_panic(expected = "cannot be kept")]
fn a_frame_in_use_is_not_kept() {
    let frames = frames(2, 0..2);
    let frame = frames.alloc().unwrap().number();
    frames.keep(frame..frame + 1);
}

#[test]
#[should_panic(expected = "freed twice")]
fn a_double_free_is_caught() {
    let frames = frames(2, 0..2);
    let frame = frames.alloc().unwrap();
    frames.put(frame);
    frames.put(frame);
}

#[test]
#[should_panic(expected = "was never ours")]
fn a_reserved_frame_is_not_freed() {
    frames(4, 0..2).put(numbered(3));
}

#[test]
#[should_panic(expected = "was never ours")]
fn a_foreign_frame_is_not_freed() {
    frames(4, 0..4).put(Frame::from_number(BASE - 1));
}

#[test]
#[should_panic(expected = "in other use")]
fn a_table_is_not_freed_as_data() {
    let frames = frames(4, 0..4);
    let table = frames.alloc_root().unwrap();
    frames.put(table);
}

#[test]
#[should_panic(expected = "freed twice")]
fn a_table_is_freed_once() {
    let frames = frames(4, 0..4);
    let table = frames.alloc_table(3).unwrap();
    let mut list = FrameList::new();
    frames.free_table_into(table, &mut list);
    frames.free_table_into(table, &mut list);
}

#[test]
fn data_that_is_freed_as_a_table_stays_as_it_is() {
    let frames = frames(4, 0..4);
    let data = frames.alloc().unwrap();
    frames.get(data);
    let free = std::panic::AssertUnwindSafe(|| frames.free_table_into(data, &mut FrameList::new()));
    assert!(std::panic::catch_unwind(free).is_err());
    assert_eq!((frames.references(data), frames.free()), (2, 3));
}

#[test]
fn what_is_refused_is_counted() {
    let frames = frames(4, 0..2);
    let free = std::panic::AssertUnwindSafe(|| frames.put(numbered(3)));
    assert_eq!(frames.refused(), 0);
    assert!(std::panic::catch_unwind(free).is_err());
    assert_eq!(frames.refused(), 1);
}

#[test]
fn references_are_counted_of_data_only() {
    let frames = frames(4, 1..4);
    frames.keep(BASE..BASE + 1);
    let (table, data) = (frames.alloc_root().unwrap(), frames.alloc().unwrap());
    let counted = [numbered(0), table, data, numbered(3), Frame::from_number(BASE + 4)];
    assert_eq!(counted.map(|frame| frames.references(frame)), [0, 0, 1, 0, 0]);
}

#[test]
fn a_list_that_was_emptied_adds_nothing() {
    let frames = frames(2, 0..2);
    let given: [_; 2] = core::array::from_fn(|_| frames.alloc().unwrap());
    let (mut list, mut emptied) = (FrameList::new(), FrameList::new());
    frames.put_into(given[0], &mut list);
    frames.put_into(given[1], &mut emptied);
    let taken = emptied.pop(frames.info);
    list.prepend(frames.info, emptied);
    assert_eq!((taken, list.len(), list.pop(frames.info)), (Some(1), 1, Some(0)));
}

#[test]
#[should_panic(expected = "still maps something")]
fn a_root_in_use_is_not_freed() {
    let frames = frames(4, 0..4);
    let root = frames.alloc_root().unwrap();
    Fake::table(root).set_word(511, 0b11);
    frames.free_root(root);
}

#[test]
#[should_panic(expected = "written to after it was freed")]
fn a_write_after_free_is_caught() {
    let frames = frames(1, 0..1);
    let frame = frames.alloc().unwrap();
    frames.put(frame);
    Fake::table(frame).set_word(77, 1);
    frames.alloc();
}

#[test]
fn lists_join_at_either_end() {
    let frames = frames(6, 0..6);
    for round in 0..4 {
        let given: [_; 6] = core::array::from_fn(|_| frames.alloc().unwrap());
        let (mut first, mut second) = (FrameList::new(), FrameList::new());
        given[..round].iter().for_each(|&frame| frames.put_into(frame, &mut first));
        given[round..].iter().for_each(|&frame| frames.put_into(frame, &mut second));
        assert_eq!((first.len(), second.len(), frames.free()), (round, 6 - round, 0));
        let mut joined = FrameList::new();
        joined.prepend(frames.info, first);
        joined.prepend(frames.info, second);
        let mut empty = FrameList::new();
        empty.prepend(frames.info, joined);
        frames.free_list(empty);
        assert_eq!(frames.free(), 6);
    }
}

#[test]
fn a_table_knows_where_it_was_used() {
    let frames = frames(1, 0..1);
    let used = |table| frames.used(table).collect::<Vec<_>>();
    let table = frames.alloc_table(2).unwrap();
    assert_eq!((used(table), frames.level(table)), (vec![], 2));
    for index in [511, 7, 16, 500] {
        frames.mark_used(table, index);
    }
    assert_eq!((used(table), frames.level(table)), (vec![0..8, 16..24, 496..512], 2));
    (0..512).for_each(|index| frames.mark_used(table, index));
    assert_eq!(used(table), vec![0..512]);
    frames.free_root(table);
    assert!(used(frames.alloc_root().unwrap()).is_empty());
}

#[test]
fn metadata_is_sixteen_bytes() {
    assert_eq!(size_of::<FrameInfo>(), 16);
}
