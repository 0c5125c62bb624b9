//! How long the dead wait: for a batch, for a CPU to leave, for an epoch, and no longer nor shorter.

use mm::{Counter, Machine, Point, Scheme};

use super::modifiers::under;
use crate::machine::director::Director;
use crate::machine::kernel;
use crate::machine::{Lying, Setup};

const MILLISECOND: u64 = 1_000_000;

/// A machine whose steps take no time: it passes by [`pass`] alone.
fn timeless(cpus: usize, options: &'static str) -> Setup {
    let mut setup = Setup::new(cpus, Scheme::Refcount, 7).options(options);
    setup.step = 0;
    setup
}

/// Time passes until something is due that somebody waits for. Says whether anybody does.
fn pass(d: &Director) -> bool {
    let passes = d.pass_time();
    d.run();
    passes
}

/// CPU 0 does nothing until then.
fn until(d: &Director, time: u64) {
    d.on(0, move || {
        while Lying::now_ns() < time {
            kernel::yield_now();
        }
    });
}

/// A batch of one waits for nobody.
#[test]
fn a_batch_of_one_is_freed_at_once() {
    for seed in 0..4 {
        let options = "lazy_tlb=shootdown lazy_tlb.batch=1";
        let d = Director::new(Setup::new(2, Scheme::Refcount, seed).options(options).slow());
        let user = d.create();
        d.make_lazy(1, &user);
        d.on(0, move || kernel::put(user));
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.finish();
    }
}

/// The reaper comes for a batch that was filled meanwhile, and finds the next, which is younger: it comes back for it.
#[test]
fn t21_a_younger_batch_waits_as_long() {
    for seed in 0..4 {
        let mut setup = Setup::new(2, Scheme::Refcount, seed).options("lazy_tlb=shootdown lazy_tlb.batch=3");
        setup.step = MILLISECOND / 1000;
        let d = Director::new(setup);
        let start = Lying::now_ns();
        let until = |time: u64| until(&d, start + time * MILLISECOND);
        let one_dies = || {
            let user = d.create();
            d.make_lazy(1, &user);
            d.on(0, move || kernel::put(user));
        };
        one_dies();
        until(4);
        one_dies();
        one_dies();
        assert_eq!(d.total(Counter::MmsFreed), 3);
        until(6);
        one_dies();
        until(15);
        let now = Lying::now_ns() - start;
        assert_eq!(d.total(Counter::MmsFreed), 3, "{now} ns: what died after 6 ms has not waited 10");
        until(40);
        assert_eq!(d.total(Counter::MmsFreed), 4);
        d.finish();
    }
}

/// Whoever comes at the very moment finds that its time has come.
#[test]
fn t21_nobody_waits_beyond_the_moment() {
    let d = Director::new(timeless(2, "lazy_tlb=shootdown lazy_tlb.batch=3"));
    let user = d.create();
    d.make_lazy(1, &user);
    d.on(0, move || kernel::put(user));
    assert!(pass(&d));
    assert_eq!((Lying::now_ns(), d.total(Counter::MmsFreed)), (10 * MILLISECOND, 1));
    d.finish();
}

/// One dies while the reaper frees a batch: it was not the first to wait, and has asked nobody to come for it.
#[test]
fn t21_who_comes_while_a_batch_is_freed_does_not_wait_longer() {
    let d = Director::new(timeless(3, "lazy_tlb=shootdown lazy_tlb.batch=3"));
    let (first, second) = (d.create(), d.create());
    d.make_lazy(1, &first);
    d.make_lazy(2, &second);
    d.on(0, move || kernel::put(first));
    let reaper = d.lock().reaper.expect("made with the machine");
    d.stop_at(reaper, Point::WaitingTaken);
    assert!(pass(&d) && d.is_held(reaper));
    d.on(1, move || kernel::put(second));
    d.go_on(reaper);
    d.run();
    assert_eq!((Lying::now_ns(), d.total(Counter::MmsFreed)), (10 * MILLISECOND, 1));
    assert!(pass(&d), "somebody comes for the second");
    assert_eq!((Lying::now_ns(), d.total(Counter::MmsFreed)), (20 * MILLISECOND, 2));
    d.finish();
}

/// T34: nor is it shot before its time, whenever that begins.
#[test]
fn t34_the_hybrid_does_not_shoot_early() {
    const PATIENCE: u64 = 2_000_000;
    for seed in 0..4 {
        let d = Director::new(Setup::new(2, Scheme::Refcount, seed).options("lazy_tlb=handoff lazy_tlb.shoot_after=2"));
        until(&d, 2 * PATIENCE);
        let user = d.create();
        d.make_lazy(1, &user);
        let died = Lying::now_ns();
        d.on(0, move || {
            kernel::put(user);
            while Lying::system().total(Counter::MmsFreed) == 0 {
                kernel::yield_now();
            }
        });
        let waited = Lying::now_ns() - died;
        assert!(waited >= PATIENCE, "shot after {waited} ns");
        let latency = d.total(Counter::FreeLatency);
        assert!((PATIENCE..=waited).contains(&latency), "{latency} of {waited} ns from death to free");
        d.finish();
    }
}

