//! The scheduler: which thread runs on which CPU, and the switch between two.
//!
//! Round robin within a CPU, a slice of 4 ms while others wait, no tick otherwise. The pieces: [`thread`] (what is
//! scheduled), `runqueue` (who waits to run here), `placement` (where a woken thread goes), `current` (what the running thread does with itself), [`wait`] and
//! [`wait_queue`] (how a thread blocks), `timers` (until when), [`affinity`] (where it may run), [`idle`] and [`reaper`].
//!
//! A thread is at every moment in exactly one place: current on a CPU, in one run queue or inbox, or blocked. Two
//! things keep it from running on two CPUs at once. Only one waker wins the change from blocked to runnable, and only
//! the winner puts the thread into a queue. And while a CPU still saves the thread's registers (`on_cpu`), that
//! queue is the same CPU's own, which is not read again before the save is complete.
//!
//! Interrupts are masked from the decision to the end of the switch. The preemption count is 0 there: it belongs to
//! the CPU, and what belongs to a thread must not change with the thread.

pub mod affinity;
mod current;
pub mod idle;
mod placement;
pub mod reaper;
mod runqueue;
pub mod thread;
mod timers;
pub mod wait;
pub mod wait_queue;

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::Ordering;

use mm::{CpuId, System};

pub use self::affinity::set_affinity;
pub use self::current::{
    current, current_arc, current_mm, fp_registers, is_interrupted, on_fp_trap, replace_mm, set_fp_registers, share_mm,
    who_runs_on,
};
pub use self::runqueue::Local;
pub use self::thread::{Builder, Thread};
pub use self::wait::{Patience, Signals, WaitError, park, sleep_until};
pub use self::wait_queue::WaitQueue;

use self::runqueue::{Aftercare, LEFT_AN_MM};
use self::thread::State;
use crate::arch::{context, cpu, fpsimd, pmu, timer};
use crate::drivers::{gic, interrupt};
use crate::ipi;
use crate::machine::Kernel;
use crate::percpu::{self, PerCpu};
use crate::platform;
use crate::println;
use crate::sync::{self, IrqGuard};
use crate::trace;

/// Prepares the scheduler. CPU 0, once, before any CPU joins.
pub fn init() {
    timer::init();
    runqueue::init();
    interrupt::register(platform::get().timer_interrupt, "timer", |_| on_timer());
}

/// Makes this CPU one that threads run on. What called it is from now on the CPU's idle thread, and ends in
/// [`idle::run`].
pub fn join_cpu() {
    let _masked = IrqGuard::new();
    let this = percpu::this();
    timer::init_cpu();
    pmu::init_cpu();
    if !cpu::is_coherent() {
        println!(
            "CPU {}: CPUECTLR_EL1.SMPEN is 0, so its caches are not coherent; mend the firmware",
            percpu::cpu_id()
        );
    }
    gic::enable(platform::get().timer_interrupt);
    fpsimd::init_cpu(&this.sched.fp);
    this.sched.forget_alarm();
    // A CPU that was here before idles as the thread that it was.
    if this.sched.shared.idle.load(Ordering::Relaxed).is_null() {
        let idle = Box::leak(Box::new(Builder::new("idle").adopt(this.id)));
        // Relaxed: of interest to this CPU, and a hint to others.
        this.sched.shared.idle.store(idle, Ordering::Relaxed);
    }
    // SAFETY: interrupts are masked, and the thread that is adopted for this CPU is what has been running on it.
    unsafe { (*this.sched.shared.idle.load(Ordering::Relaxed)).run_here(this) };
}

/// Lets threads be sent to this CPU, which has joined and is online.
pub fn open_cpu() {
    percpu::this().sched.set_open(true);
}

