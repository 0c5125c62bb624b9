//! System calls: Linux's for aarch64.
//!
//! [`table`] says which function answers which number; the functions stand in one file per family.

mod files;
mod info;
mod memory;
mod paths;
mod poll;
mod process;
mod scheduling;
mod signals;
mod table;
mod threads;
mod time;

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::arch::exception::{LeanFrame, TrapFrame};
use crate::errno::Errno;
use crate::process::thread::{self, Restart};
use crate::trace::event::{Event, Kind};
use crate::{println, syscall_names, trace};

/// A system call under way.
pub(crate) struct Call<'a> {
    /// The program's registers.
    frame: &'a LeanFrame,
}

/// A function that answers a system call: with the value for x0, or an error.
type Handler = fn(Call<'_>) -> Result<usize, Errno>;

impl Call<'_> {
    /// An argument, by its place from 0 to 5.
    #[inline]
    fn arg(&self, index: usize) -> u64 {
        self.frame.argument(index)
    }

    /// An argument that is an `int` or `unsigned`: the upper half of its register means nothing.
    #[inline]
    fn arg32(&self, index: usize) -> u32 {
        self.frame.argument(index) as u32
    }
}

/// What became of a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is answered.
    Given,
    /// It reads or changes registers that are not in the frame yet: [`dispatch_with_all_registers`] answers it.
    NeedsAllRegisters,
}

/// Answers the system call that the program makes with these registers.
#[inline]
pub fn dispatch(frame: &mut LeanFrame) -> Answer {
    if trace::is_on() {
        return answer_on_record(frame);
    }
    answer(frame)
}

#[cold]
fn answer_on_record(frame: &mut LeanFrame) -> Answer {
    let number = frame.argument(8);
    trace::record(Event::Kernel(Kind::CallEnter), number, frame.argument(0));
    let answer = answer(frame);
    if answer == Answer::Given {
        trace::record(Event::Kernel(Kind::CallExit), number, frame.argument(0));
    }
    answer
}

#[inline(always)]
fn answer(frame: &mut LeanFrame) -> Answer {
    let handler = table::find(frame.argument(8));
    match handler(Call { frame }) {
        Ok(value) => frame.set_result(value as u64),
        Err(error) => return fail(frame, error),
    }
    Answer::Given
}

#[cold]
fn fail(frame: &mut LeanFrame, error: Errno) -> Answer {
    if error == Errno::ALL_REGISTERS {
        return Answer::NeedsAllRegisters;
    }
    if let Some(value) = value_of(error) {
        frame.set_result(value);
    }
    Answer::Given
}

/// What a call that failed leaves in x0; `None` for its first argument, because the call may be made again. Whether it is, the
/// way back decides.
fn value_of(error: Errno) -> Option<u64> {
    if !error.asks_for_restart() {
        return Some(error.to_register());
    }
    let again = error == Errno::RESTART;
    thread::current().set_restart(if again { Restart::Unless } else { Restart::UnlessHandled });
    thread::look_again();
    None
}

/// A call that needs all registers, where they are not in the frame yet.
fn put_off(_: Call<'_>) -> Result<usize, Errno> {
    Err(Errno::ALL_REGISTERS)
}

/// Answers a call that was put off.
pub fn dispatch_with_all_registers(frame: &mut TrapFrame) {
    let number = frame.x[8];
    let result = match number as u32 {
        linux::__NR_clone => process::clone(frame),
        linux::__NR_execve => process::execve(frame),
        _ => signals::rt_sigreturn(frame),
    };
    if let Some(value) = result.map_or_else(value_of, |value| Some(value as u64)) {
        frame.x[0] = value;
    }
    trace::note(Kind::CallExit, || (number, frame.x[0]));
}

/// A call that this kernel does not have. Each is named once on the console.
fn unknown(call: Call<'_>) -> Result<usize, Errno> {
    /// One bit for each number that was named; larger ones share the last.
    static NAMED: [AtomicU64; table::SIZE / 64] = [const { AtomicU64::new(0) }; table::SIZE / 64];
    let number = call.arg32(8);
    let index = (number as usize).min(table::SIZE - 1);
    let bit = 1 << (index % 64);
    // Relaxed: a message orders nothing.
    if NAMED[index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        let name = syscall_names::of(number).unwrap_or("no name");
        let thread = thread::current();
        println!("{}[{}]: system call {number} ({name}) is not there", thread.process.name(), thread.tid());
    }
    Err(Errno::ENOSYS)
}

/// A call that programs try and do without: it is refused quietly.
fn refused(_: Call<'_>) -> Result<usize, Errno> {
    Err(Errno::ENOSYS)
}

/// A call that asks for what is always so.
fn nothing_to_do(_: Call<'_>) -> Result<usize, Errno> {
    Ok(0)
}
