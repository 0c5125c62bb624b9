//! Flushes that reach only whom they must: `tlbi=ipi`, `tlbi=auto`, `tlbi.exit=retire`.

use mm::fault::FaultError::{Denied, Unmapped};
use mm::pte::Protection;
use mm::{Config, Counter, CpuId, FlushMode, Hardware, Point, Scheme, Target};

use super::flush::{ONE, TWO, furnished, just, reader};
use crate::machine::Setup;
use crate::machine::director::{Director, configs, each};
use crate::machine::kernel::{self, User};
use crate::machine::user::{self, load, pages, store};

/// Runs a scenario in every configuration of these, under some seeds.
fn in_modes(cpus: usize, wanted: impl Fn(&Config) -> bool, scenario: impl Fn(Director, Config)) {
    for config in configs().into_iter().filter(wanted) {
        for seed in 0..6 {
            scenario(Director::new(Setup::with(cpus, config, seed)), config);
        }
    }
}

fn end(d: Director, user: User) {
    d.on(0, move || kernel::put(user));
    d.finish();
}

fn asks_holders(config: &Config) -> bool {
    config.flush != FlushMode::Broadcast
}

/// Broadcast TLBIs of any kind so far.
fn broadcasts(d: &Director) -> u64 {
    use Counter::*;
    [TlbiLeafBroadcast, TlbiWalkBroadcast, TlbiRangeBroadcast, TlbiAsidBroadcast].map(|kind| d.total(kind)).iter().sum()
}

/// T10: a kernel thread has borrowed the `Mm` when a CPU elsewhere flushes, trims and at last gives
/// its own user back. The borrower's CPU flushes and does not unload: the thread goes on using it.
#[test]
fn t10_a_borrower_is_flushed_and_stays() {
    each(3, |d, _| {
        let user = furnished(&d);
        d.make_lazy(1, &user);
        let borrowed = user.clone();
        d.spawn(1, move || {
            kernel::exec(borrowed);
            while load(ONE) == Ok(0x400) {}
            assert_eq!((load(ONE), load(TWO)), (Err(Unmapped), Ok(0x401)));
        });
        let own = user.clone();
        d.spawn(2, move || {
            while !own.holders().holds(CpuId(1)) {
                kernel::yield_now();
            }
            user::unmap(&own, just(ONE));
            kernel::put(own);
        });
        d.run();
        end(d, user);
    });
}

/// T10: the handler comes while a CPU is at every point of borrowing the very `Mm` that is flushed.
#[test]
fn t10_flushed_in_the_middle_of_a_switch() {
    for point in [Point::BitClear, Point::BitSet, Point::AsidSlowPath, Point::RootLoaded, Point::FlushEntered] {
        each(3, |d, _| {
            let user = furnished(&d);
            d.make_lazy(1, &user);
            let other = d.create();
            d.make_lazy(1, &other);
            let borrowed = user.clone();
            let borrower = d.spawn(1, move || {
                kernel::exec(borrowed);
                let found = load(TWO);
                assert!(found == Ok(0x401) || found == Err(Unmapped), "{found:?}");
            });
            d.stop_at(borrower, point);
            d.run();
            let own = user.clone();
            let flusher = d.start(2, move || {
                user::unmap(&own, just(TWO));
                kernel::put(own);
            });
            d.stop_at(flusher, Point::HoldersRead);
            d.go_on(borrower);
            d.run();
            d.go_on(flusher);
            d.run();
            d.on(0, move || kernel::put(other));
            end(d, user);
        });
    }
}

