//! ASIDs: the fast path against the end of a generation.

use super::check;
use super::host::{Host, cpu};
use crate::{Machine, Mm, MmUser, Scheme};

/// 3 usable numbers. CPU 1 takes the number of the first on the fast path, or the slow one, while CPU 0 comes with a fourth
/// and ends the generation. Afterwards no two run under one number, and none under a number that is not its own.
#[test]
fn fast_path_against_rollover() {
    check(Scheme::Shootdown, 2, || {
        let users: [MmUser<Host>; 4] = std::array::from_fn(|_| Mm::create().expect("there are frames"));
        let system = Host::system();
        let [first, second, third, fourth] = &users;
        system.transition(None, Some(first));
        system.transition(Some(first), Some(second));
        system.transition(Some(second), Some(third));
        let entering = first.clone();
        let other = cpu(1, move || {
            let system = Host::system();
            system.transition(None, Some(&entering));
            system.transition(Some(&entering), None);
            // Back to the same: no number is taken.
            system.transition(None, Some(&entering));
            let loaded = Host::cpu_state().shadow_ttbr().asid();
            assert_eq!(entering.context().asid(), Some(loaded), "it runs under its own number");
            std::mem::forget(entering);
        });
        system.transition(Some(third), Some(fourth));
        other.join().expect("it ends");
        let [here, there] = [0, 1].map(|cpu| system.cpus()[cpu].shadow_ttbr().asid());
        assert_eq!(Some(here), fourth.context().asid());
        assert_ne!(here, there, "two address spaces under one number");
        std::mem::forget(users);
    });
}
