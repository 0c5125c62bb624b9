//! The modifiers of the schemes: whom a shoot asks, when, and who need not be asked.

use mm::{Counter, CpuId, Machine, Point, Scheme};

use super::schemes::{WITHIN, dies_within};
use crate::machine::director::{Director, each_line};
use crate::machine::kernel;
use crate::machine::{Lying, Setup};

/// Runs a scenario under one command line and some seeds, half of them with `lazy_tlb.debug=1`. Time
/// does not pass while it lasts.
pub(super) fn under(line: &'static str, cpus: usize, scenario: impl Fn(Director)) {
    for seed in 0..8 {
        let setup = Setup::new(cpus, Scheme::Refcount, seed).options(line).slow();
        scenario(Director::new(if seed % 2 == 0 { setup } else { setup.check() }));
    }
}

const SLOT: &str = "lazy_tlb=shootdown lazy_tlb.target=slot";
const TRIM: &str = "lazy_tlb=shootdown lazy_tlb.trim=dying";
const BATCH: &str = "lazy_tlb=shootdown lazy_tlb.batch=4";

/// T06 with `lazy_tlb.exit=init`: the task exits on CPU 0 and drops the last user on CPU 1. CPU 0 has
/// left already, and nobody is lazy.
#[test]
fn t06_nobody_is_lazy_after_an_exit() {
    for line in ["lazy_tlb=refcount", SLOT, "lazy_tlb=handoff", "lazy_tlb=qsbr"] {
        for seed in 0..6 {
            let setup = Setup::new(3, Scheme::Refcount, seed).options(line).options("lazy_tlb.exit=init").slow();
            let d = Director::new(setup);
            let user = d.create();
            let own = user.clone();
            d.on(0, move || {
                kernel::exec(own);
                let user = kernel::leave();
                assert!(d_on_init(0), "the CPU has left before its user is given back");
                kernel::migrate(1);
                kernel::put(user);
            });
            assert_eq!(user.count(), 1, "the users' one: no CPU holds a lazy reference");
            d.on(2, move || kernel::put(user));
            assert_eq!((d.lock().shoots, d.on_init()), (0, vec![0, 1, 2]), "{line}");
            d.finish();
        }
    }
}

fn d_on_init(cpu: usize) -> bool {
    let system = Lying::system();
    system.cpus()[cpu].has_loaded(system.init_mm())
}

/// T07: of the CPUs in the mask only those are asked that have the `Mm` loaded.
#[test]
fn t07_only_the_lazy_are_asked() {
    for (line, asked) in [("lazy_tlb=shootdown", 3), (SLOT, 1)] {
        under(line, 4, |d| {
            let (user, other) = (d.create(), d.create());
            (0..4).for_each(|cpu| d.make_lazy(cpu, &user));
            [0, 1, 2].iter().for_each(|&cpu| d.make_lazy(cpu, &other));
            d.on(0, move || kernel::put(user));
            assert_eq!(d.lock().shoots, asked);
            assert_eq!((d.count(3, Counter::ShootFoundLazy), d.total(Counter::MmsFreed)), (1, 1));
            d.on(0, move || kernel::put(other));
            d.finish();
        });
    }
}

/// T19: a CPU leaves after its slot was read and before it is asked: one IPI in vain, counted.
#[test]
fn t19_a_false_positive_costs_one_ipi() {
    under(SLOT, 3, |d| {
        let (user, other) = (d.create(), d.create());
        d.make_lazy(1, &user);
        let killer = d.spawn(0, move || kernel::put(user));
        d.stop_at(killer, Point::MaskRead);
        d.run();
        d.make_lazy(1, &other);
        d.go_on(killer);
        d.run();
        assert_eq!((d.lock().shoots, d.count(1, Counter::ShootFoundGone)), (1, 1));
        d.on(0, move || kernel::put(other));
        d.finish();
    });
}