/// T32: threads of one process end on their CPUs, then the last one exits. With the piggyback the
/// flush at teardown is the round that makes all lazy CPUs leave, and the final drop sends none.
#[test]
fn t32_the_teardown_flush_takes_lazies_along() {
    in_modes(
        4,
        |config| config.piggyback,
        |d, config| {
            let user = furnished(&d);
            (1..4).for_each(|cpu| d.make_lazy(cpu, &user));
            d.on(0, move || kernel::put(user));
            let sent = d.lock().flushes;
            assert_eq!((sent, d.lock().shoots), (3, 0), "{config:?}");
            assert_eq!(d.on_init(), [0, 1, 2, 3], "nobody is lazy on it");
            assert_eq!(d.total(Counter::MmsFreed), 1, "so it is free at the drop in every scheme");
            assert_eq!((broadcasts(&d), d.total(Counter::MaskBitsCleared)), (0, 4));
            d.finish();
        },
    );
}

/// After the piggyback the final drop looks again: a kernel thread that keeps a reference lets CPUs
/// become lazy between the two only if it borrows while there are users, and such a CPU is shot.
#[test]
fn t32_the_final_drop_looks_again() {
    in_modes(
        3,
        |config| config.piggyback,
        |d, config| {
            let user = furnished(&d);
            let borrowed = user.clone();
            let reference = user.grab_ref();
            // The last user but one goes; the borrower is the last, and its own teardown leaves it lazy
            // on nothing; the reference outlives both.
            d.make_lazy(2, &user);
            d.on(0, move || kernel::put(user));
            d.on(1, move || kernel::exec(borrowed));
            d.on(0, move || drop(reference));
            assert_eq!(d.total(Counter::MmsFreed), 1, "{config:?}");
            d.finish();
        },
    );
}

/// T39: an address space that one CPU alone has is flushed there alone; when it moves, both are
/// asked; when it is back on one CPU (`auto` trims the other), again one alone.
#[test]
fn t39_one_cpu_alone_is_flushed_alone() {
    in_modes(3, asks_holders, |d, config| {
        let user = furnished(&d);
        let unmap = |page| {
            let own = user.clone();
            move || {
                kernel::exec(own);
                user::unmap(&kernel::own().expect("just entered"), just(page));
            }
        };
        d.on(0, unmap(ONE));
        assert_eq!((d.lock().flushes, broadcasts(&d)), (0, 0));
        d.on(1, unmap(TWO));
        let asked = d.lock().flushes;
        assert_eq!((asked, broadcasts(&d)), (1, 0), "the other CPU, which is idle");
        d.on(1, {
            let own = user.clone();
            move || {
                kernel::exec(own);
                user::map(&kernel::own().expect("just entered"), just(ONE), Protection::READ_WRITE);
                store(ONE, 1).expect("just mapped");
            }
        });
        d.on(1, unmap(ONE));
        let more = if config.flush == FlushMode::Auto { 0 } else { 1 };
        assert_eq!((d.lock().flushes - asked, broadcasts(&d)), (more, 0), "{config:?}");
        end(d, user);
    });
}

/// The teardown's flush under `tlbi=auto` asks a lazy CPU only where plain shootdown would send the SGI anyway, to make it
/// leave; else the hardware tells it.
#[test]
fn auto_sends_no_sgi_where_no_scheme_would() {
    let flushes_by_choice = |config: &Config| config.flush == FlushMode::Auto && !config.retire;
    in_modes(2, flushes_by_choice, |d, config| {
        let user = furnished(&d);
        d.make_lazy(1, &user);
        let lazy = !d.on_init().contains(&1);
        d.on(0, move || kernel::put(user));
        let asks = config.scheme == Scheme::Shootdown && config.target == Target::Mask && config.batch == 0;
        assert!(!lazy || d.lock().flushes == u64::from(asks), "{config:?}: {} asked", d.lock().flushes);
        d.finish();
    });
}

