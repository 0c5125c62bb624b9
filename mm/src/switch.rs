//! The one switch function: the only place where TTBR0, the ASID and the `loaded` slot change.
//!
//! A CPU either runs a task that has an `Mm` of its own, or it does not and keeps the last one
//! loaded: it is *lazy*. [`System::switch_to`] makes every transition between the two, for a
//! context switch as for exec, exit and a kernel thread that borrows an `Mm`:
//!
//! | from → to | TTBR0 | lazy reference |
//! |---|---|---|
//! | user → user | loads the next `Mm`, unless it is the same | none |
//! | user → kernel | untouched (`eager`: loads `init_mm`) | taken |
//! | kernel → kernel | untouched | stays with the CPU |
//! | kernel → user, the loaded `Mm` | untouched | given back |
//! | kernel → user, another | loads it | given back by [`System::finish_switch`] |

use core::ptr;

use crate::addr::{Asid, CpuId, Ttbr};
use crate::asid::CpuAsid;
use crate::flush::forget_here;
use crate::handle::{DeadSlot, MmRef, RefSlot};
use crate::lazy::fixed::{departure, entry};
use crate::lazy::{Departure, Entry};
use crate::machine::{Machine, Point, note, point};
use crate::mm::Mm;
use crate::ops::Sequence;
use crate::slot::Slot;
use crate::stats::{Counter, Counters};
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::system::System;

/// One CPU's part of the mm layer. Only the CPU itself writes it, with interrupts masked.
#[repr(align(128))]
pub struct CpuState<M: Machine> {
    /// The `loaded` slot: the `Mm` in TTBR0 now. Others compare it, and may tag it.
    loaded: Slot<M>,
    /// What was last written to TTBR0, stored beside the MSR: a second witness before a free.
    shadow: AtomicU64,
    /// The running task's own `Mm`; null when the CPU is lazy. Read by this CPU only.
    own: AtomicPtr<Mm<M>>,
    /// The reference a lazy CPU holds where the scheme counts them.
    pub(crate) lazy: RefSlot<M>,
    /// The reference that the switch under way took from this CPU, until `finish_switch`.
    departed: RefSlot<M>,
    /// The dead `Mm` that this CPU was the last to leave, until `finish_switch`.
    left_last: DeadSlot<M>,
    /// This CPU's number.
    pub id: CpuId,
    /// When the slot was last about to be tagged, in nanoseconds. Written by who tags it.
    tagged_at: AtomicU64,
    /// The last epoch in which this CPU held no dead `Mm`, under `qsbr`.
    pub(crate) epoch: AtomicU64,
    pub(crate) asid: CpuAsid,
    /// This CPU's counters.
    pub counters: Counters,
}

impl<M: Machine> CpuState<M> {
    pub(crate) fn new(id: CpuId, init_mm: &'static Mm<M>) -> Self {
        Self {
            loaded: Slot::new(init_mm),
            shadow: AtomicU64::new(Ttbr::new(init_mm.root(), Asid::INIT).0),
            own: AtomicPtr::new(ptr::null_mut()),
            lazy: RefSlot::new(),
            departed: RefSlot::new(),
            left_last: DeadSlot::new(),
            id,
            tagged_at: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            asid: CpuAsid::new(),
            counters: Counters::new(),
        }
    }

    /// Whether the slot names `mm`. Callable from any CPU: a `false` means that this CPU had left
    /// `mm`, walks included, or never had it.
    pub fn has_loaded(&self, mm: *const Mm<M>) -> bool {
        self.loaded.names(mm)
    }

    /// Marks the slot as naming a dead `Mm`, if it still names this one. The caller has found that it
    /// did, and nobody else tags this `Mm`.
    pub(crate) fn tag(&self, dead: &Mm<M>) -> bool {
        // Relaxed: published with the tag by its Release; if that fails, no tag refers to it.
        self.tagged_at.store(M::now_ns(), Ordering::Relaxed);
        self.loaded.tag(dead)
    }

