//! Interrupting other CPUs: run a function there, make them schedule, stop them.
//!
//! Each CPU has one request of its own and one inbox. A request goes to any number of CPUs: its
//! sender writes it once, then sets its own bit in each target's inbox. A target takes all bits at
//! once, runs each sender's request and acknowledges it. So nothing is allocated and nothing can
//! dangle: requests live as long as the CPUs, and a sender does not write a new one before the last
//! acknowledgement of the old one, which is the last thing a target does with it.
//!
//! An SGI that an interrupt controller loses would leave its sender waiting for ever, and with it whoever posts to the
//! same inbox later: so a sender that has waited for long interrupts once more whoever has not heard it.
//!
//! Who waits has interrupts on and serves its own inbox, so two CPUs that call each other at once
//! both get their answer. Served functions run with interrupts masked and never wait themselves.

mod inbox;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use mm::{CpuId, CpuSet, MAX_CPUS, Point};

use self::inbox::Inbox;
use crate::drivers::{gic, interrupt};
use crate::sync::{self, IrqGuard, PreemptGuard};
use crate::trace::event::Kind;
use crate::{fault_points, percpu, trace};

/// Why CPUs are interrupted. What is counted, and which SGI they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Run a function.
    Call,
    /// Look whether another thread should run.
    Reschedule,
    /// Invalidate translations.
    Flush,
    /// Leave a dead address space.
    Shoot,
    /// Say whether a dead address space is still loaded (`lazy_tlb.debug=1`).
    Check,
    /// Stop for ever.
    Stop,
}

impl Reason {
    /// Every reason, in the order they are printed.
    pub const ALL: [Reason; 6] =
        [Reason::Call, Reason::Reschedule, Reason::Flush, Reason::Shoot, Reason::Check, Reason::Stop];

    /// The name of its counter in `/proc/lazy_tlb`.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::Call => "ipi_call",
            Reason::Reschedule => "ipi_resched",
            Reason::Flush => "ipi_tlb",
            Reason::Shoot => "ipi_shoot",
            Reason::Check => "ipi_check",
            Reason::Stop => "ipi_stop",
        }
    }

    /// What it is called in `/proc/interrupts`.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Call => "Function call interrupts",
            Reason::Reschedule => "Rescheduling interrupts",
            Reason::Flush => "TLB flush interrupts",
            Reason::Shoot => "Lazy TLB shoot interrupts",
            Reason::Check => "Lazy TLB check interrupts",
            Reason::Stop => "CPU stop interrupts",
        }
    }

    const fn sgi(self) -> u32 {
        match self {
            Reason::Call | Reason::Shoot | Reason::Check => 0,
            Reason::Reschedule => 1,
            Reason::Flush => 2,
            Reason::Stop => 3,
        }
    }
}

/// One CPU's part.
#[derive(Debug)]
pub struct Local {
    inbox: Inbox,
    request: Request,
    /// SGIs sent, by reason. Written by this CPU only.
    sent: [AtomicU64; Reason::ALL.len()],
    /// Requests of others that were served, by reason. Written by this CPU only.
    served: [AtomicU64; Reason::ALL.len()],
    /// SGIs sent once more because their targets had not answered for long. Written by this CPU only.
    resent: AtomicU64,
}

impl Local {
    /// An idle CPU's part.
    pub const fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            request: Request::new(),
            sent: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            served: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            resent: AtomicU64::new(0),
        }
    }

    fn count_sent(&self, reason: Reason, amount: usize) {
        count(&self.sent[reason as usize], amount);
    }

    /// How many CPUs ask something of this one and were not heard yet.
    pub fn waiting(&self) -> usize {
        self.inbox.count()
    }

    /// How many SGIs this CPU has sent once more, because they may have been lost.
    pub fn resent(&self) -> u64 {
        // Relaxed: see `count`.
        self.resent.load(Ordering::Relaxed)
    }

    /// How many SGIs this CPU has sent for a reason.
    pub fn sent(&self, reason: Reason) -> u64 {
        // Relaxed: see `count`.
        self.sent[reason as usize].load(Ordering::Relaxed)
    }
}

/// Relaxed: a number for people. Load and store: only one CPU writes it, and an interrupt between the
/// two may lose a count of its own.
fn count(cell: &AtomicU64, amount: usize) {
    cell.store(cell.load(Ordering::Relaxed) + amount as u64, Ordering::Relaxed);
}

