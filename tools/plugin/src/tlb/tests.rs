//! The model on made-up tables: what must raise an alarm, and what must not.

use std::cell::RefCell;
use std::collections::HashMap;

use super::alarm::{Alarm, Wrong};
use super::descriptor::Memory;
use super::watch::Watch;
use super::world::{Seen, World};
use crate::decode::{Barrier, What};

const ROOT: u64 = 0x10_0000;
const OTHER: u64 = 0x20_0000;
const VA: u64 = 0x40_0000;
const FRAME: u64 = 0x700_0000;
const NEXT_FRAME: u64 = FRAME + 0x1000;
/// Accessed, nG, EL0's, valid, a page.
const PAGE: u64 = 1 << 11 | 1 << 10 | 1 << 6 | 0b11;
const READ_ONLY: u64 = 1 << 7;
/// 48 bits in both halves, 16-bit ASIDs.
const TCR: u64 = 16 | 16 << 16 | 1 << 36;
const ISH: Barrier = Barrier { full: true, shared: true };
const NSH: Barrier = Barrier { full: true, shared: false };
const LEAF: What = What::Page { leaf_only: true };
const WALK: What = What::Page { leaf_only: false };

#[derive(Default)]
struct Words(RefCell<HashMap<u64, u64>>);

impl Memory for Words {
    fn read(&self, address: u64) -> Option<u64> {
        Some(self.0.borrow().get(&address).copied().unwrap_or(0))
    }
}

/// A machine whose roots each have three tables behind them.
struct Machine {
    world: World,
    words: Words,
    watch: Watch,
}

impl Machine {
    fn new(cpus: usize) -> Self {
        let mut machine = Self { world: World::new(), words: Words::default(), watch: Watch::new() };
        for root in [ROOT, OTHER] {
            for level in 0..3 {
                machine.put(root + 0x1000 * level + index(level) * 8, (root + 0x1000 * (level + 1)) | 0b11);
            }
        }
        for cpu in 0..cpus {
            machine.world.configure(cpu, TCR);
            machine.world.switch_mmu(cpu, 1);
        }
        machine
    }

    fn put(&mut self, place: u64, bits: u64) {
        self.words.0.borrow_mut().insert(place, bits);
    }

    /// A store to a descriptor, by CPU 0.
    fn write(&mut self, place: u64, bits: u64) {
        self.put(place, bits);
        if self.watch.contains(place) {
            self.world.store(&self.words, &self.watch, 0, 0, place, 8);
        }
    }

    fn map(&mut self, root: u64, bits: u64) {
        self.write(leaf(root), bits);
    }

    fn load(&mut self, cpu: usize, root: u64, asid: u64) -> Result<(), Box<Alarm>> {
        self.world.load(cpu, 0, 0, root | asid << 48)?;
        self.world.synchronise(cpu);
        self.world.complete(cpu, 0, NSH);
        Ok(())
    }

    fn access(&mut self, cpu: usize) -> Result<Seen, Box<Alarm>> {
        self.world.access(&self.words, &self.watch, cpu, 0, VA)
    }

    fn flush(&mut self, what: What, broadcast: bool, asid: u64, barrier: Barrier) {
        self.world.invalidate(0, 0, what, broadcast, asid << 48 | VA >> 12);
        self.world.complete(0, 0, barrier);
    }

    fn free(&mut self) -> Result<(), Box<Alarm>> {
        self.world.freed(&self.watch, 0, 0, ROOT)
    }

    fn promise(&mut self) -> Result<(), Box<Alarm>> {
        self.world.promised(0, 0, ROOT)
    }
}

fn index(level: u64) -> u64 {
    VA >> (39 - 9 * level) & 511
}

fn leaf(root: u64) -> u64 {
    root + 0x3000 + index(3) * 8
}

/// CPUs 0 and 1 have used a page of `ROOT` under ASID 5.
fn used() -> Machine {
    let mut machine = Machine::new(2);
    machine.map(ROOT, FRAME | PAGE);
    for cpu in 0..2 {
        machine.load(cpu, ROOT, 5).unwrap();
        assert_eq!(machine.access(cpu).unwrap(), Seen::Cached(FRAME));
    }
    machine
}