    /// Whether the slot is tagged: the CPU has a dead `Mm` loaded.
    pub(crate) fn is_tagged(&self) -> bool {
        self.loaded.is_tagged()
    }

    /// When the tag in the slot was set, in nanoseconds.
    pub(crate) fn tagged_at(&self) -> u64 {
        // Relaxed: pairs with the store in `tag`; one that is out of date shoots early or late, and no more.
        self.tagged_at.load(Ordering::Relaxed)
    }

    /// Shows the `Mm` that this CPU has loaded. The caller is this CPU, interrupts masked.
    pub(crate) fn with_loaded<T>(&self, look: impl FnOnce(&Mm<M>) -> T) -> T {
        self.loaded.with(look)
    }

    /// The last value written to this CPU's TTBR0.
    pub fn shadow_ttbr(&self) -> Ttbr {
        // Acquire: pairs with the Release in `load_under`.
        Ttbr(self.shadow.load(Ordering::Acquire))
    }

    /// Whether the task running on this CPU has this `Mm` as its own. Another CPU gets a hint.
    pub fn owns(&self, mm: *const Mm<M>) -> bool {
        ptr::eq(self.own.load(Ordering::Relaxed), mm)
    }

    /// Whether the task running on this CPU has no `Mm` of its own.
    pub fn is_lazy(&self) -> bool {
        self.own.load(Ordering::Relaxed).is_null()
    }

    /// Loads `next`, and makes this CPU a holder of it. Says whether it was the last to leave a dead `Mm`.
    #[inline]
    fn load(&self, next: &Mm<M>) -> bool {
        self.load_under(self.prepare(next), next)
    }

    /// Loads `init_mm`: a lazy CPU leaves the user root it kept.
    #[inline(never)]
    pub(crate) fn unlazy(&self) {
        note(self, Counter::Unlazied, || self.shadow_ttbr().root().address().0);
        self.load_under(Asid::INIT, M::system().init_mm());
    }

    /// Loads `next` under its ASID. Interrupts are masked; whoever calls keeps `next` alive until it is left.
    ///
    /// The old `Mm` may be freed by others as soon as the slot is published, hence the order:
    /// own mask bit, DSB, MSR TTBR0, ISB, DSB, slot. Were the slot published before the DSB, a
    /// shooter could free the root while this CPU's walker still reads it.
    #[inline]
    fn load_under(&self, asid: Asid, next: &Mm<M>) -> bool {
        debug_assert!(M::irqs_masked(), "TTBR0 and its slot change together, interrupts masked");
        let ttbr = Ttbr::new(next.root(), asid);
        // Release: pairs with the Acquire in `shadow_ttbr`.
        self.shadow.store(ttbr.0, Ordering::Release);
        M::run(Sequence::LoadRoot, ttbr.0);
        self.asid.switched();
        self.counters.count(Counter::Ttbr0Writes);
        point::<M>(Point::RootLoaded);
        match departure::<M>() {
            Departure::Publish => self.loaded.publish(next),
            Departure::PublishAndTrim => self.publish_and_trim(next),
            Departure::TrimAndPublish => self.trim_and_publish(next),
            Departure::Drain => return self.publish_and_drain(next),
            Departure::NoteEpoch => {
                self.loaded.publish(next);
                self.note_epoch();
            }
        }
        false
    }

    // Functions of their own, or the registers that they need would be saved in every switch.

    #[inline(never)]
    fn publish_and_trim(&self, next: &Mm<M>) {
        self.loaded.with(|left| {
            // The slot no longer keeps `left`, but the own bit in its mask does: who frees it would
            // have to ask this CPU, which has interrupts masked. Hence nothing follows the trim.
            self.loaded.publish(next);
            point::<M>(Point::LeftUntrimmed);
            self.trim(left);
        });
    }