/// Lets no more threads be sent to a CPU, and makes those leave that are there. Those that may run nowhere else may run
/// anywhere from now on. The CPU ends up in [`idle::run_while_open`]'s return.
///
/// Others may have seen the CPU open and be about to send it a thread: they do that with interrupts masked.
pub fn close_cpu(cpu: usize) {
    percpu::of(cpu).sched.set_open(false);
    ipi::send_reschedule(CpuId(cpu as u16));
}

/// Makes this CPU see to the deadlines that are armed on one that runs no threads any more.
pub fn adopt_timers(from: usize) {
    timers::adopt(from);
}

/// Lets the other threads of this CPU run first.
pub fn yield_now() {
    let masked = IrqGuard::new();
    schedule(Leave::Queue);
    drop(masked);
}

/// Ends the running thread.
pub fn exit() -> ! {
    let thread = current();
    // Release: pairs with the Acquire in `has_exited`.
    thread.exited.store(true, Ordering::Release);
    thread.joiners.wake_all();
    let _masked = IrqGuard::new();
    // Relaxed: nobody wakes a thread that is not blocked.
    thread.state.store(State::Inactive as u32, Ordering::Relaxed);
    percpu::this().sched.aftercare.store(Aftercare::Bury as u8, Ordering::Relaxed);
    schedule(Leave::Nowhere);
    unreachable!("a thread ran after its end")
}

/// On the way out of an interrupt, interrupts masked: switches if another thread should run and may.
#[inline]
pub fn preempt() {
    let anchor = percpu::anchor();
    if anchor.need_resched.load(Ordering::Relaxed) && anchor.preempt.load(Ordering::Relaxed) == 0 {
        schedule(Leave::Queue);
    }
}

/// When preemption is possible again: does what [`preempt`] had to leave undone, unless interrupts are masked; then the
/// next interrupt or switch does.
#[cold]
pub fn make_up_for_preemption() {
    if !sync::irqs_masked() {
        let masked = IrqGuard::new();
        preempt();
        drop(masked);
    }
}

/// Another CPU has sent a thread here, or wants this one to look whom it runs. Interrupts are masked.
pub fn on_reschedule() {
    let this = percpu::this();
    this.sched.fetch_inbox();
    let words = || (ipi::Reason::Reschedule as u64, trace::UNKNOWN);
    trace::span(ipi::HANDLED, words, || this.sched.on_interrupt(this));
}

fn on_timer() {
    let this = percpu::this();
    this.sched.on_timer(this);
}

/// Takes the running thread, which has announced that it blocks, off its CPU. Interrupts are masked.
fn give_up_cpu() {
    schedule(Leave::Nowhere);
}

/// Makes the running thread leave a CPU that its affinity no longer allows.
fn reschedule_if_forbidden() {
    let masked = IrqGuard::new();
    while !current().affinity.allows(percpu::cpu_id()) {
        schedule(Leave::Queue);
    }
    drop(masked);
}

/// The name of the thread that runs on a CPU: this one, or one that has stopped.
pub(crate) fn name_on(cpu: usize) -> &'static str {
    // SAFETY: null, or the current thread of a CPU that runs no other from now on.
    let current = unsafe { percpu::of(cpu).sched.shared.current.load(Ordering::Relaxed).as_ref() };
    current.map_or("nothing", |thread| thread.name())
}

/// Where a thread goes that leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leave {
    /// To the end of the CPU's run queue.
    Queue,
    /// Nowhere: whoever wakes it puts it into a queue, or it never runs again.
    Nowhere,
}

/// Runs the next thread on this CPU. Returns when the thread that called it runs again, perhaps on another CPU.
fn schedule(leave: Leave) {
    let previous = current();
    debug_assert!(sync::irqs_masked() && previous.anchor.preempt.load(Ordering::Relaxed) == 0);
    previous.anchor.need_resched.store(false, Ordering::Relaxed);
    let this = percpu::this();
    let local = &this.sched;
    if leave == Leave::Queue && !local.is_idle_thread(previous) {
        local.push(previous);
    }
    let next = local.pick(this.id, previous);
    if !core::ptr::eq(next, previous) {
        switch(this, previous, next);
    }
}

