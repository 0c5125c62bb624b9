//! The two counts, the reaper's list, and the mask.

use super::check;
use super::host::{FRAMES, Host, cpu, free_frames, unable_to_wait};
use crate::sync::{AtomicU64, Ordering};
use crate::{CpuId, CpuMask, Machine, Mm, Scheme, Sequence};

/// Everything is free but `init_mm`'s root.
fn all_free() {
    assert_eq!(free_frames(), FRAMES - 1);
}

/// Rule 5: who comes for a user gets one that keeps the mappings, or none; the last drop frees once.
#[test]
fn a_borrower_against_the_last_user() {
    check(Scheme::Eager, 2, || {
        let user = Mm::<Host>::create().expect("there are frames");
        let reference = user.grab_ref();
        let other = cpu(1, move || drop(user));
        if let Some(user) = reference.try_user() {
            assert!(user.users() >= 1, "users never rise from zero");
        }
        drop(reference);
        other.join().expect("it ends");
        all_free();
    });
}

/// Two references and a user go on three CPUs: one of the three is the last, and frees.
#[test]
fn the_last_reference_frees_once() {
    check(Scheme::Eager, 3, || {
        let user = Mm::<Host>::create().expect("there are frames");
        let (one, other) = (user.grab_ref(), user.grab_ref());
        let cpus = [cpu(1, move || drop(one)), cpu(2, move || drop(other))];
        drop(user);
        cpus.into_iter().for_each(|cpu| cpu.join().expect("it ends"));
        all_free();
    });
}

/// Two CPUs leave dead ones to the reaper while that takes its list: none is lost, none is freed twice.
#[test]
fn the_reapers_list() {
    check(Scheme::Eager, 3, || {
        let (one, other) = (Mm::<Host>::create(), Mm::<Host>::create());
        let cpus = [cpu(1, move || unable_to_wait(|| drop(one))), cpu(2, move || unable_to_wait(|| drop(other)))];
        Host::system().reap();
        cpus.into_iter().for_each(|cpu| cpu.join().expect("it ends"));
        Host::system().reap();
        all_free();
    });
}

/// I17 in C11, the architecture's barriers as fences: the flusher sees the bit, or the newcomer the cleared entry.
#[test]
fn the_mask_against_the_entry() {
    check(Scheme::Eager, 2, || {
        let shared = std::sync::Arc::new((CpuMask::new(), AtomicU64::new(1)));
        let newcomer = shared.clone();
        let found = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let finds = found.clone();
        let other = cpu(1, move || {
            newcomer.0.set_own(CpuId(1));
            Host::run(Sequence::PublishHolder, 0);
            finds.store(newcomer.1.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        shared.1.store(0, Ordering::Relaxed);
        Host::run(Sequence::PublishAndLook, 0);
        let holds = shared.0.snapshot().contains(CpuId(1));
        other.join().expect("it ends");
        assert!(holds || found.load(Ordering::Relaxed) == 0, "neither the bit nor the cleared entry was seen");
    });
}