    #[inline(never)]
    fn trim_and_publish(&self, next: &Mm<M>) {
        self.loaded.with(|left| self.trim(left));
        self.loaded.publish(next);
    }

    #[inline(never)]
    fn publish_and_drain(&self, next: &Mm<M>) -> bool {
        let dead = self.loaded.swap(next);
        let last = dead.is_some();
        if let Some(dead) = dead {
            self.left_last.put(dead);
        }
        last
    }

    /// Clears the own bit in the mask of an `Mm` that was just left, if it has no users any more: nobody
    /// need ask this CPU then. A trim that comes too early to see that is a trim missed, and harmless.
    fn trim(&self, left: &Mm<M>) {
        if left.is_dying() {
            self.counters.count(Counter::BitsTrimmed);
            self.forget(left);
        }
    }

    /// Takes this CPU out of the holders of an `Mm` whose root it has left. Interrupts are masked.
    ///
    /// Where flushes ask holders only, nobody would tell this CPU of what changes from now on: so what
    /// it has cached goes first (rule 2). Broadcast invalidations reach it all the same. The bit is the
    /// last that it touches of the `Mm`.
    pub(crate) fn forget(&self, left: &Mm<M>) {
        debug_assert!(self.shadow_ttbr().root() != left.root(), "a CPU clears its bit only after it has left");
        if !left.holders().holds(self.id) {
            return;
        }
        if M::system().config.flush.asks_holders() {
            forget_here(left);
        }
        self.counters.count(Counter::MaskBitsCleared);
        left.holders().clear_own(self.id);
    }

    /// Hands the dead `Mm` that this CPU was the last to leave, if any, to who frees it.
    pub(crate) fn settle(&self) {
        if departure::<M>() != Departure::Drain {
            return;
        }
        if let Some(dead) = self.left_last.take() {
            M::system().left.push(dead);
        }
    }

    /// Makes this CPU a holder of `next` and gives the ASID to load it under.
    #[inline]
    fn prepare(&self, next: &Mm<M>) -> Asid {
        if !next.holders().holds(self.id) {
            point::<M>(Point::BitClear);
            self.counters.count(Counter::MaskBitsSet);
            next.holders().set_own(self.id);
            point::<M>(Point::BitSet);
            M::run(Sequence::PublishHolder, 0);
        }
        M::system().asids.activate(next.context(), self)
    }

    /// Counts and tells a switch, first of all: whatever else happens in it follows.
    #[inline(always)]
    fn note_switch(&self, kind: Counter, mm: &Mm<M>) {
        note(self, kind, || mm.root().address().0);
    }

    #[inline(always)]
    fn user_to_kernel(&self, own: &Mm<M>) {
        self.note_switch(Counter::SwitchUserKernel, own);
        M::run(Sequence::TaskSwitch, 0);
        self.own.store(ptr::null_mut(), Ordering::Relaxed);
        entry::<M>().enter_lazy(self, own);
    }

    #[inline(always)]
    fn kernel_to_user(&self, next: &Mm<M>) -> bool {
        let mut unfinished = false;
        if self.has_loaded(next) {
            self.note_switch(Counter::SwitchKernelSame, next);
            // No TTBR0 write, no shared store: the number under it survived any rollover (rule 7).
            if let Some(left) = self.leave_lazy() {
                left.put_beside_user();
            }
        } else {
            self.note_switch(Counter::SwitchKernelOther, next);
            unfinished = self.load(next);
            if let Some(left) = self.leave_lazy() {
                self.departed.put(left);
                unfinished = true;
            }
        }
        self.own.store(ptr::from_ref(next).cast_mut(), Ordering::Relaxed);
        unfinished
    }

    /// The task that ran here has given its `Mm` up (`lazy_tlb.exit=init`): the CPU does not stay lazy on
    /// it. So a final drop on another CPU finds nobody here.
    fn leave_for_good(&self) {
        self.unlazy();
        if let Some(left) = self.leave_lazy() {
            self.departed.put(left);
        }
    }

