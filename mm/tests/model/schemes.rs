//! Scenarios of lazy TLB, each under every scheme and several seeds. T numbers are the project's.

use mm::{Counter, CpuId, Machine, Point, Scheme};

use crate::machine::director::{Director, configs, each, frees_at_the_drop};
use crate::machine::kernel::{self, User};
use crate::machine::{Lies, Lying, Setup};

/// What a CPU has spent on laziness so far.
fn spent(d: &Director, cpu: usize) -> [u64; 3] {
    [Counter::Ttbr0Writes, Counter::LazyGrabs, Counter::LazyDrops].map(|counter| d.count(cpu, counter))
}

/// A task that runs in `user` on this CPU and sleeps; whenever it is woken it sleeps again, until
/// the last time.
fn sleeper(d: &Director, cpu: usize, user: User, naps: usize) -> usize {
    d.start(cpu, move || {
        kernel::exec(user);
        (0..naps).for_each(|_| kernel::block());
    })
}

/// T01, T44: user → idle → the same user costs no TTBR0 write and no count, but for the schemes
/// that are about just that. The one full barrier of the round trip is the switch's own.
#[test]
fn t01_idle_and_back() {
    each(2, |d, scheme| {
        let task = sleeper(&d, 1, d.create(), 2);
        let before = spent(&d, 1);
        d.lock().timeline.take_ran();
        d.resume(task, 1);
        let after = spent(&d, 1);
        let expected = match scheme {
            Scheme::Refcount => [0, 1, 1],
            Scheme::Shootdown | Scheme::Handoff | Scheme::Qsbr => [0, 0, 0],
            Scheme::Eager => [2, 0, 0],
        };
        assert_eq!([0, 1, 2].map(|i| after[i] - before[i]), expected, "{scheme:?}");
        let barriers = d.lock().timeline.take_ran().iter().filter(|ran| ran.0 == mm::Sequence::TaskSwitch).count();
        assert_eq!(barriers, 1, "one DSB ISH, whatever the scheme");
        d.resume(task, 1);
        d.finish();
    });
}

/// T02: user A → kernel thread → user B: one TTBR0 write, and A's lazy reference is given back.
#[test]
fn t02_user_kernel_other_user() {
    each(2, |d, scheme| {
        let (a, b) = (d.create(), d.create());
        let sleeping_b = sleeper(&d, 1, b, 2);
        let sleeping_a = sleeper(&d, 1, a.clone(), 1);
        let lazy = u32::from(scheme == Scheme::Refcount);
        assert_eq!(a.count(), 1 + lazy, "the users' one and the lazy CPU's");
        let before = spent(&d, 1);
        d.on(1, || ());
        d.resume(sleeping_b, 1);
        assert_eq!(a.count(), 1);
        // B runs, sleeps, and leaves CPU 1 lazy again: `eager` wrote once more.
        let writes = if scheme == Scheme::Eager { 2 } else { 1 };
        assert_eq!(spent(&d, 1)[0] - before[0], writes);
        [sleeping_a, sleeping_b].iter().for_each(|&task| d.wake(task, 1));
        d.on(1, move || kernel::put(a));
        d.finish();
    });
}

/// T03: three kernel threads in a row on a lazy CPU: the reference stays with the CPU.
#[test]
fn t03_kernel_threads_pass_it_on() {
    each(2, |d, scheme| {
        let user = d.create();
        d.make_lazy(1, &user);
        let before = (spent(&d, 1), d.count(1, Counter::SwitchKernelKernel));
        (0..3).for_each(|_| d.on(1, kernel::yield_now));
        assert_eq!(spent(&d, 1), before.0, "nothing is spent between kernel threads");
        assert!(d.count(1, Counter::SwitchKernelKernel) >= before.1 + 3);
        assert_eq!(user.count(), 1 + u32::from(scheme == Scheme::Refcount));
        let other = d.create();
        d.make_lazy(1, &other);
        assert_eq!(user.count(), 1, "left for another, once");
        d.on(0, move || [user, other].map(kernel::put));
        d.finish();
    });
}