fn is_overdue(result: Result<(), Box<Alarm>>) -> Option<usize> {
    match result.unwrap_err().wrong {
        Wrong::Overdue { holder, .. } => Some(holder),
        _ => None,
    }
}

#[test]
fn the_right_invalidation_keeps_the_promise() {
    for (what, broadcast) in [(LEAF, true), (WALK, true), (What::Asid, true), (What::All, true)] {
        let mut machine = used();
        machine.map(ROOT, 0);
        machine.flush(what, broadcast, 5, ISH);
        machine.promise().unwrap();
    }
}

#[test]
fn a_missing_a_local_a_wrong_and_an_unfinished_invalidation_do_not() {
    let mut machine = used();
    machine.map(ROOT, 0);
    assert_eq!(is_overdue(machine.promise()), Some(0), "missing");

    for (asid, broadcast, barrier, holder) in [(5, false, ISH, 1), (6, true, ISH, 0), (5, true, NSH, 0)] {
        let mut machine = used();
        machine.map(ROOT, 0);
        machine.flush(LEAF, broadcast, asid, barrier);
        assert_eq!(is_overdue(machine.promise()), Some(holder), "{asid} {broadcast} {barrier:?}");
    }
}

#[test]
fn while_nothing_is_promised_the_old_entry_may_be_used() {
    let mut machine = used();
    machine.map(ROOT, 0);
    assert_eq!(machine.access(1).unwrap(), Seen::Passed);
}

#[test]
fn a_new_page_must_not_meet_an_old_entry() {
    let mut machine = used();
    machine.map(ROOT, 0);
    machine.map(ROOT, NEXT_FRAME | PAGE);
    let alarm = machine.access(1).unwrap_err();
    assert!(matches!(alarm.wrong, Wrong::Hit { .. }), "{alarm}");
    assert!(alarm.to_string().contains("writes 0x"), "{alarm}");
}

#[test]
fn fewer_rights_need_an_invalidation_and_more_do_not() {
    let mut machine = used();
    machine.map(ROOT, FRAME | PAGE | READ_ONLY);
    let alarm = machine.promise().unwrap_err();
    assert!(matches!(alarm.wrong, Wrong::Overdue { holder: 0, .. }), "{alarm}");
    let text = alarm.to_string();
    assert_eq!(
        text.matches("the tables do not allow writing any more").count(),
        2,
        "in the alarm and the timeline: {text}"
    );

    let mut machine = Machine::new(1);
    machine.map(ROOT, FRAME | PAGE | READ_ONLY);
    machine.load(0, ROOT, 5).unwrap();
    machine.access(0).unwrap();
    machine.map(ROOT, FRAME | PAGE);
    machine.promise().unwrap();
    // The CPU has seen the wider rights now, and must not keep them.
    machine.access(0).unwrap();
    machine.map(ROOT, FRAME | PAGE | READ_ONLY);
    assert_eq!(is_overdue(machine.promise()), Some(0));
}

#[test]
fn a_freed_table_must_leave_the_walk_caches() {
    let table = ROOT + 0x2000 + index(2) * 8;
    for (what, good) in [(LEAF, false), (WALK, true)] {
        let mut machine = used();
        machine.map(ROOT, 0);
        machine.write(table, 0);
        machine.flush(what, true, 5, ISH);
        assert_eq!(machine.promise().is_ok(), good, "{what:?}");
    }
}

#[test]
fn out_of_reach_is_no_fault_until_the_asid_comes_back() {
    let mut machine = used();
    machine.load(1, OTHER, 6).unwrap();
    machine.map(ROOT, 0);
    machine.flush(LEAF, false, 5, NSH);
    machine.promise().unwrap();
    assert_eq!(is_overdue(machine.load(1, ROOT, 5)), Some(1));
}

#[test]
fn what_is_overdue_stays_so_when_the_tables_change_again() {
    let mut machine = used();
    machine.load(1, OTHER, 6).unwrap();
    machine.map(ROOT, 0);
    machine.flush(LEAF, false, 5, NSH);
    machine.promise().unwrap();
    machine.map(ROOT, NEXT_FRAME | PAGE);
    assert_eq!(is_overdue(machine.load(1, ROOT, 5)), Some(1));
}

