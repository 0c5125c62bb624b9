//! Unmapping, narrowing rights and copying: what was promised gone is gone on every CPU.

use mm::fault::FaultError::{Denied, Unmapped};
use mm::flush::FlushMode;
use mm::pte::Protection;
use mm::{Counter, Page, Point};

use crate::machine::Setup;
use crate::machine::director::{Director, configs, each};
use crate::machine::kernel::{self, User};
use crate::machine::user::{self, load, pages, store};

/// Two pages under one leaf table.
pub(super) const ONE: Page = Page::from_number(0x400);
pub(super) const TWO: Page = Page::from_number(0x401);
/// A page under another leaf table, which hangs from the same table as theirs.
const NEXT: Page = Page::from_number(0x600);
/// A page under other tables at every level but the root.
const FAR: Page = Page::from_number(0x8_4000_0400);

pub(super) fn just(page: Page) -> mm::PageRange {
    page..page.offset(1)
}

const ALL: [Page; 4] = [ONE, TWO, NEXT, FAR];

/// An address space whose pages are mapped and hold their own numbers.
pub(super) fn furnished(d: &Director) -> User {
    let user = d.create();
    let own = user.clone();
    d.on(0, move || {
        ALL.iter().for_each(|&page| user::map(&own, just(page), Protection::READ_WRITE));
        kernel::exec(own);
        ALL.iter().for_each(|page| store(*page, page.number()).expect("it is mapped"));
    });
    user
}

/// A task that runs in `user` on this CPU, reads its pages, sleeps, and goes on when woken.
pub(super) fn reader(d: &Director, cpu: usize, user: &User, again: impl FnOnce() + Send + 'static) -> usize {
    let user = user.clone();
    d.start(cpu, move || {
        kernel::exec(user);
        ALL.iter().for_each(|page| assert_eq!(load(*page), Ok(page.number())));
        kernel::block();
        again();
    })
}

/// Runs in `user` on CPU 0, finds its first page, and unmaps it.
pub(super) fn unmap_from_within(d: &Director, user: &User) {
    let user = user.clone();
    d.on(0, move || {
        kernel::exec(user);
        assert_eq!(load(ONE), Ok(ONE.number()));
        user::unmap(&kernel::own().expect("just entered"), just(ONE));
    });
}

/// Does something to an address space on CPU 2, in a kernel thread that is only a user of it.
fn from_outside(d: &Director, user: &User, what: impl FnOnce(&User) + Send + 'static) {
    let user = user.clone();
    d.on(2, move || {
        what(&user);
        kernel::put(user);
    });
}

fn end(d: Director, user: User) {
    d.on(0, move || kernel::put(user));
    d.finish();
}

/// T29: one CPU unmaps while another is lazy; when that one resumes, the page faults.
#[test]
fn t29_unmapped_while_lazy() {
    each(3, |d, _| {
        let user = furnished(&d);
        let task = reader(&d, 1, &user, || assert_eq!((load(ONE), load(TWO)), (Err(Unmapped), Ok(0x401))));
        from_outside(&d, &user, |user| user::unmap(user, just(ONE)));
        d.resume(task, 1);
        end(d, user);
    });
}

/// T30: tables go with the pages, and are somebody else's at once, while a CPU that walked them is
/// lazy: a leaf table alone, or all tables but the root.
#[test]
fn t30_tables_freed_while_lazy() {
    for gone in [NEXT, FAR] {
        each(3, |d, _| {
            let user = furnished(&d);
            let task = reader(&d, 1, &user, move || assert_eq!((load(gone), load(ONE)), (Err(Unmapped), Ok(0x400))));
            from_outside(&d, &user, move |user| user::unmap(user, just(gone)));
            let other = furnished(&d);
            d.resume(task, 1);
            d.on(0, move || kernel::put(other));
            end(d, user);
        });
    }
}

/// T40: rights are narrowed while one CPU is lazy and another stores all the time.
#[test]
fn t40_narrowed_everywhere() {
    each(4, |d, _| {
        let user = furnished(&d);
        let lazy = reader(&d, 1, &user, || assert_eq!((store(ONE, 1), load(ONE)), (Err(Denied), Ok(0x400))));
        let busy = reader(&d, 3, &user, || {
            while store(TWO, 0x401).is_ok() {}
            assert_eq!(load(TWO), Ok(0x401));
        });
        d.wake(busy, 3);
        from_outside(&d, &user, |user| user::protect(user, pages(0x400, 0x402), Protection::READ));
        d.resume(lazy, 1);
        end(d, user);
    });
}

/// T40: after a fork both sides write, on CPUs that have the old entries cached, and neither sees
/// the other's.
#[test]
fn t40_copied_on_write() {
    each(3, |d, _| {
        let user = furnished(&d);
        let sibling = reader(&d, 1, &user, || assert_eq!((store(ONE, 0xa), load(ONE)), (Ok(()), Ok(0xa))));
        let parent = user.clone();
        let child = d.on(0, move || {
            kernel::exec(parent);
            let child = user::fork(&kernel::own().expect("just entered"));
            assert_eq!((store(TWO, 0xb), load(ONE)), (Ok(()), Ok(0x400)));
            child
        });
        d.wake(sibling, 1);
        d.on(2, move || {
            kernel::exec(child);
            assert_eq!((load(ONE), load(TWO)), (Ok(0x400), Ok(0x401)));
            assert_eq!((store(ONE, 0xc), load(ONE)), (Ok(()), Ok(0xc)));
        });
        end(d, user);
    });
}