/// T04: create, run, exit, free, many times on one CPU. `finish` counts what is left.
#[test]
fn t04_nothing_is_left_behind() {
    each(1, |d, scheme| {
        for _ in 0..60 {
            d.on(0, || kernel::exec(kernel::create()));
        }
        let kept = d.total(Counter::MmsMade) - d.total(Counter::MmsFreed);
        match scheme {
            // Those that died since a death last looked.
            Scheme::Qsbr => assert!(kept <= 16, "{kept} wait"),
            _ => assert_eq!(kept, u64::from(!frees_at_the_drop(scheme)), "the last one is lazy"),
        }
        d.finish();
    });
}

/// T05, T17: exit and final drop on the one CPU that ever had it: nobody is interrupted, and the
/// killer, lazy on it itself, leaves it.
#[test]
fn t05_no_ipi_to_oneself() {
    each(3, |d, scheme| {
        d.on(1, || kernel::exec(kernel::create()));
        assert_eq!(d.lock().shoots, 0);
        let (lazy, gone) = (d.count(1, Counter::ShootFoundLazy), d.count(1, Counter::ShootFoundGone));
        assert_eq!((lazy, gone), if scheme == Scheme::Shootdown { (1, 0) } else { (0, 0) });
        assert_eq!(d.on_init().contains(&1), frees_at_the_drop(scheme));
        d.finish();
    });
}

/// T06: the task exits on CPU 0 and has moved to CPU 1 when it drops the last user: CPU 0, which
/// kept it loaded, is shot.
#[test]
fn t06_exit_here_drop_there() {
    each(3, |d, scheme| {
        d.on(0, || {
            kernel::exec(kernel::create());
            let user = kernel::leave();
            kernel::migrate(1);
            kernel::put(user);
        });
        let shot = u64::from(scheme == Scheme::Shootdown);
        assert_eq!((d.lock().shoots, d.count(0, Counter::ShootFoundLazy)), (shot, shot));
        d.finish();
    });
}

/// T07: somebody outside drops the last reference long after the exit: those who are lazy on it
/// leave, nobody else is asked.
#[test]
fn t07_the_last_reference_is_elsewhere() {
    each(4, |d, scheme| {
        let user = d.create();
        d.make_lazy(0, &user);
        d.make_lazy(1, &user);
        let reference = user.grab_ref();
        d.on(3, move || kernel::put(user));
        assert_eq!(d.total(Counter::MmsFreed), 0);
        d.on(2, move || drop(reference));
        assert_eq!(d.lock().shoots, if scheme == Scheme::Shootdown { 2 } else { 0 });
        assert_eq!(d.total(Counter::MmsFreed), u64::from(frees_at_the_drop(scheme)));
        d.finish();
    });
}

/// T09: a kernel thread borrows the `Mm` that its CPU is lazy on, and gives it back.
#[test]
fn t09_borrow_what_is_loaded() {
    each(2, |d, scheme| {
        let user = d.create();
        d.make_lazy(1, &user);
        let borrowed = user.clone();
        let before = spent(&d, 1);
        let back = d.on(1, move || {
            kernel::exec(borrowed);
            let seen = kernel::own().map(|own| own.count());
            (kernel::leave(), seen)
        });
        let lazy = u32::from(scheme == Scheme::Refcount);
        assert_eq!(back.1, Some(1), "a borrower is a user, not a lazy CPU");
        assert_eq!(user.count(), 1 + lazy, "lazy again");
        assert_eq!(spent(&d, 1)[0] - before[0], if scheme == Scheme::Eager { 2 } else { 0 });
        d.on(0, move || (kernel::put(back.0), kernel::put(user)));
        d.finish();
    });
}

/// The points within a switch to an `Mm` that the CPU never had.
pub(super) const WITHIN: [Point; 4] = [Point::BitClear, Point::BitSet, Point::AsidSlowPath, Point::RootLoaded];