#[test]
fn a_cpu_that_flushes_itself_before_it_loads_is_in_order() {
    let mut machine = used();
    machine.load(1, OTHER, 6).unwrap();
    machine.map(ROOT, 0);
    machine.flush(LEAF, false, 5, NSH);
    machine.promise().unwrap();
    machine.world.invalidate(1, 0, What::All, false, 0);
    machine.world.complete(1, 0, NSH);
    machine.load(1, ROOT, 5).unwrap();
}

#[test]
fn an_asid_must_not_be_used_again_without_a_flush() {
    let mut machine = used();
    machine.map(OTHER, NEXT_FRAME | PAGE);
    machine.load(1, OTHER, 5).unwrap();
    assert!(matches!(machine.access(1).unwrap_err().wrong, Wrong::Hit { .. }));
}

#[test]
fn global_entries_are_hit_under_every_asid() {
    let global = PAGE & !(1 << 11);
    let mut machine = Machine::new(1);
    machine.map(ROOT, FRAME | global);
    machine.map(OTHER, NEXT_FRAME | PAGE);
    machine.load(0, ROOT, 5).unwrap();
    machine.access(0).unwrap();
    machine.flush(What::Asid, true, 5, ISH);
    machine.load(0, OTHER, 6).unwrap();
    assert!(machine.access(0).is_err(), "ASIDE1 leaves global entries");

    machine.flush(LEAF, true, 9, ISH);
    assert_eq!(machine.access(0).unwrap(), Seen::Cached(NEXT_FRAME), "by page they go under any ASID");
}

#[test]
fn a_root_is_freed_only_when_left_and_no_walk_is_in_flight() {
    let mut machine = used();
    machine.load(0, OTHER, 6).unwrap();
    let in_use = machine.free().unwrap_err();
    assert!(matches!(in_use.wrong, Wrong::FreedRootInUse { holder: 1, .. }), "{in_use}");

    let mut machine = used();
    machine.load(0, OTHER, 6).unwrap();
    machine.world.load(1, 0, 0, OTHER | 6 << 48).unwrap();
    machine.world.synchronise(1);
    let walked = machine.free().unwrap_err();
    assert!(matches!(walked.wrong, Wrong::FreedRootWalked { holder: 1, .. }), "{walked}");
    machine.world.complete(1, 0, NSH);
    machine.free().unwrap();
    let loaded = machine.load(0, ROOT, 5).unwrap_err();
    assert!(matches!(loaded.wrong, Wrong::FreedRootLoaded { .. }), "{loaded}");
    machine.world.made(0, 0, ROOT);
    machine.load(0, ROOT, 7).unwrap();
}

#[test]
fn what_a_freed_root_leaves_behind_must_be_flushed_before_its_asid_comes_back() {
    let mut machine = used();
    for cpu in 0..2 {
        machine.load(cpu, OTHER, 6).unwrap();
    }
    machine.free().unwrap();
    assert!(!machine.watch.contains(leaf(ROOT)), "its frames may hold anything now");
    assert_eq!(is_overdue(machine.load(1, OTHER, 5)), Some(1));
}

#[test]
fn a_cpu_that_was_switched_off_may_have_kept_everything() {
    let mut machine = used();
    machine.world.switch_off(1, 0);
    machine.map(ROOT, 0);
    machine.flush(LEAF, false, 5, NSH);
    machine.promise().unwrap();
    machine.world.switch_mmu(1, 1);
    assert_eq!(is_overdue(machine.load(1, ROOT, 5)), Some(1));
}

#[test]
fn sixty_four_cpus_lose_an_asid_together() {
    let mut machine = Machine::new(64);
    machine.map(ROOT, FRAME | PAGE);
    for cpu in 0..64 {
        machine.load(cpu, ROOT, 5).unwrap();
        machine.access(cpu).unwrap();
    }
    machine.map(ROOT, 0);
    machine.flush(What::Asid, true, 5, ISH);
    machine.promise().unwrap();
}

#[test]
fn a_table_that_nobody_has_cached_is_not_watched_any_more() {
    let mut machine = used();
    assert!(machine.watch.contains(leaf(ROOT)));
    machine.map(ROOT, 0);
    machine.flush(What::All, true, 0, ISH);
    machine.map(ROOT, FRAME | PAGE);
    assert!(!machine.watch.contains(leaf(ROOT)));
}
