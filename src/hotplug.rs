//! Taking a CPU out of the running machine, and putting it back (docs/decisions/0008).
//!
//! Two sides: a thread that controls, and the idle thread of the CPU that goes. They take turns, stage by stage:
//!
//! | the thread that controls                        | the CPU                                               |
//! |-------------------------------------------------|-------------------------------------------------------|
//! | closes the CPU for threads                      | sends those it has elsewhere                          |
//! | waits for all who saw it open (masked sections) | comes to rest: [`Stage::Resting`]                     |
//! | the same again, for who woke its last threads   | forwards what still comes                             |
//! | [`Stage::Leave`]                                | loads `init_mm`, goes offline: [`Stage::Offline`]     |
//! | waits for all who saw it online (pinned)        | serves what they send                                 |
//! | adopts its deadlines; [`Stage::Stop`]           | masks interrupts, serves what is left, stops          |
//!
//! A sender of IPIs reads [`ipi::online`] and waits for an answer on one CPU, with preemption off. So when the thread
//! that controls has itself run on every CPU after the CPU went offline, no sender is left that saw it online. Did the CPU
//! stop before that, such a sender would wait for ever.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use mm::{CpuId, CpuSet, Machine, Point, System};

use crate::arch::timer::now_ns;
use crate::ipi::{self, Reason};
use crate::machine::Kernel;
use crate::sched::{self, Builder, Signals, WaitQueue};
use crate::smp::{self, Failure};
use crate::sync::{self, IrqGuard};
use crate::{fault_points, percpu, println};

/// How far the CPU that goes has come. Each side waits for the other's next step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u32)]
enum Stage {
    /// Threads leave it.
    Closed,
    /// It has come to rest.
    Resting,
    /// It is to leave.
    Leave,
    /// It has nothing loaded and is not online.
    Offline,
    /// It is to stop.
    Stop,
}

/// A CPU's [`Stage`]. Each has its own: one that is late to stop goes on when the next is on its way. Release and Acquire:
/// each side sees what the other did before its step.
pub(crate) struct Progress(AtomicU32);

impl Progress {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(Stage::Closed as u32))
    }
}

fn reach(cpu: usize, stage: Stage) {
    percpu::of(cpu).progress.0.store(stage as u32, Ordering::Release);
}

fn is_reached(cpu: usize, stage: Stage) -> bool {
    percpu::of(cpu).progress.0.load(Ordering::Acquire) >= stage as u32
}

/// Why a CPU stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such CPU.
    NoSuchCpu,
    /// CPU 0 stays: device interrupts go there, and its first stack is the one that overflows are reported on.
    BootCpu,
    /// There is no memory for the thread that does it.
    OutOfMemory,
    /// The CPU did not do what it was asked for.
    Failed(Failure),
}

/// One change at a time. Swapped with AcqRel on both sides: each change sees the one before.
static BUSY: AtomicBool = AtomicBool::new(false);
static TURN: WaitQueue = WaitQueue::new();

/// Takes a CPU down or brings it up; waits until that is done. Nothing to do if it is so already.
///
/// # Errors
/// If it cannot be done. A CPU that failed to stop or to come stays offline.
pub fn set_online(cpu: usize, online: bool) -> Result<(), Refused> {
    if cpu >= percpu::count() {
        return Err(Refused::NoSuchCpu);
    }
    TURN.wait_until(|| (!BUSY.swap(true, Ordering::AcqRel)).then_some(()));
    let result = match (is_online(cpu), online) {
        (true, false) if cpu == 0 => Err(Refused::BootCpu),
        (true, false) => take_down(cpu),
        (false, true) => smp::start(cpu).map_err(Refused::Failed),
        _ => Ok(()),
    };
    BUSY.swap(false, Ordering::AcqRel);
    TURN.wake_one();
    if let Err(Refused::Failed(failure)) = result {
        println!("CPU {cpu}: {failure}");
    }
    result
}

/// Whether a CPU runs.
pub fn is_online(cpu: usize) -> bool {
    ipi::online().contains(CpuId(cpu as u16))
}

/// A thread of its own goes from CPU to CPU: the caller's affinity is the caller's.
fn take_down(cpu: usize) -> Result<(), Refused> {
    let thread = Builder::new("hotplug").spawn(move || control(cpu));
    thread.map_err(|_| Refused::OutOfMemory)?.join();
    smp::wait_for_stop(cpu).map_err(Refused::Failed)
}

fn control(cpu: usize) {
    // What waits for others to die, or for this CPU to pass, would wait for one that is gone.
    Kernel::system().free_all_dead();
    reach(cpu, Stage::Closed);
    sched::close_cpu(cpu);
    pass_masked_sections();
    sleep_until(cpu, Stage::Resting);
    pass_masked_sections();
    advance(cpu, Stage::Leave);
    sleep_until(cpu, Stage::Offline);
    pass_pinned_sections();
    sched::adopt_timers(cpu);
    advance(cpu, Stage::Stop);
}

/// Lets the CPU go on, which sleeps until an interrupt.
fn advance(cpu: usize, stage: Stage) {
    reach(cpu, stage);
    ipi::send_reschedule(CpuId(cpu as u16));
}

fn sleep_until(cpu: usize, stage: Stage) {
    const INTERVAL_NS: u64 = 50_000;
    while !is_reached(cpu, stage) {
        sched::sleep_until(now_ns() + INTERVAL_NS, Signals::Wait).expect("no signal ends this sleep");
    }
}

/// Comes back when every section with interrupts masked that is running now has ended.
fn pass_masked_sections() {
    ipi::on_each_cpu_mask(Reason::Call, &ipi::online(), |_| (), 0, true);
}

/// Comes back when every section with preemption off that is running now has ended.
fn pass_pinned_sections() {
    for cpu in ipi::online().iter() {
        sched::set_affinity(sched::current(), &CpuSet::only(cpu)).expect("no other CPU goes meanwhile");
    }
}

/// The rest of a CPU's way, from its idle thread: it is closed for threads, and has none.
pub(crate) fn leave() -> ! {
    // Acquire: pairs with the Release that closed the CPU; the stage is reset.
    fence(Ordering::Acquire);
    let cpu = percpu::cpu_id();
    reach(cpu, Stage::Resting);
    sched::idle::run_until(|| is_reached(cpu, Stage::Leave));
    let masked = IrqGuard::new();
    System::<Kernel>::leave_cpu();
    ipi::go_offline();
    fault_points::kernel_point(Point::CpuOffline);
    reach(cpu, Stage::Offline);
    drop(masked);
    fault_points::kernel_point(Point::CpuStopping);
    sched::idle::run_until(|| is_reached(cpu, Stage::Stop));
    sync::mask_irqs();
    ipi::serve_the_last();
    smp::stop()
}