/// How many requests of a reason a CPU has had from others. Several that came in one SGI are several, and so
/// are those that the CPU served without one because it was waiting itself. Requests to reschedule and to stop are
/// SGIs and nothing more: what is still pending when it is sent again counts once.
pub fn received(cpu: usize, reason: Reason) -> u64 {
    match reason {
        Reason::Reschedule | Reason::Stop => interrupt::taken(cpu, reason.sgi()),
        // Relaxed: see `count`.
        _ => percpu::of(cpu).ipi.served[reason as usize].load(Ordering::Relaxed),
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

/// How often a second who waits for an answer asks again.
const REMINDERS_PER_SECOND: u64 = 50;

/// How an answer is recorded.
pub(crate) const HANDLED: [Kind; 2] = [Kind::IpiHandle, Kind::IpiAck];

/// A function, its argument, and why it is to run.
type Work = (fn(usize), usize, Reason);

/// What one CPU asks of others.
#[derive(Debug)]
struct Request {
    work: UnsafeCell<Work>,
    /// Targets that have not acknowledged. While it is not 0, `work` does not change.
    outstanding: AtomicUsize,
}

// SAFETY: `work` is written only by its own CPU, only while nobody reads it (`outstanding` is 0 and
// no inbox holds the CPU's bit), and read only by CPUs that found the bit; see `write` and `run`.
unsafe impl Sync for Request {}

impl Request {
    const fn new() -> Self {
        Self { work: UnsafeCell::new((|_| (), 0, Reason::Call)), outstanding: AtomicUsize::new(0) }
    }

    fn is_done(&self) -> bool {
        // Acquire: pairs with the Release in `run`; what the targets did has happened.
        self.outstanding.load(Ordering::Acquire) == 0
    }

    /// Prepares the next round. The caller is this request's CPU, pinned, and the last is done.
    fn write(&self, work: Work, targets: usize) {
        debug_assert!(self.is_done());
        // SAFETY: every reader of the last round has acknowledged, and it reads nothing afterwards;
        // the bits that let others read are set after this.
        unsafe { *self.work.get() = work };
        // Relaxed: published with `work` by the Release in `Inbox::post`.
        self.outstanding.store(targets, Ordering::Relaxed);
    }

    /// Does the work for its `sender`, counts it among what this CPU has `served`, and acknowledges it. The caller took the
    /// sender's bit out of its own inbox.
    fn run(&self, sender: CpuId, served: &[AtomicU64]) {
        // SAFETY: the sender set our bit after it wrote the work (`Inbox::post` and `take` pair),
        // and will not write again before our acknowledgement below.
        let (function, argument, reason) = unsafe { *self.work.get() };
        let words = || (reason as u64, sender.index() as u64);
        trace::span(HANDLED, words, || function(argument));
        count(&served[reason as usize], 1);
        // Release: pairs with the Acquire in `is_done`. The last touch: the sender may now reuse it.
        self.outstanding.fetch_sub(1, Ordering::Release);
    }
}

/// CPUs that take IPIs, one bit each. A CPU sets and clears its own bit.
static ONLINE: [AtomicU64; MAX_CPUS / 64] = [const { AtomicU64::new(0) }; MAX_CPUS / 64];

/// The CPUs that take IPIs.
pub fn online() -> CpuSet {
    // Acquire: pairs with the Release in `go_online`; the CPU's own set-up has happened.
    CpuSet::from_words(&ONLINE.each_ref().map(|word| word.load(Ordering::Acquire)))
}

/// Names the handlers of the SGIs; the scheduler, a floor above, gives its own. CPU 0 calls it before
/// any CPU goes online.
pub fn init(on_reschedule: interrupt::Handler) {
    for reason in [Reason::Call, Reason::Flush] {
        interrupt::register(reason.sgi(), reason.label(), |_| serve());
    }
    interrupt::register(Reason::Reschedule.sgi(), Reason::Reschedule.label(), on_reschedule);
    interrupt::register(Reason::Stop.sgi(), Reason::Stop.label(), |_| stop_this_cpu());
}

/// Lets others send IPIs to this CPU, whose part of the interrupt controller is set up.
pub fn go_online() {
    let cpu = percpu::cpu_id();
    // Release: pairs with the Acquire in `online`.
    ONLINE[cpu / 64].fetch_or(1 << (cpu % 64), Ordering::Release);
}

/// Lets nobody begin to send IPIs to this CPU any more. Whoever has read [`online`] before, and stayed on his CPU since,
/// may still send one, and wait for it: this CPU goes on taking them until all those have passed.
pub fn go_offline() {
    let cpu = percpu::cpu_id();
    // Release: pairs with the Acquire in `online`; who misses the bit sees what this CPU has left behind.
    ONLINE[cpu / 64].fetch_and(!(1 << (cpu % 64)), Ordering::Release);
}

/// Serves what was asked last of this CPU, which is offline. Nobody sends any more, and interrupts stay masked.
pub fn serve_the_last() {
    serve();
}

/// Runs `function(argument)` on each online CPU of `mask`, this one too if it is in it.
///
/// With `wait`, all have run it when this returns; without, this CPU has, and the others will. In
/// both cases the call first waits for this CPU's previous request, if that did not. The function
/// runs with interrupts masked: it must be short and must not wait for anything.
///
/// # Panics
/// In debug builds, if interrupts are masked: the caller might hold a lock that a target spins on
/// with its own interrupts masked, and neither would ever move.
pub fn on_each_cpu_mask(reason: Reason, mask: &CpuSet, function: fn(usize), argument: usize, wait: bool) {
    debug_assert!(!sync::irqs_masked(), "an IPI was to be waited for with interrupts masked");
    // This CPU stays this CPU, and its one request belongs to this call.
    let _pinned = PreemptGuard::new();
    let this = percpu::this();
    let own_id = CpuId(percpu::cpu_id() as u16);
    let mut targets = mask.intersection(&online());
    targets.remove(own_id);
    fault_points::kernel_point(Point::TargetsRead);
    if !targets.is_empty() {
        wait_until_done(&this.ipi.request);
        this.ipi.request.write((function, argument, reason), targets.count());
        targets.iter().for_each(|cpu| note_send(reason, cpu));
        post(&this.ipi, own_id, reason, &targets);
    }
    if mask.contains(own_id) {
        let _irqs_masked = IrqGuard::new();
        function(argument);
    }
    if wait {
        wait_until_done(&this.ipi.request);
    }
    trace::note(Kind::IpiDone, || (reason as u64, 0));
}

/// Records that an IPI is about to be sent: ahead of what lets the target know.
fn note_send(reason: Reason, to: CpuId) {
    trace::note(Kind::IpiSend, || (reason as u64, to.index() as u64));
}

/// Puts this CPU's bit into the targets' inboxes and interrupts those whose inbox was empty.
fn post(local: &Local, own_id: CpuId, reason: Reason, targets: &CpuSet) {
    // Where the inbox was not empty, whoever made it so has sent an SGI, or is about to.
    let idle: CpuSet = targets.iter().filter(|cpu| percpu::of(cpu.index()).ipi.inbox.post(own_id)).collect();
    if !idle.is_empty() {
        local.count_sent(reason, idle.count());
        if !fault_points::loses_sgi() {
            gic::send_sgi(reason.sgi(), &idle);
        }
    }
}

/// Waits for the last acknowledgement, and meanwhile serves whoever waits for this CPU.
fn wait_until_done(request: &Request) {
    let patience = CNTFRQ_EL0.get() / REMINDERS_PER_SECOND;
    let mut start = CNTVCT_EL0.get();
    while !request.is_done() {
        serve();
        sync::relax();
        if CNTVCT_EL0.get() - start > patience {
            remind();
            start = CNTVCT_EL0.get();
        }
    }
}

/// Interrupts the CPUs that have not heard this one's request yet.
#[cold]
fn remind() {
    let (local, own_id) = (&percpu::this().ipi, CpuId(percpu::cpu_id() as u16));
    // Also one that has gone offline since: it listens until nobody waits for it, and has no other way to hear.
    let cpus = CpuSet::first(percpu::count());
    let deaf: CpuSet = cpus.iter().filter(|cpu| percpu::of(cpu.index()).ipi.inbox.holds(own_id)).collect();
    if !deaf.is_empty() {
        count(&local.resent, deaf.count());
        gic::send_sgi(Reason::Call.sgi(), &deaf);
    }
}

/// Does what other CPUs ask of this one.
fn serve() {
    // Also in the waiter's context: the SGI's handler must not take a bit between its request's
    // start and end, or requests would nest.
    let _irqs_masked = IrqGuard::new();
    let local = &percpu::this().ipi;
    local.inbox.take(|sender| percpu::of(sender.index()).ipi.request.run(sender, &local.served));
}

/// Makes a CPU look whether another thread should run there.
///
/// What this CPU stored before, such as the CPU's `need_resched`, is visible to its handler.
pub fn send_reschedule(cpu: CpuId) {
    let _irqs_masked = IrqGuard::new();
    percpu::this().ipi.count_sent(Reason::Reschedule, 1);
    note_send(Reason::Reschedule, cpu);
    gic::send_sgi_to(Reason::Reschedule.sgi(), cpu);
}

/// Stops all other CPUs, as far as they take interrupts. For a panic: works in any context.
pub fn stop_others() {
    let _irqs_masked = IrqGuard::new();
    let own_id = CpuId(percpu::cpu_id() as u16);
    let others = || {
        let mut others = online();
        others.remove(own_id);
        others
    };
    if others().is_empty() {
        return;
    }
    percpu::this().ipi.count_sent(Reason::Stop, others().count());
    gic::send_sgi(Reason::Stop.sgi(), &others());
    // A CPU that has masked interrupts for ever never stops: the panic must still be told.
    let end = CNTVCT_EL0.get() + CNTFRQ_EL0.get() / 10;
    while !others().is_empty() && CNTVCT_EL0.get() < end {
        sync::relax();
    }
}

fn stop_this_cpu() -> ! {
    // Whatever this CPU printed is out.
    go_offline();
    loop {
        asm::wfi();
    }
}
