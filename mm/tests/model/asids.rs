//! The ASID allocator with so few numbers that generations end all the time.

use mm::fault::FaultError::Unmapped;
use mm::pte::Protection;
use mm::{Asid, Counter, Page, Point};

use super::flush::{furnished, reader, unmap_from_within};
use crate::machine::Setup;
use crate::machine::director::{Director, configs};
use crate::machine::kernel::{self, User};
use crate::machine::user::{self, load, pages, store};

const ONE: Page = Page::from_number(0x400);

/// Runs a scenario on two CPUs with three numbers, under each scheme and some seeds.
pub(super) fn scarce(scenario: impl Fn(Director)) {
    for (index, config) in configs().into_iter().enumerate() {
        for seed in 0..3 {
            scenario(Director::new(Setup::with(2, config, 3 * index as u64 + seed).asid_bits(2)));
        }
    }
}

/// Finds its page, sleeps, and finds it unmapped.
pub(super) fn sees_it_go() {
    assert_eq!(load(ONE), Ok(0x400));
    kernel::block();
    assert_eq!(load(ONE), Err(Unmapped));
}

/// Runs a new address space on this CPU, which ends it; gives the number it ran under.
pub(super) fn churn(d: &Director, cpu: usize) -> Asid {
    d.on(cpu, || {
        let user = kernel::create();
        user::map(&user, pages(0x400, 0x401), Protection::READ_WRITE);
        let own = user.clone();
        kernel::exec(own);
        // Whoever had the number before may have left entries for this page.
        assert_eq!(load(ONE), Ok(0), "a new page is empty");
        store(ONE, 0xdead).expect("it is mapped");
        let asid = user.context().asid().expect("it runs");
        kernel::put(user);
        asid
    })
}

/// The page goes on CPU 0, then the task looks again on CPU 1, and all ends.
fn unmap_elsewhere(d: Director, user: User, task: usize) {
    let own = user.clone();
    d.on(0, move || {
        user::unmap(&own, ONE..ONE.offset(1));
        kernel::put(own);
    });
    d.resume(task, 1);
    d.on(0, move || kernel::put(user));
    d.finish();
}

/// Ends so many generations.
pub(super) fn roll_over(d: &Director, cpu: usize, times: u64) {
    let before = d.total(Counter::AsidRollovers);
    while d.total(Counter::AsidRollovers) < before + times {
        churn(d, cpu);
    }
}

/// T24: a CPU starts on `init_mm` under ASID 0 and takes its first number from the generation that
/// is then current, with nothing of the earlier ones in its TLB.
#[test]
fn t24_a_cpu_that_comes_late() {
    scarce(|d| {
        assert_eq!(d.on_init(), [0, 1]);
        roll_over(&d, 0, 2);
        let asid = churn(&d, 1);
        assert!((1..4).contains(&asid.0));
        d.finish();
    });
}

/// A CPU that has not switched since a generation ended goes straight into an `Mm` that has its number already: it forgets
/// what it knows of that number first.
#[test]
fn t24_a_cpu_comes_late_into_a_number_of_the_new_generation() {
    scarce(|d| {
        let user = furnished(&d);
        let old = user.context().asid().expect("it ran");
        let own = user.clone();
        d.on(1, move || {
            kernel::exec(own);
            assert_eq!(load(ONE), Ok(0x400));
            kernel::exec(kernel::create());
        });
        roll_over(&d, 0, 1);
        let heir = loop {
            let heir = d.on(0, || {
                let user = kernel::create();
                user::map(&user, pages(0x400, 0x401), Protection::READ_WRITE);
                kernel::exec(user.clone());
                user
            });
            if heir.context().asid() == Some(old) {
                break heir;
            }
            d.on(0, move || kernel::put(heir));
        };
        d.on(1, move || {
            kernel::exec(heir);
            assert_eq!(load(ONE), Ok(0), "a new page is empty");
            let asid = kernel::own().expect("just entered").context().asid();
            assert_eq!(asid, Some(old), "it runs elsewhere under this number");
        });
        d.on(0, move || kernel::put(user));
        d.finish();
    });
}

