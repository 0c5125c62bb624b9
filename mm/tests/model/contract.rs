//! The exact operations of each thing the mm layer does.
//!
//! The expected lists are what the architecture and the project's rules 1, 2 and 6 ask for, written
//! out by hand: a barrier that is lost, added or moved in `mm` shows here first.

use mm::Op::{DsbIsh, DsbIshst, DsbNsh, DsbNshst, Isb, MsrTtbr0};
use mm::Sequence::{self, *};
use mm::pte::{ENTRIES, Protection};
use mm::{Counter, FlushMode, Machine, Mm, Op, Page, Scheme, Ttbr};

use crate::machine::director::{Director, each};
use crate::machine::kernel::{self, masked};
use crate::machine::memory::POISON;
use crate::machine::user::{self, pages, store};
use crate::machine::{Lying, Setup, World, world};

/// What runs while `what` does. Nobody else does anything meanwhile.
fn ran<T>(what: impl FnOnce() -> T) -> (Vec<(Sequence, u64)>, T) {
    world().lock().timeline.take_ran();
    let result = what();
    (world().lock().timeline.take_ran(), result)
}

fn switch(prev: Option<&Mm<Lying>>, next: Option<&Mm<Lying>>) -> Vec<(Sequence, u64)> {
    ran(|| Lying::system().transition(prev, next)).0
}

/// The operand of `LoadRoot` for an address space under the number it has now.
fn root(mm: &Mm<Lying>) -> (Sequence, u64) {
    (LoadRoot, Ttbr::new(mm.root(), mm.context().asid().expect("it runs")).0)
}

fn init() -> (Sequence, u64) {
    (LoadRoot, Ttbr::new(Lying::system().init_mm().root(), mm::Asid::INIT).0)
}

fn plain(sequence: Sequence) -> (Sequence, u64) {
    (sequence, 0)
}

/// ASID in 63:48, VA\[55:12\] in 43:0 (Arm ARM C5.5).
fn at(sequence: Sequence, mm: &Mm<Lying>, page: u64) -> (Sequence, u64) {
    (sequence, u64::from(mm.context().asid().expect("it runs").0) << 48 | page)
}

/// What a flush runs on the only CPU that may have entries: where the hardware tells all CPUs, and
/// where only holders are asked.
fn flush(world: &World, what: (Sequence, u64)) -> Vec<(Sequence, u64)> {
    if world.setup.config.flush == FlushMode::Broadcast {
        return vec![plain(PublishEntries), what, plain(Complete)];
    }
    let local = match what.0 {
        InvalidateLeaf => InvalidateLeafLocal,
        InvalidateWalk => InvalidateWalkLocal,
        InvalidateAsid => InvalidateAsidLocal,
        other => unreachable!("{other:?} invalidates nothing everywhere"),
    };
    vec![plain(PublishAndLook), (local, what.1), plain(CompleteLocal)]
}

/// What each sequence is made of. ISB then DSB NSH after the MSR: the ISB makes the write govern
/// later walks, the DSB ends those of the old tables (rule R_LFHQG as Linux's KVM cites it).
/// Broadcast TLBIs complete by DSB ISH, local ones by DSB NSH.
#[test]
fn sequences() {
    let expected: &[(Sequence, &[Op])] = &[
        (LoadRoot, &[MsrTtbr0, Isb, DsbNsh]),
        (PublishHolder, &[DsbIsh]),
        (PublishAsid, &[DsbIsh]),
        (PublishEntries, &[DsbIshst]),
        (InvalidateLeaf, &[Op::TlbiVale1is]),
        (InvalidateWalk, &[Op::TlbiVae1is]),
        (InvalidateAsid, &[Op::TlbiAside1is]),
        (PublishAndLook, &[DsbIsh]),
        (InvalidateLeafRange, &[Op::TlbiRvale1is]),
        (InvalidateWalkRange, &[Op::TlbiRvae1is]),
        (InvalidateLeafLocal, &[Op::TlbiVale1]),
        (InvalidateWalkLocal, &[Op::TlbiVae1]),
        (InvalidateLeafRangeLocal, &[Op::TlbiRvale1]),
        (InvalidateWalkRangeLocal, &[Op::TlbiRvae1]),
        (InvalidateAsidLocal, &[Op::TlbiAside1]),
        (CompleteLocal, &[DsbNsh]),
        (RefreshLeaf, &[DsbNshst, Op::TlbiVale1, DsbNsh]),
        (Complete, &[DsbIsh]),
        (FlushLocal, &[Op::TlbiVmalle1, DsbNsh, Isb]),
        (TaskSwitch, &[DsbIsh]),
    ];
    for (sequence, ops) in expected {
        assert_eq!(sequence.ops(), *ops, "{sequence:?}");
    }
    assert_eq!(Sequence::ALL.len(), expected.len(), "a sequence nobody wrote down here");
}