/// T21: so many dead `Mm`s gather, and one round frees them all. Nobody waits beyond the bound.
#[test]
fn t21_one_round_for_all() {
    under(BATCH, 3, |d| {
        for number in 0..4 {
            assert_eq!((d.total(Counter::MmsFreed), d.lock().shoots), (0, 0), "{number} wait");
            let user = d.create();
            // Each is lazily loaded on CPU 1 or 2 until the next comes, the last two for good.
            d.make_lazy(1 + number % 2, &user);
            d.on(0, move || kernel::put(user));
        }
        assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::BatchRounds)), (4, 1));
        assert_eq!((d.lock().shoots, d.system().waiting().1), (2, 4), "one IPI for each CPU, four waited");
        d.finish();
    });
}

/// T21: more die at once than may wait: nobody waits beyond the bound, nobody is lost.
#[test]
fn t21_more_than_may_wait() {
    for seed in 0..8 {
        // Without `lazy_tlb.debug=1`: that would ask the CPU of the killer that is held.
        let d = Director::new(Setup::new(4, Scheme::Refcount, seed).options(BATCH).slow());
        let mut users: Vec<_> = (0..5).map(|_| d.create()).collect();
        (0..4).for_each(|cpu| d.make_lazy(cpu, &users[cpu]));
        let last = users.pop().expect("five were made");
        d.make_lazy(3, &last);
        let fourth = users.pop().expect("four are left");
        users.into_iter().for_each(|user| d.on(0, move || kernel::put(user)));
        let killer = d.spawn(0, move || kernel::put(fourth));
        d.stop_at(killer, Point::WaitingTaken);
        d.run();
        assert_eq!((d.total(Counter::MmsFreed), d.system().waiting()), (0, (4, 4, 4)));
        d.on(1, move || kernel::put(last));
        assert_eq!((d.total(Counter::MmsFreed), d.system().waiting().1), (1, 4), "the fifth has a round of its own");
        d.go_on(killer);
        d.run();
        assert_eq!(d.total(Counter::MmsFreed), 5);
        d.finish();
    }
}

/// T21: a batch that does not fill is freed in time.
#[test]
fn t21_a_batch_does_not_wait_for_ever() {
    for seed in 0..8 {
        let d = Director::new(Setup::new(2, Scheme::Refcount, seed).options(BATCH));
        let user = d.create();
        d.make_lazy(1, &user);
        d.on(0, move || kernel::put(user));
        // 10 ms, and a step is 100 µs.
        d.on(1, || (0..200).for_each(|_| kernel::yield_now()));
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.finish();
    }
}

/// T21: want of memory does not wait for a batch to fill, for an epoch to pass, nor for a CPU to leave.
#[test]
fn t21_want_of_memory_frees_who_waits() {
    for line in ["lazy_tlb=shootdown lazy_tlb.batch=64", "lazy_tlb=qsbr", "lazy_tlb=handoff lazy_tlb.shoot_after=60000"]
    {
        for seed in 0..4 {
            let mut setup = Setup::new(2, Scheme::Refcount, seed).options(line).slow();
            // The one of `init_mm`, and eight more.
            setup.frames = 9;
            let d = Director::new(setup);
            for _ in 0..50 {
                let user = d.create();
                d.make_lazy(1, &user);
                d.on(0, move || kernel::put(user));
            }
            d.finish();
        }
    }
}

/// A batch is taken off its list; before its CPUs are asked, one of them leaves, and another becomes
/// lazy on an `Mm` that dies in the next batch.
#[test]
fn two_batches_at_once() {
    for line in ["lazy_tlb=shootdown lazy_tlb.batch=1", "lazy_tlb=shootdown lazy_tlb.batch=1 lazy_tlb.target=slot"] {
        under(line, 4, |d| {
            let [a, b, other] = [(); 3].map(|()| d.create());
            d.make_lazy(2, &a);
            d.make_lazy(3, &a);
            let killers = [d.spawn(0, move || kernel::put(a))];
            killers.iter().for_each(|&killer| d.stop_at(killer, Point::WaitingTaken));
            d.run();
            d.make_lazy(2, &b);
            d.make_lazy(3, &other);
            let second = d.spawn(1, move || kernel::put(b));
            d.stop_at(second, Point::WaitingTaken);
            d.run();
            d.go_on(killers[0]);
            d.go_on(second);
            d.run();
            assert_eq!(d.total(Counter::MmsFreed), 2);
            d.on(0, move || kernel::put(other));
            d.finish();
        });
    }
}

