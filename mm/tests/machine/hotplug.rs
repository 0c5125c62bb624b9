//! CPUs that leave the machine and come back, as the contract of the mm layer wants it.
//!
//! A CPU without power takes no TLBI, and its TLB comes back with what it held: the architecture
//! says nothing of what is in it then.

use crate::{Machine, System};

use super::kernel::enqueue;
use super::{Event, Lying, State, World, this_thread};

/// What a CPU is up to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Power {
    /// It takes part.
    Up,
    /// It is sent no tasks any more, and leaves when it has none.
    Leaving,
    /// It has no power.
    Off,
    /// It was told to come.
    Coming,
}

impl State {
    /// Takes a CPU down if it is up, brings it up if it is off. CPU 0 stays: that is where tasks go.
    pub fn toggle_power(&mut self, cpu: usize) {
        match self.cores[cpu].power {
            Power::Up if cpu != 0 => {
                self.cores[cpu].power = Power::Leaving;
                for thread in std::mem::take(&mut self.cores[cpu].queue) {
                    enqueue(self, thread, 0);
                }
            }
            Power::Off => self.cores[cpu].power = Power::Coming,
            _ => {}
        }
    }

    /// Where a task goes that was to go to this CPU.
    pub(super) fn open_cpu(&self, cpu: usize) -> usize {
        if self.cores[cpu].power == Power::Up { cpu } else { 0 }
    }

    pub(super) fn has_power(&self, cpu: usize) -> bool {
        self.cores.get(cpu).is_none_or(|core| core.power != Power::Off)
    }
}

/// The way of an idle CPU out of the machine, and back.
pub(super) fn leave(world: &'static World) {
    let me = this_thread().expect("the director is no CPU");
    let masked = Lying::mask_irqs();
    System::<Lying>::leave_cpu();
    world.step(Event::Offline, |state, cpu| state.cores[cpu].online = false);
    drop(masked);
    // Those who saw it online may still ask it for something.
    while world.lock().senders > 0 {
        world.step(Event::Wait, |_, _| ());
    }
    world.step(Event::PowerOff, |state, cpu| {
        assert!(state.cores[cpu].inbox.is_empty(), "whoever asks for something is a sender");
        state.cores[cpu].power = Power::Off;
        state.lose_power(cpu);
    });
    world.let_others_run(me);
    if world.lock().over {
        return;
    }
    let masked = Lying::mask_irqs();
    System::<Lying>::enter_cpu();
    world.step(Event::Online, |state, cpu| {
        state.cores[cpu].online = true;
        state.cores[cpu].power = Power::Up;
    });
    drop(masked);
}