/// T25: a CPU is lazy on an `Mm` of an old generation, which runs elsewhere meanwhile. It keeps its
/// number, so an unmap reaches both.
#[test]
fn t25_lazy_across_a_rollover() {
    scarce(|d| {
        let user = furnished(&d);
        let task = reader(&d, 1, &user, || assert_eq!(load(ONE), Err(Unmapped)));
        let lazy = !d.on_init().contains(&1);
        let number = user.context().asid();
        roll_over(&d, 0, 3);
        unmap_from_within(&d, &user);
        assert!(!lazy || user.context().asid() == number, "reserved while a CPU has it loaded");
        d.resume(task, 1);
        d.on(0, move || kernel::put(user));
        d.finish();
    });
}

/// T26: generations end while a CPU is lazy; it resumes the same `Mm` without a TTBR0 write, and
/// finds its own pages.
#[test]
fn t26_resumes_across_a_rollover() {
    scarce(|d| {
        let user = furnished(&d);
        let task = reader(&d, 1, &user, || {
            for _ in 0..3 {
                assert_eq!(load(ONE), Ok(0x400));
                kernel::block();
            }
        });
        for _ in 0..3 {
            roll_over(&d, 0, 2);
            d.resume(task, 1);
        }
        d.resume(task, 1);
        d.on(0, move || kernel::put(user));
        d.finish();
    });
}

/// T27: generations end while `Mm`s die that the other CPU is lazy on. Dead ones keep a number at
/// most for each CPU, so there always is one left.
#[test]
fn t27_rollover_and_death() {
    scarce(|d| {
        for _ in 0..8 {
            let user = d.create();
            d.make_lazy(1, &user);
            d.spawn(0, move || kernel::put(user));
            d.spawn(1, || kernel::exec(kernel::create()));
            d.run();
        }
        assert!(d.total(Counter::AsidRollovers) > 1);
        d.finish();
    });
}

/// T28: a new `Mm` gets a dead one's number and maps the same page; `churn` looks at what it finds.
/// Here on a CPU that still has the dead one's entries.
#[test]
fn t28_a_dead_number_comes_back() {
    scarce(|d| {
        let first = churn(&d, 1);
        roll_over(&d, 0, 1);
        while churn(&d, 1) != first {}
        d.finish();
    });
}

/// The race of the first ASID allocators for Arm ("Fix ASID version switch"): a lazy CPU returns
/// to its task, writing nothing, while another CPU is in the middle of ending the generation. Both
/// orders: its CPU is marked already, or not yet.
#[test]
fn a_lazy_cpu_returns_under_a_stale_asid() {
    for marked in [1, 2] {
        scarce(|d| {
            let user = furnished(&d);
            let task = reader(&d, 1, &user, sees_it_go);
            let before = d.total(Counter::AsidRollovers);
            let roller = loop {
                let roller = d.spawn(0, || kernel::exec(kernel::create()));
                d.stop_at(roller, Point::RolloverStep);
                d.run();
                if d.is_held(roller) {
                    break roller;
                }
            };
            assert_eq!(d.total(Counter::AsidRollovers), before + 1);
            if marked == 2 {
                d.stop_at(roller, Point::RolloverStep);
                d.go_on(roller);
                d.run();
            }
            d.resume(task, 1);
            d.go_on(roller);
            d.run();
            roll_over(&d, 0, 1);
            unmap_elsewhere(d, user, task);
        });
    }
}