/// The switch from one thread to another. Interrupts are masked; `next` is in no queue any more.
fn switch(this: &PerCpu, previous: &Thread, next: &Thread) {
    let local = &this.sched;
    debug_assert!(!next.on_cpu.load(Ordering::Relaxed), "{next:?} would run on two CPUs");
    // Relaxed: a waker needs it after `next` has blocked, which publishes it.
    next.on_cpu.store(true, Ordering::Relaxed);
    // SAFETY: interrupts are masked, and what is left to do before the stacks change does not ask who runs.
    unsafe { next.run_here(this) };
    local.start_slice();
    switch_user_registers(this, previous, next);
    // SAFETY: interrupts are masked, and this CPU switches between the two.
    let (left, entered) = unsafe { (previous.mm_cell(), next.mm_cell()) };
    if System::<Kernel>::switch_to(left.as_deref(), entered.as_deref()) {
        local.aftercare.fetch_or(LEFT_AN_MM, Ordering::Relaxed);
    }
    // SAFETY: interrupts are masked, `previous` is what runs, and no CPU runs `next`, whose stack lives because `next`
    // does.
    let left = unsafe { context::switch(&previous.context, &next.context, core::ptr::from_ref(previous).cast()) };
    // SAFETY: the message is the thread that was left, which lives at least until `finish_switch` lets go of it.
    finish_switch(unsafe { &*left.cast() });
}

/// What EL0 keeps in registers that the kernel does not use.
#[inline]
fn switch_user_registers(this: &PerCpu, previous: &Thread, next: &Thread) {
    // SAFETY: interrupts are masked, this CPU ran `previous`, and nobody runs `next`.
    unsafe { fpsimd::switch(&this.sched.fp, this.id, &previous.fp, &next.fp) };
    let tls: u64;
    // SAFETY: the kernel does not use this register.
    unsafe {
        asm!(
            "mrs {old}, tpidr_el0",
            "msr tpidr_el0, {new}",
            old = out(reg) tls,
            new = in(reg) next.tls.load(Ordering::Relaxed),
            options(nomem, nostack, preserves_flags),
        );
    }
    previous.tls.store(tls, Ordering::Relaxed);
}

/// The rest of the switch, on the stack of the next thread: lets go of the one that was left.
#[inline]
fn finish_switch(left: &Thread) {
    let aftercare = percpu::this().sched.aftercare.load(Ordering::Relaxed);
    if aftercare != Aftercare::Nothing as u8 {
        return finish_with_care(left, aftercare);
    }
    // Release: pairs with the Acquire in `place`; whoever runs it next sees what it saved. Nobody but its next waker
    // touches it from here on.
    left.on_cpu.store(false, Ordering::Release);
}

/// Does so where there is more to do than that. Kept apart from those switches that have nothing to do.
#[inline(never)]
fn finish_with_care(left: &Thread, aftercare: u8) {
    percpu::this().sched.aftercare.store(Aftercare::Nothing as u8, Ordering::Relaxed);
    if aftercare & LEFT_AN_MM != 0 {
        System::<Kernel>::finish_switch();
    }
    let aftercare = aftercare & !LEFT_AN_MM;
    if aftercare == Aftercare::Bury as u8 {
        return reaper::bury(left);
    }
    // Release: as in `finish_switch`.
    left.on_cpu.store(false, Ordering::Release);
    if aftercare == Aftercare::Move as u8 {
        placement::place(left);
    }
}

/// Where a new thread begins: switched to for the first time, with interrupts masked.
extern "C" fn start_thread(left: *const ()) -> ! {
    // SAFETY: as in `switch`.
    finish_switch(unsafe { &*left.cast() });
    sync::unmask_irqs();
    // SAFETY: the entry belongs to the thread itself, which takes it once.
    if let Some(entry) = unsafe { (*current().entry.get()).take() } {
        entry();
    }
    exit()
}