/// Break before make: a page is copied for a writer while its sibling reads through the old entry.
#[test]
fn a_copy_under_a_reader() {
    each(3, |d, _| {
        let user = furnished(&d);
        let reading = reader(&d, 1, &user, || while load(ONE) == Ok(0x400) {});
        let parent = user.clone();
        let child = d.on(0, move || user::fork(&parent));
        d.wake(reading, 1);
        let writer = user.clone();
        d.on(2, move || {
            kernel::exec(writer);
            store(ONE, 7).expect("it is mapped");
        });
        d.on(0, move || kernel::put(child));
        end(d, user);
    });
}

/// T42: an address space that never ran is torn down without an invalidation by ASID.
#[test]
fn t42_never_ran() {
    each(2, |d, _| {
        let user = d.create();
        d.on(0, move || {
            user::map(&user, pages(0x400, 0x402), Protection::READ_WRITE);
            kernel::put(user);
        });
        assert_eq!((d.total(Counter::TlbiAsidBroadcast), d.total(Counter::MmsFreed)), (0, 1));
        d.finish();
    });
}

/// T51: an unmap stands between its barrier and the read of the ASID, while another CPU ends the
/// generation and a third runs the `Mm` under a new number. The stores are out before the new
/// number's walks, so what they cached is not stale.
#[test]
fn t51_rollover_within_a_flush() {
    for config in configs() {
        for seed in 0..4 {
            let mut setup = Setup::with(3, config, seed).asid_bits(3);
            // The store leaves its buffer with the barrier and no sooner.
            setup.lies.drain = 0;
            setup.lies.walk_all = 2;
            let d = Director::new(setup);
            let user = furnished(&d);
            // The last CPU that has it loaded leaves, so that its number is not kept.
            (0..2).for_each(|cpu| d.on(cpu, || kernel::exec(kernel::create())));
            let old = user.context().asid();
            let entering = user.clone();
            // Both started before, because who starts a task makes the stores so far visible to it.
            let churner = d.start(2, move || {
                kernel::stand_still();
                let number = || kernel::own().and_then(|own| own.context().asid());
                while number() != old {
                    kernel::exec(kernel::create());
                }
            });
            let task = d.start(1, move || {
                kernel::stand_still();
                kernel::exec(entering);
                let _ = load(ONE);
                kernel::block();
                assert_eq!(load(ONE), Err(Unmapped));
            });
            let own = user.clone();
            let flusher = d.spawn(0, move || {
                user::unmap(&own, just(ONE));
                kernel::put(own);
            });
            d.stop_at(flusher, Point::EntriesPublished);
            d.run();
            d.go_on(churner);
            d.run();
            d.go_on(task);
            d.run();
            assert_ne!(user.context().asid(), old, "it runs under a new number");
            d.go_on(flusher);
            d.run();
            d.resume(task, 1);
            end(d, user);
        }
    }
}

/// The store-buffering race of a flush: a CPU enters the `Mm` for the first time while an unmap stands
/// between two of its steps. Either it is asked, or its walker finds the entry gone.
#[test]
fn a_cpu_enters_within_a_flush() {
    for point in [Point::EntriesPublished, Point::HoldersGuessed] {
        for config in configs().into_iter().filter(|config| config.flush != FlushMode::Broadcast) {
            for seed in 0..6 {
                let mut setup = Setup::with(3, config, seed);
                // The store leaves its buffer with the barrier and no sooner.
                setup.lies.drain = 0;
                setup.lies.walk_all = 2;
                let d = Director::new(setup);
                let user = furnished(&d);
                let entering = user.clone();
                // Started before, because who starts a task makes the stores so far visible to it.
                let task = d.spawn(1, move || {
                    kernel::exec(entering);
                    let _ = load(ONE);
                    kernel::block();
                    assert_eq!(load(ONE), Err(Unmapped));
                });
                d.stop_at(task, Point::BitClear);
                d.run();
                let own = user.clone();
                let flusher = d.spawn(0, move || {
                    user::unmap(&own, just(ONE));
                    kernel::put(own);
                });
                d.stop_at(flusher, point);
                d.run();
                d.go_on(task);
                d.run();
                d.go_on(flusher);
                d.run();
                d.resume(task, 1);
                end(d, user);
            }
        }
    }
}

/// A TLBI is completed only by a DSB on the CPU that issued it: who tears down could be preempted between
/// the two, for no lock is held, and would wait for nothing if it went on elsewhere.
#[test]
fn a_teardown_is_not_moved() {
    for config in configs() {
        for seed in 0..6 {
            let mut setup = Setup::with(3, config, seed);
            setup.lies.land = 0;
            setup.lies.preempt = 2;
            setup.lies.balance = 1;
            let d = Director::new(setup);
            let user = furnished(&d);
            let own = user.clone();
            d.on(1, move || {
                kernel::exec(own);
                ALL.iter().for_each(|page| assert_eq!(load(*page), Ok(page.number())));
            });
            end(d, user);
        }
    }
}