/// The last user of `dying` goes while a task stands at this point of its switch.
pub(super) fn dies_within(d: Director, dying: User, task: usize, point: Point) {
    d.stop_at(task, point);
    d.run();
    d.start(0, move || kernel::put(dying));
    assert!(d.is_held(task));
    d.go_on(task);
    d.run();
    d.finish();
}

/// T11, T12, T13: a CPU is interrupted by a shoot at every point of its switch away from the very
/// `Mm` that dies, from a user task and from a kernel thread that was lazy on it.
#[test]
fn t11_shot_in_the_middle_of_a_switch() {
    for point in WITHIN {
        each(3, |d, _| {
            let (dying, next) = (d.create(), d.create());
            let task = if point == Point::BitClear {
                // A user task whose old Mm it shares with CPU 0, which is the last to drop it.
                let own = dying.clone();
                d.spawn(1, move || {
                    kernel::exec(own);
                    kernel::exec(next);
                })
            } else {
                d.make_lazy(1, &dying);
                d.spawn(1, move || kernel::exec(next))
            };
            dies_within(d, dying, task, point);
        });
    }
}

/// T15: two CPUs free two `Mm`s, each lazy on the other's CPU, at once. Both wait with interrupts
/// on, so each serves the other.
#[test]
fn t15_two_killers() {
    each(2, |d, _| {
        let (a, b) = (d.create(), d.create());
        d.make_lazy(0, &b);
        d.make_lazy(1, &a);
        let killers = [d.spawn(0, move || kernel::put(a)), d.spawn(1, move || kernel::put(b))];
        killers.iter().for_each(|&killer| d.stop_at(killer, Point::MaskRead));
        d.run();
        killers.iter().for_each(|&killer| d.go_on(killer));
        d.run();
        d.finish();
    });
}

/// T16: the last drop comes where waiting is not allowed: the reaper frees.
#[test]
fn t16_dropped_with_interrupts_masked() {
    each(2, |d, scheme| {
        let user = d.create();
        d.make_lazy(1, &user);
        let reference = user.grab_ref();
        d.on(0, move || kernel::put(user));
        d.on(0, move || kernel::masked(|| drop(reference)));
        if frees_at_the_drop(scheme) {
            assert_eq!((d.total(Counter::MmsDeferred), d.total(Counter::MmsFreed)), (1, 1));
        }
        d.finish();
    });
}

/// T16: whoever makes an address space frees those that wait for the reaper first. Otherwise many CPUs
/// make them faster than one thread frees, and memory runs out with nothing in use.
#[test]
fn t16_who_makes_one_frees_the_dead() {
    for config in configs() {
        // The reaper runs on the task's CPU, which nobody takes from the task.
        let lies = Lies { preempt: 0, ..Lies::default() };
        let d = Director::new(Setup { lies, ..Setup::with(2, config, 16) });
        d.on(0, move || {
            let reference = {
                let user = kernel::create();
                user.grab_ref()
            };
            kernel::masked(|| drop(reference));
            let freed = || Lying::system().total(Counter::MmsFreed);
            assert_eq!(freed(), 0, "freed with interrupts masked");
            let next = kernel::create();
            assert_eq!(freed(), 1);
            kernel::put(next);
        });
        d.finish();
    }
}

/// T16: who makes one where nobody may wait, as the boot CPU alone does, frees none. Who may wait frees those that the last
/// CPU has left, too, and not one kind only where both wait.
#[test]
fn t16_who_makes_one_frees_what_was_left_too() {
    let lies = Lies { preempt: 0, ..Lies::default() };
    let d = Director::new(Setup { lies, ..Setup::new(2, Scheme::Handoff, 16) });
    let (left, never_loaded, next) = (d.create(), d.create(), d.create());
    d.make_lazy(0, &left);
    let reference = never_loaded.grab_ref();
    d.on(1, move || [left, never_loaded].map(kernel::put));
    let task = d.start(0, move || {
        kernel::exec(next);
        kernel::masked(|| drop(reference));
        kernel::stand_still();
        let one_more = kernel::create();
        assert_eq!(Lying::system().total(Counter::MmsFreed), 2);
        kernel::put(one_more);
    });
    let one = kernel::create();
    assert_eq!(d.total(Counter::MmsFreed), 0, "freed where nobody may wait");
    d.go_on(task);
    d.run();
    d.on(0, move || kernel::put(one));
    d.finish();
}

