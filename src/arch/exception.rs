//! Exceptions: what the CPU hands over, and who answers.

use core::arch::global_asm;
use core::fmt;
use core::mem::{offset_of, size_of};

use aarch64_cpu::registers::{ESR_EL1, FAR_EL1, Readable, SP_EL0};

use super::fault_decode::Fault;
use super::{el0, user_copy};
use crate::drivers::gic;
use crate::percpu::{Anchor, PerCpu};
use crate::{panic, sched, testing};

/// The registers of interrupted code, on the kernel stack.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// PSTATE, in the layout of SPSR_EL1.
    pub pstate: u64,
}

/// The same from EL0 without x19 to x28 and the stack pointer, which are still in the registers: a called function keeps them.
#[repr(transparent)]
#[derive(Debug)]
pub struct LeanFrame(TrapFrame);

impl LeanFrame {
    /// One of x0 to x8: the arguments of a system call and its number.
    ///
    /// # Panics
    ///
    /// If it is another.
    #[inline(always)]
    pub fn argument(&self, index: usize) -> u64 {
        assert!(index <= 8, "x{index} holds no argument");
        self.0.x[index]
    }

    /// Sets x0: what a system call returns.
    #[inline(always)]
    pub fn set_result(&mut self, value: u64) {
        self.0.x[0] = value;
    }

    /// The stack pointer of the running thread's program.
    #[inline(always)]
    pub fn sp(&self) -> u64 {
        SP_EL0.get()
    }

    /// The program counter.
    #[inline(always)]
    pub fn pc(&self) -> u64 {
        self.0.pc
    }
}

// vectors.s writes these numbers.
const _: () = assert!(offset_of!(TrapFrame, sp) == 248 && offset_of!(TrapFrame, pc) == 256);

/// The bytes of a frame.
pub(super) const FRAME: usize = size_of::<TrapFrame>();
/// A frame from EL1 has a frame record behind it.
const EL1_FRAME: usize = FRAME + 16;

global_asm!(
    include_str!("vectors.s"),
    frame = const FRAME,
    el1_frame = const EL1_FRAME,
    anchor_area = const Anchor::AREA,
    overflow_stack = const offset_of!(PerCpu, overflow_stack_top),
    el1_sync = sym el1_sync,
    el1_irq = sym el1_irq,
    el1_serror = sym el1_serror,
    el1_stack_overflow = sym el1_stack_overflow,
    el1_impossible = sym el1_impossible,
    el0_sync = sym el0::sync,
    el0_irq = sym el0::irq,
    el0_serror = sym el0::serror,
);

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  pc {:#018x}  sp {:#018x}  pstate {:#010x}", self.pc, self.sp, self.pstate)?;
        for (row, values) in self.x.chunks(4).enumerate() {
            write!(f, " ")?;
            for (column, value) in values.iter().enumerate() {
                write!(f, " x{:<2} {value:#018x}", 4 * row + column)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// What brought us here. To be called before anything else can fault.
pub(super) fn fault_now() -> Fault {
    Fault::new(ESR_EL1.get(), FAR_EL1.get())
}

extern "C" fn el1_sync(frame: &mut TrapFrame) {
    let fault = fault_now();
    if user_copy::fix_up(frame, &fault) || testing::is_expected(frame, &fault) {
        return;
    }
    fatal(frame, &fault)
}

extern "C" fn el1_stack_overflow(frame: &mut TrapFrame) {
    let fault = fault_now().of_stack_overflow();
    if !testing::is_expected(frame, &fault) {
        fatal(frame, &fault)
    }
}

extern "C" fn el1_irq(_frame: &mut TrapFrame) {
    gic::handle_irq();
    sched::preempt();
}

extern "C" fn el1_serror(frame: &mut TrapFrame) {
    fatal(frame, &fault_now())
}

extern "C" fn el1_impossible(frame: &mut TrapFrame) {
    panic::on_exception(frame, format_args!("an exception that cannot happen here: {}", fault_now()))
}

fn fatal(frame: &TrapFrame, fault: &Fault) -> ! {
    panic::on_exception(frame, format_args!("{fault}"))
}
