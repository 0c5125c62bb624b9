//! `trace=on`: what each CPU did last, in a ring of its own, to be read at `/proc/trace` (`fs::trace`).
//!
//! A record is a time, an event, the thread that ran, and two words that depend on the event. Writing one takes no lock
//! and no memory, so it may happen anywhere: in a switch, an abort, an interrupt. Whether anything is written is decided
//! at boot, before there is a second CPU; where nothing is, there are no rings, and a place that could record is a
//! `nop` ([`jumps`]).

pub mod event;
pub mod ring;

use mm::{Counter, Machine};
use spin::once::Once;

use self::event::{Event, Kind, name_word};
use self::ring::{RECORDS, Ring};
use crate::arch::{jumps, timer};
use crate::machine::Kernel;
use crate::start::refuse;
use crate::sync::{IrqGuard, Relax};
use crate::{cmdline, percpu, sched};

/// One CPU's part: its ring, if there is one.
pub type Local = Once<Ring, Relax>;

/// Whether records are written.
#[inline(always)]
pub fn is_on() -> bool {
    jumps::records()
}

/// Whether the command line asks for records.
pub fn is_wanted() -> bool {
    cmdline::get("trace").is_some()
}

/// Prepares to record, if that is wanted. CPU 0 calls it, alone, once there is a heap.
pub(crate) fn init() {
    if !is_wanted() {
        return;
    }
    for cpu in 0..percpu::count() {
        let ring = Ring::new().unwrap_or_else(|_| {
            refuse(format_args!("trace=on: no memory for the records of {} CPUs", percpu::count()))
        });
        percpu::of(cpu).trace.call_once(|| ring);
    }
}

/// Writes a record, if records are written.
#[inline(always)]
pub fn note(kind: Kind, words: impl FnOnce() -> (u64, u64)) {
    if is_on() {
        let (first, second) = words();
        record(Event::Kernel(kind), first, second);
    }
}

/// Does `body` between two records, if records are written.
#[inline(always)]
pub fn span<T>(kinds: [Kind; 2], words: impl FnOnce() -> (u64, u64), body: impl FnOnce() -> T) -> T {
    if !is_on() {
        return body();
    }
    let (first, second) = words();
    record(Event::Kernel(kinds[0]), first, second);
    let result = body();
    record(Event::Kernel(kinds[1]), first, second);
    result
}

/// Records what the mm layer says. Interrupts are masked, or the caller stays on this CPU.
#[cold]
pub fn of_mm(counter: Counter, about: u64) {
    let second = match counter {
        Counter::SwitchUserUser
        | Counter::SwitchUserKernel
        | Counter::SwitchKernelKernel
        | Counter::SwitchKernelSame
        | Counter::SwitchKernelOther => kernel_thread(),
        Counter::MmsDied | Counter::MmsFreed => Kernel::system().dead.now(),
        _ => 0,
    };
    record(Event::Mm(counter), about, second);
}

/// The name of the kernel thread that runs here; 0 for another thread, which has a number.
fn kernel_thread() -> u64 {
    match sched::who_runs_on(percpu::this()) {
        (0, name) => name_word(name),
        _ => 0,
    }
}

/// Writes a record into this CPU's ring.
#[cold]
pub fn record(event: Event, first: u64, second: u64) {
    // Neither an interrupt between two words nor another CPU's ring.
    let _masked = IrqGuard::new();
    let this = percpu::this();
    if let Some(ring) = this.trace.get() {
        let (task, _) = sched::who_runs_on(this);
        ring.push([timer::now_ticks(), event.code() | u64::from(task) << TASK_SHIFT, first, second]);
    }
}

/// A second word that means nothing, where 0 would mean something.
pub const UNKNOWN: u64 = u64::MAX;

/// Where the thread stands in a record's second word, above the event.
const TASK_SHIFT: u32 = 32;

/// A record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When, in ticks of the counter.
    pub ticks: u64,
    /// On which CPU.
    pub cpu: usize,
    /// Which of the CPU's records it is, from 1.
    pub number: u64,
    /// What happened.
    pub event: Event,
    /// The number of the thread that ran; 0 for a kernel thread.
    pub task: u32,
    /// What the event says of them.
    pub words: [u64; 2],
}

/// The numbers of the records that a CPU's ring has now, from the oldest to the newest; `None` without a ring.
pub fn numbers(cpu: usize) -> Option<core::ops::RangeInclusive<u64>> {
    let last = percpu::of(cpu).trace.get()?.written();
    Some((last + 1).saturating_sub(RECORDS).max(1)..=last)
}

/// A record by its number; `None` if it is overwritten by now.
pub fn read(cpu: usize, number: u64) -> Option<Record> {
    let [ticks, what, first, second] = percpu::of(cpu).trace.get()?.read(number)?;
    let event = Event::of(what & ((1 << TASK_SHIFT) - 1))?;
    Some(Record { ticks, cpu, number, event, task: (what >> TASK_SHIFT) as u32, words: [first, second] })
}
