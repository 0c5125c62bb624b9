//! What keeps alive what a CPU uses lazily: slots, tags, epochs, counts and masks.

use std::sync::Arc;

use super::host::{FRAMES, Host, cpu, free_frames, serve};
use super::{check, check_with};
use crate::sync::{AtomicBool, Ordering};
use crate::{Config, Machine, Mm, MmUser, Scheme, Target};

fn plain(scheme: Scheme) -> Config {
    Config { scheme, ..Config::default() }
}

fn create() -> MmUser<Host> {
    Mm::create().expect("there are frames")
}

/// This CPU runs a task of `user`, whose end leaves it lazy; then the user is given back.
fn run(user: MmUser<Host>) {
    let system = Host::system();
    system.transition(None, Some(&user));
    system.transition(Some(&user), None);
    drop(user);
}

/// Serves other CPUs until they are done.
fn serve_until(done: &AtomicBool) {
    // Acquire: pairs with the Release of who is done.
    while !done.load(Ordering::Acquire) {
        serve();
        loom::thread::yield_now();
    }
    serve();
}

/// CPU 1 runs in an address space, is lazy on it, and leaves it for another, while CPU 0 gives its own user back. Whoever is
/// last: it is freed once, after CPU 1's walks of it. (`table` in `host` is where loom would object.)
fn dropped_while_a_lazy_cpu_leaves(config: Config) {
    check_with(config, 2, move || {
        let (dead, next) = (create(), create());
        let (entering, done) = (dead.clone(), Arc::new(AtomicBool::new(false)));
        let dropped = done.clone();
        let other = cpu(1, move || {
            run(entering);
            run(next);
            serve_until(&dropped);
        });
        drop(dead);
        if config.scheme == Scheme::Qsbr {
            // Frees what CPU 1's epoch says it has left.
            Host::system().reap();
        }
        // Release: pairs with the Acquire in `serve_until`.
        done.store(true, Ordering::Release);
        other.join().expect("it ends");
        if config.scheme == Scheme::Handoff {
            // CPU 1 was the last to leave it, and has handed it on.
            Host::system().free_all_dead();
        }
        let kept = usize::from(matches!(config.scheme, Scheme::Refcount | Scheme::Handoff));
        if config.scheme == Scheme::Qsbr {
            return assert!(free_frames() >= FRAMES - 3, "what waits is not freed");
        }
        assert_eq!(free_frames(), FRAMES - 1 - kept, "what CPU 1 is still lazy on, and no more");
    });
}

#[test]
fn refcount() {
    dropped_while_a_lazy_cpu_leaves(plain(Scheme::Refcount));
}

#[test]
fn shootdown() {
    dropped_while_a_lazy_cpu_leaves(plain(Scheme::Shootdown));
}

/// Asked by their slots, CPUs that name another have left.
#[test]
fn shootdown_by_slot() {
    dropped_while_a_lazy_cpu_leaves(Config { target: Target::Slot, ..plain(Scheme::Shootdown) });
}

#[test]
fn handoff() {
    dropped_while_a_lazy_cpu_leaves(plain(Scheme::Handoff));
}

#[test]
fn qsbr() {
    dropped_while_a_lazy_cpu_leaves(plain(Scheme::Qsbr));
}

#[test]
fn eager() {
    dropped_while_a_lazy_cpu_leaves(plain(Scheme::Eager));
}

/// Handoff's slots and tags: two CPUs leave while a third tags them.
#[test]
fn handoff_to_two() {
    check(Scheme::Handoff, 3, || {
        let dead = create();
        let leave = |number: usize, user: MmUser<Host>| {
            cpu(number, move || {
                run(user);
                Host::cpu_state().unlazy();
                crate::System::<Host>::finish_switch();
            })
        };
        let cpus = [leave(1, dead.clone()), leave(2, dead.clone())];
        drop(dead);
        cpus.into_iter().for_each(|cpu| cpu.join().expect("it ends"));
        Host::system().free_all_dead();
        assert_eq!(free_frames(), FRAMES - 1, "the last to leave hands it to who frees it");
    });
}