/// Two CPUs lazy on one `Mm` at the end of a generation: both reservations move with it.
#[test]
fn two_lazy_cpus_keep_one_number() {
    for config in configs() {
        for seed in 0..2 {
            let d = Director::new(Setup::with(3, config, seed).asid_bits(3));
            let user = furnished(&d);
            let tasks = [1, 2].map(|cpu| reader(&d, cpu, &user, sees_it_go));
            roll_over(&d, 0, 1);
            d.resume(tasks[0], 1);
            roll_over(&d, 0, 2);
            d.resume(tasks[1], 2);
            let own = user.clone();
            d.on(0, move || {
                user::unmap(&own, ONE..ONE.offset(1));
                kernel::put(own);
            });
            d.wake(tasks[0], 1);
            d.resume(tasks[1], 2);
            d.on(0, move || kernel::put(user));
            d.finish();
        }
    }
}

/// CPUs 1 and 2 are lazy on one `Mm` at the end of a generation. CPU 1 takes the number on into the next, and leaves: at the
/// end of that one CPU 2 still has it loaded, so it is nobody else's, nor does the `Mm` get another.
#[test]
fn a_lazy_cpu_keeps_the_number_that_another_took_on() {
    for config in configs() {
        for seed in 0..2 {
            let d = Director::new(Setup::with(3, config, seed).asid_bits(3));
            let user = furnished(&d);
            let [first, second] = [1, 2].map(|cpu| reader(&d, cpu, &user, || assert_eq!(load(ONE), Err(Unmapped))));
            let lazy = !d.on_init().contains(&2);
            let number = user.context().asid();
            roll_over(&d, 0, 1);
            churn(&d, 1);
            let own = user.clone();
            d.on(1, move || kernel::exec(own));
            churn(&d, 1);
            roll_over(&d, 0, 1);
            unmap_from_within(&d, &user);
            assert!(!lazy || user.context().asid() == number, "reserved while a CPU has it loaded");
            d.wake(first, 1);
            d.resume(second, 2);
            d.on(0, move || kernel::put(user));
            d.finish();
        }
    }
}

/// T52: an `Mm` whose number is lost gets another one while a second CPU is on its way into it, its bit in the mask set, its
/// number not taken yet. Were the mask emptied with the new number, as no CPU has the `Mm` loaded, that bit would be lost.
#[test]
fn t52_a_new_number_while_a_cpu_is_on_its_way() {
    for config in configs() {
        for seed in 0..2 {
            let d = Director::new(Setup::with(3, config, seed).asid_bits(3));
            let user = furnished(&d);
            let old = user.context().asid().expect("it ran");
            d.on(0, || kernel::exec(kernel::create()));
            roll_over(&d, 0, 1);
            while churn(&d, 0) != old {}
            let entering = user.clone();
            let task = d.spawn(1, move || {
                kernel::exec(entering);
                assert_eq!(load(ONE), Ok(0x400));
                kernel::block();
                assert_eq!(load(ONE), Err(Unmapped));
            });
            d.stop_at(task, Point::BitSet);
            d.run();
            let own = user.clone();
            d.on(2, move || {
                kernel::exec(own);
                assert_eq!(load(ONE), Ok(0x400));
            });
            assert_ne!(user.context().asid(), Some(old), "the number was lost");
            d.go_on(task);
            d.run();
            unmap_elsewhere(d, user, task);
        }
    }
}

/// Usable numbers = CPUs + 1, every CPU always lazy on another `Mm`, all switching at once: the
/// allocator never runs dry.
#[test]
fn numbers_always_suffice() {
    for seed in 0..2 {
        for config in configs() {
            let d = Director::new(Setup::with(2, config, seed).asid_bits(2));
            let keep = [d.create(), d.create(), d.create()];
            for round in 0..8 {
                for cpu in 0..2 {
                    let user = keep[(round + cpu) % 3].clone();
                    d.spawn(cpu, move || kernel::exec(user));
                    d.spawn(cpu, || kernel::exec(kernel::create()));
                }
                d.run();
            }
            d.on(0, move || keep.map(kernel::put));
            d.finish();
        }
    }
}