/// T18: all CPUs are lazy on one `Mm`: one round, one IPI for each of the others, all end on
/// `init_mm`.
#[test]
fn t18_everybody_is_lazy() {
    each(4, |d, scheme| {
        let user = d.create();
        (0..4).for_each(|cpu| d.make_lazy(cpu, &user));
        assert_eq!(user.holders().snapshot(), (0..4).map(CpuId).collect());
        d.on(2, move || kernel::put(user));
        assert_eq!(d.lock().shoots, if scheme == Scheme::Shootdown { 3 } else { 0 });
        if scheme == Scheme::Shootdown {
            assert_eq!((d.on_init(), d.total(Counter::ShootFoundLazy)), (vec![0, 1, 2, 3], 4));
        }
        d.finish();
    });
}

/// T35, T34: a dead `Mm` is handed to the CPUs that are lazy on it, nobody is interrupted, and the
/// last CPU to leave frees it. Until then it is the one dead `Mm` of each.
#[test]
fn t35_the_last_to_leave_frees() {
    each(3, |d, scheme| {
        if scheme != Scheme::Handoff {
            return d.finish();
        }
        let (user, other) = (d.create(), d.create());
        (0..3).for_each(|cpu| d.make_lazy(cpu, &user));
        d.on(1, move || kernel::put(user));
        assert_eq!((d.lock().shoots, d.total(Counter::MmsFreed)), (0, 0));
        for cpu in 0..3 {
            assert_eq!(d.total(Counter::MmsFreed), 0, "CPU {cpu} still has it loaded");
            d.make_lazy(cpu, &other);
        }
        assert_eq!(d.total(Counter::MmsFreed), 1);
        d.on(0, move || kernel::put(other));
        d.finish();
    });
}

/// T35: a CPU leaves between the share that is added for it and the tag that is not set any more, and
/// again after all tags are set but before the dropper's own share is given back.
#[test]
fn t35_a_cpu_leaves_while_it_is_tagged() {
    for point in [Point::ShareAdded, Point::AllTagged] {
        each(3, |d, scheme| {
            if scheme != Scheme::Handoff {
                return d.finish();
            }
            let (user, other) = (d.create(), d.create());
            (1..3).for_each(|cpu| d.make_lazy(cpu, &user));
            let dropper = d.spawn(0, move || kernel::put(user));
            d.stop_at(dropper, point);
            d.run();
            (1..3).for_each(|cpu| d.make_lazy(cpu, &other));
            assert_eq!(d.total(Counter::MmsFreed), 0, "the dropper still has its share");
            d.go_on(dropper);
            d.run();
            assert_eq!(d.total(Counter::MmsFreed), 1);
            d.on(0, move || kernel::put(other));
            d.finish();
        });
    }
}

/// Rule 2 and T19: a CPU that left before it is shot is asked in vain and loses its bit itself.
#[test]
fn t19_shot_after_it_left() {
    each(3, |d, scheme| {
        let (user, other) = (d.create(), d.create());
        d.make_lazy(1, &user);
        let killer = d.spawn(0, move || kernel::put(user));
        d.stop_at(killer, Point::MaskRead);
        d.run();
        let away = sleeper(&d, 1, other, 1);
        if scheme == Scheme::Shootdown {
            d.go_on(killer);
            d.run();
            assert_ne!(d.count(1, Counter::ShootFoundGone), 0);
        }
        d.resume(away, 1);
        d.finish();
    });
}