/// `lazy_tlb.trim=dying`: a CPU that leaves an `Mm` without users clears its bit, and is not asked.
#[test]
fn a_trimmed_cpu_is_not_asked() {
    for (line, asked) in [(TRIM, 1), ("lazy_tlb=shootdown", 2)] {
        under(line, 4, |d| {
            let (user, other) = (d.create(), d.create());
            (1..3).for_each(|cpu| d.make_lazy(cpu, &user));
            let reference = user.grab_ref();
            d.on(0, move || kernel::put(user));
            assert_eq!(reference.holders().snapshot(), [CpuId(1), CpuId(2)].into_iter().collect());
            d.make_lazy(1, &other);
            let trimmed = u64::from(line == TRIM);
            assert_eq!(d.count(1, Counter::BitsTrimmed), trimmed);
            assert_eq!(reference.holders().holds(CpuId(1)), trimmed == 0);
            d.on(0, move || drop(reference));
            assert_eq!((d.lock().shoots, d.total(Counter::MmsFreed)), (asked, 1));
            d.on(0, move || kernel::put(other));
            d.finish();
        });
    }
}

/// A trim comes too early, while there is a user: the bit stays, the CPU is asked in vain. And one
/// stands between naming the next `Mm` and its trim when the last reference goes: whoever frees must
/// wait for it.
#[test]
fn a_trim_races_with_the_last_drop() {
    under(TRIM, 3, |d| {
        let (user, other) = (d.create(), d.create());
        d.make_lazy(1, &user);
        let reference = user.grab_ref();
        d.on(0, move || kernel::put(user));
        let own = other.clone();
        let leaver = d.spawn(1, move || kernel::exec(own));
        d.stop_at(leaver, Point::LeftUntrimmed);
        d.run();
        d.start(0, move || drop(reference));
        assert_eq!(d.total(Counter::MmsFreed), 0, "CPU 1 still uses it");
        d.go_on(leaver);
        d.run();
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.on(0, move || kernel::put(other));
        d.finish();
    });
}

/// T34: with `lazy_tlb.shoot_after=` a CPU that does not leave is shot in time, and only it.
#[test]
fn t34_the_hybrid_shoots_who_stays() {
    for seed in 0..8 {
        let d = Director::new(Setup::new(3, Scheme::Refcount, seed).options("lazy_tlb=handoff lazy_tlb.shoot_after=2"));
        let (user, other) = (d.create(), d.create());
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        d.on(0, move || kernel::put(user));
        d.make_lazy(1, &other);
        d.on(0, || (0..100).for_each(|_| kernel::yield_now()));
        assert_eq!((d.total(Counter::MmsFreed), d.count(1, Counter::ShootFoundLazy)), (1, 0));
        assert_eq!(d.on_init(), [0, 2]);
        d.on(0, move || kernel::put(other));
        d.finish();
    }
}

/// T34, T53 under `qsbr`: a CPU that idles on a dead `Mm` leaves it by itself, and no IPI is sent.
#[test]
fn t34_an_idle_cpu_leaves_in_time() {
    for seed in 0..8 {
        let d = Director::new(Setup::new(3, Scheme::Refcount, seed).options("lazy_tlb=qsbr"));
        let user = d.create();
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        d.on(0, move || kernel::put(user));
        // CPU 0 does not idle: it leaves by loading another root.
        let other = d.create();
        d.make_lazy(0, &other);
        d.on(0, || (0..100).for_each(|_| kernel::yield_now()));
        let shoots = d.lock().shoots;
        assert_eq!((d.total(Counter::MmsFreed), shoots), (1, 0));
        assert!(d.total(Counter::IdleUnlazied) >= 2 && d.total(Counter::FreedByEpoch) == 1);
        d.on(0, move || kernel::put(other));
        d.finish();
    }
}

