//! The worlds: who does what, beginning where. Each is a race that some rule of the mm layer is about.

use mm::lying::director::Director;
use mm::lying::kernel::{self, User};
use mm::lying::user::{self, pages};
use mm::pte::Protection;
use mm::{MmRef, Page, PageRange};

use crate::explore::explore;
use crate::report::{Case, FLUSHES, LINES, SCHEMES, each};

const PAGE: Page = Page::from_number(0x400);

fn one_page() -> PageRange {
    pages(0x400, 0x401)
}

/// An address space with a page that was used.
fn furnished(d: &Director) -> User {
    let user = d.create();
    let own = user.clone();
    d.on(0, move || {
        user::map(&own, one_page(), Protection::READ_WRITE);
        kernel::exec(own);
        user::store(PAGE, 1).expect("it is mapped");
    });
    user
}

/// A task in an address space, asleep, with its CPU lazy on that. Woken, it does something and ends.
fn sleeper(d: &Director, cpu: usize, user: User, then: impl FnOnce() + Send + 'static) -> usize {
    d.start(cpu, move || {
        kernel::exec(user);
        kernel::block();
        then();
    })
}

/// 2 CPUs, 2 address spaces, 1 free: the last user goes on CPU 0 while CPU 1, lazy on it, goes on with another.
#[test]
fn dropped_while_a_lazy_cpu_leaves() {
    each("a lazy CPU leaves what is dropped", [LINES, FLUSHES], |case| {
        explore(case, 2, |d| {
            let (dead, next) = (furnished(d), d.create());
            d.make_lazy(1, &dead);
            d.spawn(0, move || kernel::put(dead));
            d.spawn(1, move || kernel::exec(next));
        })
    });
}

/// 3 CPUs, 2 address spaces: two CPUs lazy on what CPU 0 drops go on with another.
#[test]
fn dropped_while_two_lazy_cpus_leave() {
    let cases = [&["lazy_tlb=handoff", "lazy_tlb=handoff lazy_tlb.exit=init"][..], &[]];
    each("two lazy CPUs leave what is dropped", cases, |case: Case| {
        explore(case, 3, |d| {
            let (dead, next) = (d.create(), d.create());
            [1, 2].iter().for_each(|&cpu| d.make_lazy(cpu, &dead));
            let other = next.clone();
            d.spawn(0, move || drop(dead));
            d.spawn(1, move || kernel::exec(next));
            d.spawn(2, move || kernel::exec(other));
        })
    });
}

/// 3 CPUs, 2 address spaces: a task ends on CPU 0 and drops the last user on CPU 1, while CPU 2 leaves (R8).
#[test]
fn final_drop_on_another_cpu() {
    each("the final drop is on another CPU", [SCHEMES, &[]], |case| {
        explore(case, 3, |d| {
            let (dead, next) = (d.create(), d.create());
            d.make_lazy(2, &dead);
            let task = sleeper(d, 0, dead, || {
                let user = kernel::leave();
                kernel::migrate(1);
                drop(user);
            });
            d.wake(task, 0);
            d.spawn(2, move || kernel::exec(next));
        })
    });
}

/// CPU 0 drops a reference while CPU 1 enters for the first time, and leaves with the last user.
#[test]
fn a_reference_goes_while_a_cpu_enters() {
    each("a reference goes while a CPU enters", [LINES, &[]], |case| {
        explore(case, 2, |d| {
            let user = d.create();
            let reference = user.grab_ref();
            d.spawn(0, move || drop(reference));
            d.spawn(1, move || kernel::exec(user));
        })
    });
}

/// CPU 0 drops the last user while CPU 1, which has a reference only, asks to become one (rule 5).
#[test]
fn a_borrower_comes_for_the_last_user() {
    each("a borrower comes for the last user", [SCHEMES, &[]], |case| {
        explore(case, 2, |d| {
            let user = furnished(d);
            let reference: MmRef<_> = user.grab_ref();
            d.spawn(0, move || kernel::put(user));
            d.spawn(1, move || {
                if let Some(user) = reference.try_user() {
                    kernel::exec(user);
                }
            });
        })
    });
}

/// CPU 0 unmaps a page while CPU 1, lazy, returns to the task that uses it (rules 6 and 8).
#[test]
fn unmapped_while_a_lazy_cpu_returns() {
    each("a page goes while a lazy CPU returns", [SCHEMES, FLUSHES], |case| {
        explore(case, 2, |d| {
            let user = furnished(d);
            let task = sleeper(d, 1, user.clone(), || _ = user::load(PAGE));
            d.spawn(0, move || {
                user::unmap(&user, one_page());
                kernel::put(user);
            });
            d.wake(task, 1);
        })
    });
}

/// CPU 0 unmaps a page while CPU 1 enters for the first time and uses it: the flusher may not miss the newcomer.
#[test]
fn unmapped_while_a_cpu_enters() {
    each("a page goes while a CPU enters", [SCHEMES, FLUSHES], |case| {
        explore(case, 2, |d| {
            let user = furnished(d);
            let entering = user.clone();
            d.spawn(0, move || {
                user::unmap(&user, one_page());
                kernel::put(user);
            });
            d.spawn(1, move || {
                kernel::exec(entering);
                let _ = user::load(PAGE);
            });
        })
    });
}

/// 3 usable ASIDs, 4 address spaces, 2 CPUs: CPU 0 ends the generation while CPU 1 returns lazily to what it has loaded,
/// and while a page of that goes (rules 7 and 8).
#[test]
fn rollover_while_a_lazy_cpu_returns() {
    each("a lazy CPU returns through a rollover", [SCHEMES, FLUSHES], |case| {
        explore(case.asid_bits(2), 2, |d| {
            let user = furnished(d);
            let task = sleeper(d, 1, user.clone(), || _ = user::load(PAGE));
            let others = [d.create(), d.create(), d.create()];
            let [second, third, fourth] = others;
            [&second, &third].iter().for_each(|other| d.make_lazy(0, other));
            d.spawn(0, move || {
                kernel::exec(fourth);
                user::unmap(&user, one_page());
            });
            d.wake(task, 1);
            d.keep([second, third]);
        })
    });
}

/// T51: CPU 0 unmaps while CPU 1 ends the generation and loads the same address space under whatever number it then has.
#[test]
fn rollover_while_a_page_goes() {
    each("a rollover while a page goes", [SCHEMES, FLUSHES], |case| {
        explore(case.asid_bits(2), 2, |d| {
            let user = furnished(d);
            let others = [d.create(), d.create(), d.create()];
            let [second, third, fourth] = others;
            [&second, &third].iter().for_each(|other| d.make_lazy(0, other));
            let entering = user.clone();
            d.spawn(0, move || user::unmap(&user, one_page()));
            d.spawn(1, move || {
                kernel::exec(fourth);
                kernel::exec(entering);
                let _ = user::load(PAGE);
            });
            d.keep([second, third]);
        })
    });
}

/// CPU 1 goes offline while it is lazy on what CPU 0 drops.
#[test]
fn dropped_while_a_lazy_cpu_goes_offline() {
    each("a lazy CPU goes offline", [LINES, &[]], |case| {
        explore(case, 2, |d| {
            let dead = d.create();
            d.make_lazy(1, &dead);
            d.spawn(0, move || drop(dead));
            d.lock().toggle_power(1);
        })
    });
}