/// T39: a second CPU loads the `Mm`, and its walker reads what it finds, at each point of a flush
/// that may act on "only me". The stores are in their CPU's buffer until its barrier.
#[test]
fn t39_a_second_cpu_comes_while_one_flushes_alone() {
    for point in [Point::HoldersGuessed, Point::EntriesPublished, Point::HoldersRead] {
        for seed in 0..4 {
            for config in configs().into_iter().filter(asks_holders) {
                if point == Point::HoldersGuessed && config.flush != FlushMode::Auto {
                    continue;
                }
                let mut setup = Setup::with(2, config, seed);
                setup.lies.drain = 0;
                setup.lies.walk_all = 2;
                let d = Director::new(setup);
                let user = furnished(&d);
                let own = user.clone();
                let flusher = d.spawn(0, move || {
                    kernel::exec(own);
                    user::unmap(&kernel::own().expect("just entered"), just(ONE));
                    kernel::block();
                });
                d.stop_at(flusher, point);
                d.run();
                assert!(d.is_held(flusher));
                let own = user.clone();
                let reader = d.start(1, move || {
                    kernel::exec(own);
                    let _ = load(TWO);
                    kernel::block();
                    assert_eq!(load(ONE), Err(Unmapped));
                });
                d.go_on(flusher);
                d.run();
                d.resume(reader, 1);
                d.wake(flusher, 0);
                d.run();
                end(d, user);
            }
        }
    }
}

/// An address space whose stores are narrowed or copied under a CPU that stores all the time, in
/// `auto`: that CPU runs it, so the hardware is asked, and nobody is interrupted.
#[test]
fn auto_broadcasts_to_a_cpu_that_runs_it() {
    in_modes(
        3,
        |config| config.flush == FlushMode::Auto,
        |d, _| {
            let user = furnished(&d);
            let busy = reader(&d, 1, &user, || while store(TWO, 0x401).is_ok() {});
            d.wake(busy, 1);
            let own = user.clone();
            d.spawn(0, move || {
                kernel::exec(own);
                let own = kernel::own().expect("just entered");
                while own.holders().snapshot().count() < 2 {
                    kernel::yield_now();
                }
                user::protect(&own, pages(0x400, 0x402), Protection::READ);
                assert_eq!(store(TWO, 1), Err(Denied));
                kernel::put(own);
            });
            d.run();
            end(d, user);
        },
    );
}

/// More rights and new mappings tell nobody: 0 broadcasts, 0 IPIs, in every mode.
#[test]
fn more_rights_are_nobodys_business() {
    each(3, |d, _| {
        let user = furnished(&d);
        let sleeping = reader(&d, 1, &user, || assert_eq!((store(ONE, 9), load(ONE)), (Ok(()), Ok(9))));
        let own = user.clone();
        d.on(2, move || user::protect(&own, just(ONE), Protection::READ));
        let before = (broadcasts(&d), d.lock().flushes);
        let own = user.clone();
        d.on(2, move || {
            user::protect(&own, just(ONE), Protection::READ_WRITE);
            user::map(&own, pages(0x800, 0x810), Protection::READ_WRITE);
            user::map_shared(&own, pages(0x810, 0x820), Protection::READ_WRITE);
            kernel::put(own);
        });
        assert_eq!((broadcasts(&d), d.lock().flushes), before);
        d.resume(sleeping, 1);
        end(d, user);
    });
}

/// The bar of `auto`: an address space that never left its CPU, from fork to exit, costs 0
/// broadcasts and 0 IPIs.
#[test]
fn auto_never_leaves_the_cpu() {
    in_modes(
        3,
        |config| config.flush == FlushMode::Auto,
        |d, config| {
            let user = furnished(&d);
            let own = user.clone();
            d.on(0, move || {
                kernel::exec(own);
                let own = kernel::own().expect("just entered");
                for _ in 0..3 {
                    let child = user::fork(&own);
                    store(ONE, 1).expect("it is mapped");
                    let parent = kernel::leave();
                    kernel::exec(child);
                    store(ONE, 2).expect("it is mapped");
                    // The child's own exec, and its exit.
                    kernel::exec(kernel::create());
                    kernel::exit_mm();
                    kernel::exec(parent);
                }
                kernel::put(own);
            });
            assert_eq!((broadcasts(&d), d.lock().flushes), (0, 0), "{config:?}");
            end(d, user);
        },
    );
}

