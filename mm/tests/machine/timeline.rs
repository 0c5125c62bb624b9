//! What happened last, a line for each step and a column for each CPU.

use std::collections::VecDeque;
use std::fmt::Write;

use crate::{CpuId, Frame, IpiReason, Op, Page, Point, Sequence, Ttbr};

use super::baton::ThreadId;

/// How many steps a report shows.
const SHOWN: usize = 64;
/// Characters of a column.
const WIDTH: usize = 34;

/// One step of one CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// An architectural operation and its operand.
    Op(Op, u64),
    /// A fault-injection point.
    At(Point),
    /// A turn of a spin loop.
    Spin,
    /// Nothing to run.
    Idle,
    /// Waits until other CPUs have answered.
    Wait,
    /// Preemption is turned off.
    Pin,
    /// Interrupts are masked.
    Mask,
    /// Interrupts are on again.
    Unmask,
    /// A frame begins a new use.
    Reuse(Frame),
    /// Sends an SGI.
    Send(IpiReason, CpuId),
    /// Takes an SGI.
    Take(IpiReason),
    /// The CPU stops being online.
    Offline,
    /// It loses its power.
    PowerOff,
    /// It is online again.
    Online,
    /// Another thread runs on this CPU.
    Switch(ThreadId),
    /// A user access: the page, and whether it is a store.
    Touch(Page, bool),
}

impl Event {
    /// Whether it brings nothing forward.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Self::Spin | Self::Idle | Self::Wait)
    }

    fn text(self) -> String {
        match self {
            Self::Op(Op::MsrTtbr0, ttbr) => {
                let ttbr = Ttbr(ttbr);
                format!("MsrTtbr0 {:#x} asid {}", ttbr.root().address().0, ttbr.asid().0)
            }
            Self::Op(op, operand) if format!("{op:?}").starts_with("Tlbi") => {
                format!("{op:?} asid {} operand {:#x}", operand >> 48, operand & ((1 << 48) - 1))
            }
            Self::Op(op, _) => format!("{op:?}"),
            Self::At(point) => format!("at {point:?}"),
            Self::Switch(thread) => format!("switch to thread {thread}"),
            Self::Touch(page, write) => format!("{} {page:?}", if write { "store" } else { "load" }),
            other => format!("{other:?}"),
        }
    }
}

/// The last steps, and the sequences that ran since the test last asked.
#[derive(Default)]
pub struct Timeline {
    last: VecDeque<(u64, usize, ThreadId, Event)>,
    steps: u64,
    ran: Vec<(Sequence, u64)>,
}

impl Timeline {
    pub(super) fn note(&mut self, cpu: usize, thread: ThreadId, event: Event) {
        self.steps += 1;
        if matches!(event, Event::Spin | Event::Idle | Event::Wait | Event::Pin) {
            return;
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back((self.steps, cpu, thread, event));
    }

    pub(super) fn ran(&mut self, sequence: Sequence, operand: u64) {
        self.ran.push((sequence, operand));
    }

    /// The sequences that ran to their end since the last call, on whatever CPU, with operands.
    pub fn take_ran(&mut self) -> Vec<(Sequence, u64)> {
        std::mem::take(&mut self.ran)
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The last steps as a table.
    pub(super) fn print(&self, cpus: usize) -> String {
        let mut text = format!("{:>8} ", "step");
        (0..cpus).for_each(|cpu| write!(text, "{:<WIDTH$}", format!("CPU {cpu}")).expect("a string takes all"));
        text.push('\n');
        for &(step, cpu, thread, event) in &self.last {
            let cell = format!("t{thread} {}", event.text());
            writeln!(text, "{step:>8} {:indent$}{cell}", "", indent = cpu * WIDTH).expect("a string takes all");
        }
        text
    }
}
