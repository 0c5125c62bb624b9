//! A CPU that goes offline, and one that comes or comes back.
//!
//! Others skip an offline CPU: they neither shoot it nor ask it to invalidate. So it must hold nothing that they
//! may free, and when it comes back it must believe nothing that it remembers.

use crate::machine::{Machine, Point, note, point};
use crate::ops::Sequence;
use crate::stats::Counter;
use crate::system::System;

impl<M: Machine> System<M> {
    /// Makes this CPU, which is still online and runs no user any more, a holder of nothing.
    ///
    /// It leaves the root it is lazy on, gives back its reference or drains its tag, and keeps no ASID. Its bits in
    /// the masks of living `Mm`s stay: others look at them together with [`Machine::online`], and
    /// [`enter_cpu`](Self::enter_cpu) makes them harmless. Interrupts are masked.
    pub fn leave_cpu() {
        let cpu = M::cpu_state();
        debug_assert!(cpu.is_lazy() && M::irqs_masked(), "a CPU goes offline from its idle thread, interrupts masked");
        point::<M>(Point::CpuLeaving);
        cpu.unlazy();
        point::<M>(Point::CpuUnlazied);
        M::system().asids.release(cpu);
        // It may be the last one: with interrupts masked that goes to the reaper.
        drop(cpu.leave_lazy());
        Self::finish_switch();
    }

    /// Prepares this CPU, which is not online yet and has `init_mm` loaded, to switch.
    ///
    /// It forgets all that its TLB holds: while it was away it was asked for no invalidation, and ASIDs were given
    /// anew. Interrupts are masked.
    pub fn enter_cpu() {
        let cpu = M::cpu_state();
        debug_assert!(cpu.has_loaded(M::system().init_mm()) && M::irqs_masked(), "a CPU comes with init_mm loaded");
        point::<M>(Point::CpuEntering);
        M::run(Sequence::FlushLocal, 0);
        note(cpu, Counter::TlbiAllLocal, || 0);
    }
}