/// Rule 1: own mask bit and DSB (first time only), MSR with its barriers, slot. Rule 8: from lazy
/// back to the same `Mm` nothing at all.
#[test]
fn switches() {
    each(1, |d, scheme| {
        d.on(0, move || {
            let (a, b) = (kernel::create(), kernel::create());
            assert_eq!(switch(None, Some(&a)), [plain(PublishHolder), plain(PublishAsid), root(&a)], "first time");
            assert_eq!(switch(Some(&a), Some(&a)), [plain(TaskSwitch)], "two threads of one Mm");
            let to_other = switch(Some(&a), Some(&b));
            assert_eq!(to_other, [plain(TaskSwitch), plain(PublishHolder), plain(PublishAsid), root(&b)]);
            assert_eq!(switch(Some(&b), Some(&a)), [plain(TaskSwitch), root(&a)], "bit and number are there");
            let lazy = switch(Some(&a), None);
            assert_eq!(switch(None, None), [], "between kernel threads");
            if scheme == Scheme::Eager {
                assert_eq!(lazy, [plain(TaskSwitch), init()]);
                assert_eq!(switch(None, Some(&a)), [root(&a)]);
            } else {
                assert_eq!(lazy, [plain(TaskSwitch)]);
                assert_eq!(switch(None, Some(&a)), [], "back to the same");
            }
            switch(Some(&a), None);
            assert_eq!(switch(None, Some(&b)), [root(&b)], "to another, from lazy");
            switch(Some(&b), None);
            kernel::put(a);
            kernel::put(b);
        });
        d.finish();
    });
}

/// A shot CPU loads `init_mm`; a CPU that is not lazy on the dead one does nothing.
#[test]
fn shoot() {
    let d = Director::new(Setup::new(2, Scheme::Shootdown, 3));
    let other = d.create();
    for lazy in [true, false] {
        let user = d.create();
        d.make_lazy(1, &user);
        if !lazy {
            d.make_lazy(1, &other);
        }
        // It never had a page: the teardown invalidates nothing.
        let expected = d.on(0, move || if lazy { vec![init()] } else { vec![] });
        assert_eq!(d.on(0, move || ran(|| drop(user)).0), expected);
    }
    d.on(0, move || kernel::put(other));
    d.finish();
}

/// Rule 7: the CPU that ends a generation forgets everything before it loads a new number.
#[test]
fn rollover() {
    let d = Director::new(Setup::new(1, Scheme::Shootdown, 3).asid_bits(2));
    d.on(0, || {
        let users: Vec<_> = (0..4).map(|_| kernel::create()).collect();
        switch(None, Some(&users[0]));
        switch(Some(&users[0]), Some(&users[1]));
        switch(Some(&users[1]), Some(&users[2]));
        let last = switch(Some(&users[2]), Some(&users[3]));
        assert_eq!(
            last,
            [plain(TaskSwitch), plain(PublishHolder), plain(PublishAsid), plain(FlushLocal), root(&users[3])]
        );
        // The machine is told which generation begins, the first being 1, and which number is given.
        let about = |counter: Counter| world().lock().about[counter as usize];
        let asid = users[3].context().asid().expect("it runs");
        assert_eq!([about(Counter::AsidRollovers), about(Counter::AsidsGiven)], [2, u64::from(asid.0)]);
        // The one that was loaded kept its number; the others' are free again.
        assert_eq!(switch(Some(&users[3]), Some(&users[2])), [plain(TaskSwitch), plain(PublishAsid), root(&users[2])]);
        switch(Some(&users[2]), None);
        users.into_iter().for_each(kernel::put);
    });
    d.finish();
}

