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

use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::process::thread::{self, Restart};
use crate::trace::event::{Event, Kind};
use crate::{println, syscall_names, trace};

/// A system call under way.
pub(crate) struct Call<'a> {
    /// The program's registers.
    frame: &'a mut TrapFrame,
}

/// A function that answers a system call: with the value for x0, or an error.
type Handler = fn(Call<'_>) -> Result<usize, Errno>;

impl Call<'_> {
    /// An argument, by its place from 0 to 5.
    #[inline]
    fn arg(&self, index: usize) -> u64 {
        self.frame.x[index]
    }

    /// An argument that is an `int` or `unsigned`: the upper half of its register means nothing.
    #[inline]
    fn arg32(&self, index: usize) -> u32 {
        self.frame.x[index] as u32
    }
}

/// Answers the system call that the program makes with these registers.
#[inline]
pub fn dispatch(frame: &mut TrapFrame) {
    if trace::is_on() {
        return answer_on_record(frame);
    }
    answer(frame);
}

#[cold]
fn answer_on_record(frame: &mut TrapFrame) {
    let number = frame.x[8];
    trace::record(Event::Kernel(Kind::CallEnter), number, frame.x[0]);
    answer(frame);
    trace::record(Event::Kernel(Kind::CallExit), number, frame.x[0]);
}

#[inline(always)]
fn answer(frame: &mut TrapFrame) {
    let handler = table::find(frame.x[8]);
    match handler(Call { frame: &mut *frame }) {
        Ok(value) => frame.x[0] = value as u64,
        Err(error) => fail(frame, error),
    }
}

#[cold]
fn fail(frame: &mut TrapFrame, error: Errno) {
    if !error.asks_for_restart() {
        frame.x[0] = error.to_register();
        return;
    }
    // x0 stays the first argument: the call may be made again. Whether it is, the way back decides.
    let again = error == Errno::RESTART;
    thread::current().set_restart(if again { Restart::Unless } else { Restart::UnlessHandled });
    thread::look_again();
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