/// `tlbi.exit=retire`: lazy CPUs leave before the first table is freed, and no TLBI is issued where
/// the hardware would tell all CPUs. The number is used by nobody else.
#[test]
fn retired_instead_of_invalidated() {
    in_modes(
        3,
        |config| config.retire,
        |d, config| {
            let user = furnished(&d);
            (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
            let before = broadcasts(&d);
            d.on(0, move || kernel::put(user));
            assert_eq!((d.total(Counter::AsidsRetired), broadcasts(&d) - before), (1, 0), "{config:?}");
            assert_eq!((d.total(Counter::MmsFreed), d.on_init().len()), (1, 3));
            let local = if asks_holders(&config) && config.scheme == Scheme::Shootdown { 3 } else { 0 };
            assert_eq!(d.total(Counter::TlbiAsidLocal), local, "only who gives up its bit forgets");
            d.finish();
        },
    );
}

/// The same while a reference keeps the struct: the final drop finds no holder and sends nothing.
#[test]
fn retired_long_before_the_final_drop() {
    in_modes(
        3,
        |config| config.retire && config.scheme == Scheme::Shootdown,
        |d, _| {
            let user = furnished(&d);
            (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
            let reference = user.grab_ref();
            d.on(0, move || kernel::put(user));
            let sent = d.lock().shoots;
            assert_eq!((sent, reference.context().asid(), reference.holders().snapshot().count()), (2, None, 0));
            d.on(1, move || drop(reference));
            assert_eq!((d.lock().shoots - sent, d.total(Counter::MmsFreed)), (0, 1));
            d.finish();
        },
    );
}

/// A retired number comes back after a rollover, and hits nothing of its former owner.
#[test]
fn a_retired_number_comes_back() {
    for config in configs().into_iter().filter(|config| config.retire) {
        let d = Director::new(Setup::with(2, config, 5).asid_bits(2));
        let first = super::asids::churn(&d, 1);
        let before = d.total(Counter::AsidRollovers);
        while super::asids::churn(&d, 1) != first || d.total(Counter::AsidRollovers) == before {}
        d.finish();
    }
}

/// T41: what ranges reach, on the machine that decodes them: runs that cross tables, odd and even.
#[test]
fn t41_ranges_are_gone_on_every_cpu() {
    for count in [1, 2, 3, 31, 32, 33] {
        for config in configs() {
            let mut setup = Setup::with(2, config, count);
            setup.frames = 160;
            setup.hardware = Hardware { tlbi_range: true, tlbi_ttl: count % 2 == 0, ..setup.hardware };
            let d = Director::new(setup);
            let user = d.create();
            let run = pages(0x5f0, 0x5f0 + count);
            let (own, mapped) = (user.clone(), run.clone());
            let fill = move || {
                user::map(&own, pages(0x5ef, mapped.end.number() + 1), Protection::READ_WRITE);
                kernel::exec(own);
                for page in 0x5ef..mapped.end.number() + 1 {
                    store(mm::Page::from_number(page), page).expect("it is mapped");
                }
            };
            d.on(0, fill);
            let (start, last) = (run.start, mm::Page::from_number(run.end.number() - 1));
            let own = user.clone();
            let sleeping = d.start(1, move || {
                kernel::exec(own);
                assert_eq!((load(start), load(last)), (Ok(start.number()), Ok(last.number())));
                kernel::block();
                assert_eq!((load(start), load(last)), (Err(Unmapped), Err(Unmapped)));
                assert_eq!(load(mm::Page::from_number(0x5ef)), Ok(0x5ef));
            });
            let own = user.clone();
            d.on(0, move || {
                user::unmap(&own, run);
                kernel::put(own);
            });
            let ranges = d.total(Counter::TlbiRangeBroadcast) + d.total(Counter::TlbiRangeLocal);
            // In `auto` the idle CPUs forget the whole ASID.
            assert_eq!(ranges > 0, count > 1 && config.flush != FlushMode::Auto, "{count} pages in {config:?}");
            d.resume(sleeping, 1);
            end(d, user);
        }
    }
}

/// The erratum's work-around: each broadcast TLBI and its DSB twice.
#[test]
fn an_erratum_repeats_broadcasts() {
    let count = |repeat_tlbi| {
        let mut setup = Setup::new(1, Scheme::Shootdown, 1);
        setup.hardware.repeat_tlbi = repeat_tlbi;
        let d = Director::new(setup);
        let user = furnished(&d);
        let own = user.clone();
        d.lock().timeline.take_ran();
        d.on(0, move || {
            user::unmap(&own, just(ONE));
            kernel::put(own);
        });
        let ran = d.lock().timeline.take_ran();
        let flush: Vec<_> = ran.into_iter().map(|ran| ran.0).filter(|ran| *ran != mm::Sequence::LoadRoot).collect();
        end(d, user);
        flush
    };
    use mm::Sequence::{Complete, InvalidateLeaf, PublishEntries};
    assert_eq!(count(false), [PublishEntries, InvalidateLeaf, Complete]);
    assert_eq!(count(true), [PublishEntries, InvalidateLeaf, Complete, InvalidateLeaf, Complete]);
}

/// A shared page that nobody has used is in no TLB: taking it away, or its rights, tells nobody. A
/// page that was used is flushed like any other.
#[test]
fn what_was_never_used_is_not_invalidated() {
    const SHARED: u64 = 0x402;
    each(2, |d, _| {
        let user = furnished(&d);
        let own = user.clone();
        let flushes = d.on(0, move || {
            kernel::exec(own);
            let own = kernel::own().expect("just entered");
            user::map_shared(&own, pages(SHARED, SHARED + 3), Protection::READ_WRITE);
            store(mm::Page::from_number(SHARED + 2), 5).expect("it is mapped");
            let flushed = |what: &dyn Fn()| {
                crate::machine::world().lock().timeline.take_ran();
                what();
                let ran = crate::machine::world().lock().timeline.take_ran();
                ran.iter().filter(|ran| format!("{:?}", ran.0).starts_with("Invalidate")).count()
            };
            let narrowed = flushed(&|| user::protect(&own, pages(SHARED, SHARED + 2), Protection::READ));
            let unmapped = flushed(&|| user::unmap(&own, pages(SHARED, SHARED + 2)));
            let used = flushed(&|| user::unmap(&own, pages(SHARED + 2, SHARED + 3)));
            kernel::put(own);
            [narrowed, unmapped, used]
        });
        assert_eq!(flushes, [0, 0, 1]);
        end(d, user);
    });
}

/// A table whose pages nobody has used may still be in a walk cache: it goes with an invalidation.
#[test]
fn a_table_of_unused_pages_is_invalidated() {
    each(2, |d, _| {
        let user = furnished(&d);
        let own = user.clone();
        let sleeping = reader(&d, 1, &user, || assert_eq!(load(ONE), Ok(0x400)));
        d.on(0, move || {
            user::map_shared(&own, pages(0xa00, 0xa02), Protection::READ_WRITE);
            // Walkers have read the link to the new table, and the entries that they may not keep.
            kernel::exec(own);
            assert_eq!(load(ONE), Ok(0x400));
            let own = kernel::own().expect("just entered");
            user::unmap(&own, pages(0xa00, 0xa02));
            let other = kernel::create();
            user::map(&other, pages(0x400, 0x402), Protection::READ_WRITE);
            kernel::put(other);
            kernel::put(own);
        });
        d.resume(sleeping, 1);
        end(d, user);
    });
}

/// Rule 2 by itself: a CPU that leaves through the shoot, having never been flushed, forgets the
/// entries of its ASID before its bit goes. The oracle looks at every step.
#[test]
fn a_bit_goes_after_the_entries() {
    in_modes(3, asks_holders, |d, _| {
        let user = furnished(&d);
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        assert_eq!(user.holders().snapshot(), (0..3).map(CpuId).collect());
        d.on(2, || ());
        end(d, user);
    });
}