    /// Takes the lazy reference out, where the scheme keeps one.
    #[inline]
    pub(crate) fn leave_lazy(&self) -> Option<MmRef<M>> {
        if entry::<M>() != Entry::Count {
            return None;
        }
        let left = self.lazy.take();
        if left.is_some() {
            self.counters.count(Counter::LazyDrops);
        }
        left
    }

    /// The reference that the switch took from this CPU.
    #[inline]
    fn departed(&self) -> Option<MmRef<M>> {
        if entry::<M>() == Entry::Count { self.departed.take() } else { None }
    }

    #[inline(always)]
    fn user_to_user(&self, prev: &Mm<M>, next: &Mm<M>) -> bool {
        self.note_switch(Counter::SwitchUserUser, next);
        M::run(Sequence::TaskSwitch, 0);
        let unfinished = !ptr::eq(prev, next) && self.load(next);
        self.own.store(ptr::from_ref(next).cast_mut(), Ordering::Relaxed);
        unfinished
    }
}

impl<M: Machine> System<M> {
    /// Moves this CPU from a task whose own `Mm` is `prev` to one whose own is `next`; `None` is a
    /// kernel thread, idle, or a task that has none any more. It needs the CPU's own part only, and
    /// so does not look for the shared one.
    ///
    /// Interrupts are masked. Both `Mm`s have users throughout: the tasks' own. If it says so, [`System::finish_switch`]
    /// comes after it, with no lock held; else that would find nothing to do.
    #[inline(always)]
    #[must_use = "the switch may have to be finished"]
    pub fn switch_to(prev: Option<&Mm<M>>, next: Option<&Mm<M>>) -> bool {
        let cpu = M::cpu_state();
        debug_assert!(M::irqs_masked(), "slot, task and TTBR0 change together, interrupts masked");
        debug_assert!(prev.map_or(cpu.is_lazy(), |mm| cpu.owns(mm) && cpu.has_loaded(mm)), "{prev:?} is not what runs");
        match (prev, next) {
            (None, None) => {
                note(cpu, Counter::SwitchKernelKernel, || 0);
                false
            }
            (Some(prev), None) => {
                cpu.user_to_kernel(prev);
                false
            }
            (None, Some(next)) => cpu.kernel_to_user(next),
            (Some(prev), Some(next)) => cpu.user_to_user(prev, next),
        }
    }

    /// Gives back what the switch before it took from this CPU: its lazy reference, or its share in
    /// a dead `Mm`. It may be the last one, so this runs in the next task's context. Called with
    /// interrupts masked, it leaves the free to the reaper.
    pub fn finish_switch() {
        let cpu = M::cpu_state();
        drop(cpu.departed());
        cpu.settle();
    }

    /// A whole transition outside the scheduler: exec, exit, and a kernel thread that borrows an
    /// `Mm` or gives it back.
    ///
    /// From reading the old state to the MSR nothing may come between: an interrupt that shoots
    /// lazies would look at a slot and a task that disagree, and leave a dead root loaded (the
    /// bug that `ARCH_WANT_IRQS_OFF_ACTIVATE_MM` fixed).
    pub fn transition(&self, prev: Option<&Mm<M>>, next: Option<&Mm<M>>) {
        let masked = M::mask_irqs();
        if Self::switch_to(prev, next) {
            return Self::finish_transition(masked);
        }
        if prev.is_some() && next.is_none() && self.config.unlazy_at_exit {
            M::cpu_state().leave_for_good();
            Self::finish_transition(masked);
        }
    }

    /// What [`System::finish_switch`] does, but for the caller's own sake: the free may be here and now.
    #[inline(never)]
    fn finish_transition(masked: M::IrqsMasked) {
        let cpu = M::cpu_state();
        let departed = cpu.departed();
        cpu.settle();
        drop(masked);
        drop(departed);
    }
}