/// Each way to switch is counted as what it is, and the machine is told which root it is about.
#[test]
fn switches_are_counted_and_told() {
    let d = Director::new(Setup::new(1, Scheme::Shootdown, 3));
    d.on(0, || {
        let (a, b) = (kernel::create(), kernel::create());
        let counted = |prev: Option<&Mm<Lying>>, next: Option<&Mm<Lying>>, counter: Counter, about: &Mm<Lying>| {
            let before = Lying::system().total(counter);
            switch(prev, next);
            assert_eq!(Lying::system().total(counter), before + 1, "{counter:?}");
            assert_eq!(world().lock().about[counter as usize], about.root().address().0, "{counter:?}");
        };
        counted(None, Some(&a), Counter::SwitchKernelOther, &a);
        counted(Some(&a), Some(&b), Counter::SwitchUserUser, &b);
        counted(Some(&b), None, Counter::SwitchUserKernel, &b);
        counted(None, Some(&b), Counter::SwitchKernelSame, &b);
        switch(Some(&b), None);
        [a, b].into_iter().for_each(kernel::put);
    });
    d.finish();
}

/// What is named by an entry is complete before, and the entry is published after; nothing is invalidated,
/// since nothing invalid is ever cached. The first page needs a table of each level.
#[test]
fn map() {
    each(1, |d, _| {
        d.on(0, || {
            kernel::exec(kernel::create());
            let user = kernel::own().expect("just entered");
            let mapped = ran(|| user::map(&user, pages(0x400, 0x402), Protection::READ_WRITE)).0;
            assert_eq!(mapped, [], "it is mapped when it is used");
            let touch = |page| ran(|| store(Page::from_number(page), 1).expect("it is mapped")).0;
            assert_eq!(touch(0x400), [plain(PublishEntries); 5], "three tables, the page, the entry");
            assert_eq!(touch(0x401), [plain(PublishEntries); 2], "the page, the entry");
            assert_eq!(touch(0x401), [], "it is there");
            kernel::put(user);
        });
        d.finish();
    });
}

/// Who leaves a dying `Mm` (`lazy_tlb.trim=dying`) loads the next root first. Where flushes ask holders only, it then
/// forgets what it has cached, and only then its bit goes (rule 2).
#[test]
fn trim() {
    for (options, forgets) in [("lazy_tlb.trim=dying", false), ("lazy_tlb.trim=dying tlbi=ipi", true)] {
        let d = Director::new(Setup::new(1, Scheme::Shootdown, 3).options(options));
        d.on(0, move || {
            let (a, b) = (kernel::create(), kernel::create());
            switch(None, Some(&b));
            switch(Some(&b), Some(&a));
            switch(Some(&a), None);
            let whole = at(InvalidateAsidLocal, &a, 0);
            let kept = a.grab_ref();
            kernel::put(a);
            let mut expected = vec![root(&b)];
            expected.extend(if forgets { vec![whole, plain(CompleteLocal)] } else { vec![] });
            assert_eq!(switch(None, Some(&b)), expected, "{options}");
            drop(kept);
            switch(Some(&b), None);
            kernel::put(b);
        });
        d.finish();
    }
}

/// `lazy_tlb.exit=init`: the CPU on which the last user ends does not stay on its root.
#[test]
fn exit_to_init() {
    let d = Director::new(Setup::new(1, Scheme::Shootdown, 3).options("lazy_tlb.exit=init"));
    d.on(0, || {
        let a = kernel::create();
        switch(None, Some(&a));
        assert_eq!(switch(Some(&a), None), [plain(TaskSwitch), init()]);
        kernel::put(a);
    });
    d.finish();
}

