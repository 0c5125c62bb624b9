//! The two counts, and the rule that a failed check never frees.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mm::{Asid, Complaint, Counter, CpuId, Machine, Mm, Point, Scheme, Sequence, System, Ttbr};

use crate::machine::director::{Director, each, each_line};
use crate::machine::kernel::{self, Reference};
use crate::machine::{Lying, Setup, world};

/// T08: who comes for a user after the last one went gets none; who came before keeps it alive.
#[test]
fn t08_users_never_rise_from_zero() {
    each(2, |d, _| {
        let user = d.create();
        let reference = user.grab_ref();
        let winner = reference.try_user().expect("there is a user");
        assert_eq!((user.users(), user.count()), (2, 2), "all users share one count");
        d.on(0, move || kernel::put(user));
        assert_eq!((reference.users(), reference.count()), (1, 2));
        d.on(1, move || kernel::put(winner));
        assert_eq!((reference.users(), reference.count()), (0, 1));
        d.on(0, move || {
            if let Some(user) = reference.try_user() {
                kernel::yield_now();
                panic!("a user of the dead: {user:?}");
            }
        });
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.finish();
    });
}

/// The same as a race: one CPU drops the last user while another asks for one.
#[test]
fn the_last_user_races_with_a_borrower() {
    each(3, |d, _| {
        let user = d.create();
        let reference = user.grab_ref();
        d.spawn(1, move || {
            if let Some(user) = reference.try_user() {
                kernel::exec(user);
            }
            drop(reference);
        });
        d.spawn(2, move || kernel::put(user));
        d.run();
        d.finish();
    });
}

/// A reference is dropped while a CPU that never had the `Mm` enters it, leaves it lazily and gives
/// the last user back. Whoever comes to zero last must ask that CPU too: who looked at the mask
/// before the count was zero would not know it.
#[test]
fn a_cpu_enters_while_a_reference_is_dropped() {
    each_line(3, |d, _| {
        let user = d.create();
        let reference = user.grab_ref();
        let dropper = d.spawn(0, move || drop(reference));
        d.stop_at(dropper, Point::CountZero);
        d.run();
        d.on(1, move || kernel::exec(user));
        d.go_on(dropper);
        d.run();
        d.finish();
    });
}

/// References are counted one by one, whoever clones and drops them.
#[test]
fn references_are_counted() {
    each(2, |d, _| {
        let user = d.create();
        let references: Vec<Reference> = (0..3).map(|_| user.grab_ref()).collect();
        let more = references.clone();
        assert_eq!((user.users(), user.count()), (1, 7));
        d.on(1, move || drop(references));
        assert_eq!(user.count(), 4);
        d.on(0, move || kernel::put(user));
        assert_eq!((more[0].users(), more[0].count()), (0, 3));
        d.on(0, move || drop(more));
        assert_eq!((d.total(Counter::MmsFreed), d.lock().oracle.living()), (1, 0));
        d.finish();
    });
}

/// A reference that nobody gave out: what a driver with a bug would give back.
fn forged(mm: &'static Mm<Lying>) -> Reference {
    // SAFETY: a `Reference` is one pointer to an `Mm`, and this one lives for ever, whatever is
    // done to its counts.
    unsafe { std::mem::transmute::<&'static Mm<Lying>, Reference>(mm) }
}

/// T45: `init_mm` is never freed, whoever drops it, and a count does not fall below zero unseen.
#[test]
fn t45_references_that_were_never_given() {
    let d = Director::new(Setup::new(2, Scheme::Shootdown, 1));
    d.break_rules(&[Complaint::InitMmDropped]);
    d.on(0, || drop(forged(Lying::system().init_mm())));
    assert_eq!(d.lock().complaints, [Complaint::InitMmDropped]);
    assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::MmsLeaked)), (0, 1));
    let below_zero = catch_unwind(AssertUnwindSafe(|| d.on(0, || drop(forged(Lying::system().init_mm())))));
    let report = below_zero.expect_err("the count was zero already");
    let report = report.downcast_ref::<String>().expect("the director tells in words");
    assert!(report.contains("mm_count given back at 0"), "{report}");
}