/// `qsbr`, want of memory: who still has a dead `Mm` loaded gets one IPI, nobody else.
#[test]
fn want_of_memory_does_not_wait() {
    under("lazy_tlb=qsbr", 4, |d| {
        let (user, other) = (d.create(), d.create());
        (0..4).for_each(|cpu| d.make_lazy(cpu, &user));
        [0, 1].iter().for_each(|&cpu| d.make_lazy(cpu, &other));
        d.on(0, move || kernel::put(user));
        assert_eq!((d.total(Counter::MmsFreed), d.lock().shoots), (0, 0));
        d.on(0, || Lying::system().free_all_dead());
        assert_eq!((d.total(Counter::MmsFreed), d.lock().shoots), (1, 2));
        d.on(0, move || kernel::put(other));
        d.finish();
    });
}

/// `qsbr`: a dead `Mm` goes as soon as every CPU has loaded another root since, and no sooner.
#[test]
fn every_cpu_must_pass() {
    under("lazy_tlb=qsbr", 3, |d| {
        let (user, other) = (d.create(), d.create());
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        d.on(0, move || kernel::put(user));
        for cpu in 0..3 {
            d.on(0, || Lying::system().reap());
            assert_eq!(d.total(Counter::MmsFreed), 0, "CPU {cpu} still has it loaded");
            d.make_lazy(cpu, &other);
        }
        d.on(0, || Lying::system().reap());
        assert_eq!((d.total(Counter::MmsFreed), d.total(Counter::FreedByEpoch), d.lock().shoots), (1, 1, 0));
        d.on(0, move || kernel::put(other));
        d.finish();
    });
}

/// `qsbr`: a CPU that goes to and fro between one task and idle writes nothing on that way, not even the epoch. What dies
/// elsewhere meanwhile waits until many do, or memory is short; this CPU is not asked then, for its slot names a living `Mm`.
#[test]
fn to_and_fro_notes_nothing_and_is_not_asked() {
    const DEATHS: u64 = 160;
    under("lazy_tlb=qsbr", 2, |d| {
        let user = d.create();
        let task = d.start(1, move || {
            kernel::exec(user);
            (0..DEATHS).for_each(|_| kernel::block());
        });
        let loads = d.count(1, Counter::Ttbr0Writes);
        for death in 0..DEATHS {
            d.on(0, || kernel::exec(kernel::create()));
            if death + 1 < DEATHS {
                d.resume(task, 1);
            }
        }
        assert_eq!(d.count(1, Counter::Ttbr0Writes), loads, "it came back to what was loaded");
        assert_eq!((d.total(Counter::FreedByEpoch), d.lock().shoots), (0, 0));
        assert!(d.total(Counter::MmsFreed) >= DEATHS - 128, "{} of {DEATHS}", d.total(Counter::MmsFreed));
        d.resume(task, 1);
        d.finish();
    });
}

/// T15, T20, T27 under every command line: `Mm`s that are lazily loaded crosswise die at once, on all CPUs,
/// again and again.
#[test]
fn t15_everybody_kills() {
    each_line(3, |d, _| {
        for _ in 0..3 {
            let users: Vec<_> = (0..3).map(|_| d.create()).collect();
            for cpu in 0..3 {
                d.make_lazy(cpu, &users[(cpu + 1) % 3]);
            }
            for (cpu, user) in users.into_iter().enumerate() {
                d.spawn(cpu, move || kernel::put(user));
                d.spawn(cpu, || kernel::exec(kernel::create()));
            }
            d.run();
        }
        d.finish();
    });
}

/// T11 under every command line: a CPU is interrupted at each point of its switch away from what dies.
#[test]
fn t11_in_the_middle_of_a_switch() {
    for point in WITHIN {
        each_line(3, |d, _| {
            let (dying, next) = (d.create(), d.create());
            d.make_lazy(1, &dying);
            let task = d.spawn(1, move || kernel::exec(next));
            dies_within(d, dying, task, point);
        });
    }
}

/// T16 under every command line: the last reference goes where nobody may wait.
#[test]
fn t16_dropped_where_nobody_waits() {
    each_line(3, |d, _| {
        let user = d.create();
        d.make_lazy(1, &user);
        d.make_lazy(2, &user);
        let reference = user.grab_ref();
        d.on(0, move || kernel::put(user));
        d.on(0, move || kernel::masked(|| drop(reference)));
        d.finish();
    });
}