/// T34: two die one after the other; the reaper shoots for the first, and comes back for the second.
#[test]
fn t34_the_hybrid_comes_back_for_the_younger() {
    const PATIENCE: u64 = 2_000_000;
    for seed in 0..4 {
        let mut setup = Setup::new(3, Scheme::Refcount, seed).options("lazy_tlb=handoff lazy_tlb.shoot_after=2");
        setup.step = PATIENCE / 10_000;
        let d = Director::new(setup);
        for cpu in [1, 2] {
            let user = d.create();
            d.make_lazy(cpu, &user);
            d.on(0, move || kernel::put(user));
            until(&d, Lying::now_ns() + PATIENCE / 4);
        }
        assert_eq!(d.total(Counter::MmsFreed), 0);
        while d.total(Counter::MmsFreed) == 0 {
            until(&d, Lying::now_ns() + PATIENCE / 100);
        }
        assert_eq!(d.count(2, Counter::ShootFoundLazy), 0, "the younger has time");
        until(&d, Lying::now_ns() + 4 * PATIENCE);
        assert_eq!((d.total(Counter::MmsFreed), d.count(2, Counter::ShootFoundLazy)), (2, 1));
        d.finish();
    }
}

/// Want of memory does not wait for the patience of `lazy_tlb.shoot_after=`.
#[test]
fn want_of_memory_shoots_who_has_a_tag() {
    under("lazy_tlb=handoff lazy_tlb.shoot_after=60000", 3, |d| {
        let user = d.create();
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        d.on(0, move || kernel::put(user));
        assert_eq!(d.total(Counter::MmsFreed), 0);
        d.on(0, || Lying::system().free_all_dead());
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.finish();
    });
}

/// `qsbr`: while a CPU notes no epoch all wait, until they are half as many as may; then CPUs are asked.
#[test]
fn qsbr_asks_when_half_of_what_may_wait_do() {
    const HALF: u64 = 128;
    let mut setup = Setup::new(2, Scheme::Qsbr, 1).slow();
    setup.frames = 300;
    let d = Director::new(setup);
    let stays = d.create();
    d.make_lazy(1, &stays);
    for dead in 1..HALF {
        let user = d.create();
        d.make_lazy(0, &user);
        d.on(0, move || kernel::put(user));
        assert_eq!((d.total(Counter::MmsFreed), d.lock().shoots), (0, 0), "{dead} wait");
    }
    let user = d.create();
    d.make_lazy(0, &user);
    d.on(0, move || kernel::put(user));
    assert_eq!(d.total(Counter::MmsFreed), HALF);
    d.on(0, move || kernel::put(stays));
    d.finish();
}

/// `qsbr`: a death looks whether earlier ones can go when sixteen wait, and no sooner: each look costs a line per CPU.
#[test]
fn qsbr_looks_at_every_sixteenth_death() {
    let d = Director::new(Setup::new(2, Scheme::Qsbr, 1).slow());
    for death in 1..=16 {
        d.on(0, || kernel::exec(kernel::create()));
        assert_eq!((death, d.total(Counter::FreedByEpoch)), (death, if death < 16 { 0 } else { 15 }));
    }
    d.finish();
}

/// A `qsbr` machine on which one has died on CPU 0, while CPU 1 runs a task that does not end its turn.
fn one_dies_while_another_runs() -> (Director, usize) {
    let d = Director::new(timeless(2, "lazy_tlb=qsbr"));
    let (runs, dies) = (d.create(), d.create());
    let task = d.start(1, move || {
        kernel::exec(runs);
        kernel::stand_still();
        kernel::masked(|| Lying::system().tick_from_user());
        kernel::stand_still();
    });
    d.make_lazy(0, &dies);
    d.on(0, move || kernel::put(dies));
    (d, task)
}

/// `qsbr`: a tick from user mode is a point where its CPU has no dead `Mm`, and enough. CPU 0, which idles, leaves in time.
#[test]
fn qsbr_frees_after_a_tick_from_user_mode() {
    let (d, task) = one_dies_while_another_runs();
    d.go_on(task);
    d.run();
    while d.total(Counter::MmsFreed) == 0 && pass(&d) {}
    assert_eq!((Lying::now_ns(), d.total(Counter::FreedByEpoch), d.lock().shoots), (4 * MILLISECOND, 1, 0));
    d.go_on(task);
    d.run();
    d.finish();
}

/// `qsbr`: where a CPU runs one task without a tick, the dead wait for 100 ms, and are looked at every 4 ms meanwhile. CPU 1,
/// which has something else loaded, is not interrupted.
#[test]
fn qsbr_waits_a_tenth_of_a_second_and_no_longer() {
    let (d, task) = one_dies_while_another_runs();
    while Lying::now_ns() < 96 * MILLISECOND {
        assert_eq!(d.total(Counter::MmsFreed), 0, "after {} ns", Lying::now_ns());
        assert!(pass(&d), "nobody looks");
    }
    while d.total(Counter::MmsFreed) == 0 && pass(&d) {}
    assert_eq!((Lying::now_ns(), d.total(Counter::FreedByEpoch), d.lock().shoots), (100 * MILLISECOND, 0, 0));
    (0..2).for_each(|_| {
        d.go_on(task);
        d.run();
    });
    d.finish();
}

/// `qsbr`: a CPU idles on a user root for 2 ms, and leaves it at that very moment.
#[test]
fn qsbr_leaves_an_idle_root_after_two_milliseconds() {
    let d = Director::new(timeless(2, "lazy_tlb=qsbr"));
    let user = d.create();
    d.make_lazy(1, &user);
    assert_eq!(d.on_init(), [0]);
    assert!(pass(&d));
    assert_eq!((Lying::now_ns(), d.on_init()), (2 * MILLISECOND, vec![0, 1]));
    d.on(0, move || kernel::put(user));
    d.finish();
}
