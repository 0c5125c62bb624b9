//! CPUs that go offline and come back, under every scheme and several seeds. T numbers are the project's.

use mm::{Machine, Page, Point};

use super::asids::{churn, roll_over, scarce, sees_it_go};
use super::flush::{furnished, reader};
use crate::machine::Lying;
use crate::machine::director::{Director, each};
use crate::machine::kernel;
use crate::machine::user;

const ONE: Page = Page::from_number(0x400);

/// How many address spaces live, once those are freed that nobody has loaded.
fn living(d: &Director) -> usize {
    d.on(0, || Lying::system().free_all_dead());
    d.lock().oracle.living()
}

/// T23: a CPU goes while it is lazy. It has nothing loaded then and holds nothing: the address space dies without it.
#[test]
fn t23_goes_while_lazy() {
    each(2, |d, scheme| {
        let user = d.create();
        d.make_lazy(1, &user);
        d.toggle_power(1);
        assert!(d.is_off(1) && d.on_init().contains(&1), "{scheme:?}");
        assert_eq!(user.count(), 1, "the users' reference");
        let shoots = d.lock().shoots;
        d.on(0, move || kernel::put(user));
        assert_eq!(living(&d), 0, "{scheme:?}");
        assert_eq!(d.lock().shoots, shoots, "nobody asks the CPU");
        d.toggle_power(1);
        churn(&d, 1);
        d.finish();
    });
}

/// T23: what it is lazy on has died, and waits for it where lazies are counted or tagged.
#[test]
fn t23_goes_from_what_is_dead() {
    each(2, |d, scheme| {
        let user = d.create();
        d.make_lazy(1, &user);
        d.on(0, move || kernel::put(user));
        d.toggle_power(1);
        assert_eq!(living(&d), 0, "{scheme:?}");
        d.toggle_power(1);
        d.finish();
    });
}

/// T23: it dies at each stage of the CPU's way out.
#[test]
fn t23_dies_at_each_stage() {
    for stage in [Point::CpuLeaving, Point::CpuUnlazied] {
        each(3, |d, scheme| {
            let user = d.create();
            d.make_lazy(1, &user);
            d.make_lazy(2, &user);
            d.stop_at(d.idle_of(1), stage);
            d.toggle_power(1);
            assert!(d.is_held(d.idle_of(1)) && !d.is_off(1), "{scheme:?}");
            let dropper = d.spawn(0, move || kernel::put(user));
            d.stop_at(dropper, Point::CountZero);
            d.run();
            if d.is_held(dropper) {
                d.go_on(dropper);
                d.run();
            }
            d.go_on(d.idle_of(1));
            d.run();
            // Where its users' end already asks the CPU to leave (`tlbi.exit=retire`), it comes to zero only now.
            if d.is_held(dropper) {
                d.go_on(dropper);
                d.run();
            }
            d.toggle_power(2);
            assert_eq!(living(&d), 0, "{scheme:?}, {stage:?}");
            [1, 2].into_iter().for_each(|cpu| d.toggle_power(cpu));
            d.finish();
        });
    }
}

/// T23: while it is away generations end, numbers become others', pages go. It comes back and believes nothing.
#[test]
fn t23_comes_back_to_nothing_old() {
    scarce(|d| {
        let user = furnished(&d);
        let task = reader(&d, 1, &user, sees_it_go);
        d.resume(task, 1);
        d.toggle_power(1);
        roll_over(&d, 0, 2);
        let own = user.clone();
        d.on(0, move || {
            user::unmap(&own, ONE..ONE.offset(1));
            kernel::put(own);
        });
        d.toggle_power(1);
        churn(&d, 1);
        d.resume(task, 1);
        d.on(0, move || kernel::put(user));
        d.finish();
    });
}

/// T24: no number is kept for a CPU that is away, and it takes its next one from the generation that is current then.
#[test]
fn t24_comes_back_without_a_number() {
    scarce(|d| {
        churn(&d, 1);
        d.toggle_power(1);
        // Three numbers, one CPU: were one kept for the other, this one would meet two only.
        roll_over(&d, 0, 1);
        let met: std::collections::BTreeSet<_> = (0..3).map(|_| churn(&d, 0).0).collect();
        assert_eq!(met.len(), 3, "numbers met by the CPU that is left");
        d.toggle_power(1);
        churn(&d, 1);
        d.finish();
    });
}