/// Rule 9: somebody took a lazy CPU's bit out of the mask. The shoot misses that CPU, the last
/// look finds its slot and its TTBR0, and the `Mm` is kept for ever instead of freed. With
/// `lazy_tlb.debug=1` the CPU itself already says so.
#[test]
fn a_slot_that_names_the_dead_keeps_it() {
    use Complaint::{RootStillLoaded, SlotNamesDead};
    for (check, found) in [(false, vec![SlotNamesDead, RootStillLoaded]), (true, vec![RootStillLoaded])] {
        let setup = Setup::new(2, Scheme::Shootdown, 1);
        let d = Director::new(if check { setup.check() } else { setup });
        d.break_rules(&found);
        let user = d.create();
        d.make_lazy(1, &user);
        user.holders().clear_own(CpuId(1));
        d.on(0, move || kernel::put(user));
        assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::MmsLeaked)), (0, 1));
        assert_eq!(d.lock().complaints, found);
        d.finish();
    }
}

/// Rule 9: a CPU that nobody asked stands between MSR and slot on its way out of what dies. Its TTBR0 holds that no more, its
/// slot still names it: enough to keep it.
#[test]
fn a_slot_alone_keeps_the_dead() {
    let d = Director::new(Setup::new(2, Scheme::Shootdown, 1));
    d.break_rules(&[Complaint::SlotNamesDead]);
    let (dies, next) = (d.create(), d.create());
    d.make_lazy(1, &dies);
    let task = d.spawn(1, move || kernel::exec(next));
    d.stop_at(task, Point::RootLoaded);
    d.run();
    assert!(d.is_held(task));
    dies.holders().clear_own(CpuId(1));
    d.on(0, move || kernel::put(dies));
    assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::MmsLeaked)), (0, 1));
    assert_eq!(d.lock().complaints, [Complaint::SlotNamesDead]);
    d.go_on(task);
    d.run();
    d.finish();
}

/// `lazy_tlb.debug=1`: a CPU whose TTBR0 holds what dies says so although neither its slot nor its shadow does.
#[test]
fn a_root_that_no_slot_names_keeps_the_dead() {
    let d = Director::new(Setup::new(2, Scheme::Shootdown, 1).check());
    d.break_rules(&[Complaint::RootStillLoaded]);
    let user = d.create();
    let root = user.root();
    d.on(1, move || kernel::masked(|| Lying::run(Sequence::LoadRoot, Ttbr::new(root, Asid(3)).0)));
    d.on(0, move || kernel::put(user));
    assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::MmsLeaked)), (0, 1));
    assert_eq!(d.lock().complaints, [Complaint::RootStillLoaded]);
    d.finish();
}

/// A task on CPU 0 that runs in an `Mm` without being its user, and looks on while it dies.
fn intruder(d: &Director, killer: usize) {
    let user = d.create();
    let task = d.spawn(0, move || {
        kernel::masked(|| _ = System::<Lying>::switch_to(None, Some(&user)));
        if killer == 0 {
            drop(user);
        } else {
            kernel::spawn(world(), "killer", killer, move || drop(user));
        }
        while world().lock().complaints.is_empty() {
            Lying::relax();
        }
        // Its Mm is kept for ever, and so is it: it could switch nowhere without the borrow it lost.
        kernel::stand_still();
    });
    d.run();
    assert!(d.is_held(task));
}

/// Rule 9: the last reference goes while a task still runs in the `Mm`, on this CPU or another.
#[test]
fn the_owner_of_the_dead_keeps_it() {
    for (killer, complaint) in [(0, Complaint::OwnMmDropped), (1, Complaint::ShotOwner)] {
        let d = Director::new(Setup::new(2, Scheme::Shootdown, 1));
        d.break_rules(&[complaint]);
        intruder(&d, killer);
        assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::MmsLeaked)), (0, 1));
        assert_eq!(d.lock().complaints, [complaint]);
    }
}