/// Rule 6: stores, DSB ISHST, ASID, TLBI, DSB ISH; where only holders are asked, DSB ISH before the
/// mask is read, local TLBI, DSB NSH. Leaf entries only while the table stays; walk caches too when
/// it goes.
#[test]
fn unmap_and_protect() {
    each(1, |d, _| {
        let world = d.world();
        d.on(0, move || {
            let flush = |what| self::flush(world, what);
            kernel::exec(kernel::create());
            let user = kernel::own().expect("just entered");
            user::map(&user, pages(0x400, 0x403), Protection::READ_WRITE);
            (0x400..0x403).for_each(|page| store(Page::from_number(page), 1).expect("it is mapped"));
            let unmapped = ran(|| user::unmap(&user, pages(0x401, 0x402))).0;
            assert_eq!(unmapped, flush(at(InvalidateLeaf, &user, 0x401)));
            let narrowed = ran(|| user::protect(&user, pages(0x400, 0x401), Protection::READ)).0;
            assert_eq!(narrowed[..3], flush(at(InvalidateLeaf, &user, 0x400)));
            user::map(&user, pages(0x600, 0x601), Protection::READ_WRITE);
            store(Page::from_number(0x600), 1).expect("it is mapped");
            let leaf_table = ran(|| user::unmap(&user, pages(0x600, 0x601))).0;
            assert_eq!(leaf_table, flush(at(InvalidateWalk, &user, 0x600)));
            let all_tables = ran(|| user::unmap(&user, pages(0x400, 0x403))).0;
            assert_eq!(all_tables, flush(at(InvalidateAsid, &user, 0)));
            let nothing = ran(|| user::unmap(&user, pages(0x400, 0x403))).0;
            assert_eq!(nothing, [], "nothing was mapped");
            kernel::put(user);
        });
        d.finish();
    });
}

/// The last user's exit invalidates the whole ASID once, after the stores and before any free. With
/// `tlbi.exit=retire` a CPU that is lazy leaves instead; where flushes ask holders only it then
/// forgets what it has, as always when it gives up its bit.
#[test]
fn teardown() {
    each(1, |d, scheme| {
        let world = d.world();
        d.on(0, move || {
            kernel::exec(kernel::create());
            let user = kernel::own().expect("just entered");
            user::map(&user, pages(0x400, 0x402), Protection::READ_WRITE);
            (0x400..0x402).for_each(|page| store(Page::from_number(page), 1).expect("it is mapped"));
            kernel::exit_mm();
            let whole = at(InvalidateAsid, &user, 0);
            let expected = match (world.setup.config.retire, scheme) {
                (false, _) => flush(world, whole),
                (true, Scheme::Eager) => vec![],
                (true, _) => {
                    let forget = [(InvalidateAsidLocal, whole.1), plain(CompleteLocal)];
                    let broadcast = world.setup.config.flush == FlushMode::Broadcast;
                    [&[init()][..], if broadcast { &[] } else { &forget }].concat()
                }
            };
            let all = ran(|| kernel::put(user)).0;
            assert_eq!(all[..expected.len()], expected);
            let broadcasts = |ran: &[(Sequence, u64)]| ran.iter().filter(|ran| ran.0 == InvalidateAsid).count();
            assert_eq!(broadcasts(&all), broadcasts(&expected), "{all:?}");
        });
        d.finish();
    });
}

/// The model knows free frames by their poison, which debug builds write.
#[test]
fn free_frames_are_poisoned() {
    let d = Director::new(Setup::new(1, Scheme::Eager, 0));
    let root = d.on(0, || {
        let user = kernel::create();
        let root = user.root();
        kernel::put(user);
        root
    });
    let table = d.lock().memory.peek(root);
    assert!((0..ENTRIES).all(|word| table.word(word) == POISON));
    assert!(d.on(0, || masked(Lying::irqs_masked)));
    d.finish();
}
