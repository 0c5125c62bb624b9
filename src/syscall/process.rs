//! System calls on processes.

use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::Call;
use super::info::USAGE_WORDS;
use super::paths::read_path;
use crate::arch::exception::TrapFrame;
use crate::errno::Errno;
use crate::process::family;
use crate::process::family::endings::{Kind, Question, Wanted};
use crate::process::signal::{Cause, Info, Signal};
use crate::process::stack::{self, Strings};
use crate::process::wait::{self, Hang};
use crate::process::{Ending, exec, exit as ending, fork, thread};
use crate::user_memory;

pub(super) fn clone(frame: &TrapFrame) -> Result<usize, Errno> {
    let [flags, stack, parent_tid, tls, child_tid, ..] = frame.x;
    let request = fork::Request { flags, stack, parent_tid, tls, child_tid };
    fork::clone(frame, &request).map(|tid| tid as usize)
}

pub(super) fn execve(frame: &mut TrapFrame) -> Result<usize, Errno> {
    let path = read_path(frame.x[0])?;
    let mut room = stack::LIMIT;
    let arguments = strings(frame.x[1], &mut room)?;
    let environment = strings(frame.x[2], &mut room)?;
    exec::replace(frame, &path, arguments, &environment)?;
    // The new program's x0.
    Ok(0)
}

/// Reads an array of pointers to strings that ends with a null pointer.
fn strings(address: u64, room: &mut usize) -> Result<Strings, Errno> {
    let mut strings = Strings::default();
    if address == 0 {
        return Ok(strings);
    }
    loop {
        let pointer: u64 = user_memory::read(address.wrapping_add(8 * strings.count() as u64))?;
        if pointer == 0 {
            return Ok(strings);
        }
        let string = user_memory::read_string(pointer, stack::STRING_LIMIT.min(*room), Errno::E2BIG)?;
        // Its bytes, the zero, and the pointer.
        *room = room.checked_sub(string.len() + 9).ok_or(Errno::E2BIG)?;
        strings.push(&string)?;
    }
}

pub(super) fn exit(call: Call<'_>) -> Result<usize, Errno> {
    let thread = thread::current();
    if thread.tid() == thread.process.pid {
        thread.process.set_first_code(call.arg(0) as u8);
    }
    ending::end_thread()
}

pub(super) fn exit_group(call: Call<'_>) -> Result<usize, Errno> {
    ending::end_process(&thread::current().process, Ending::Exited(call.arg(0) as u8));
    ending::end_thread()
}

/// The children that a `pid` of `wait4` means.
fn wanted(pid: i32) -> Result<Wanted, Errno> {
    Ok(match pid {
        -1 => Wanted::Any,
        0 => Wanted::Group(family::group(thread::current().process.pid)?),
        i32::MIN => return Err(Errno::ESRCH),
        _ if pid < 0 => Wanted::Group(pid.unsigned_abs()),
        _ => Wanted::Pid(pid.unsigned_abs()),
    })
}

/// Options that ask for children which cannot be here: stopped ones, and other threads'.
const IDLE_OPTIONS: u32 = linux::WUNTRACED | linux::WCONTINUED | linux::__WNOTHREAD;
const KINDS: u32 = linux::__WALL | linux::__WCLONE;

fn kind(options: u32) -> Kind {
    match options & KINDS {
        0 => Kind::Usual,
        linux::__WCLONE => Kind::Clones,
        _ => Kind::All,
    }
}

fn hang(options: u32) -> Hang {
    if options & linux::WNOHANG != 0 { Hang::No } else { Hang::Yes }
}

pub(super) fn wait4(call: Call<'_>) -> Result<usize, Errno> {
    let options = call.arg32(2);
    if options & !(linux::WNOHANG | IDLE_OPTIONS | KINDS) != 0 {
        return Err(Errno::EINVAL);
    }
    let question = Question { wanted: wanted(call.arg32(0) as i32)?, kind: kind(options), keep: false };
    let Some(found) = wait::for_child(&question, hang(options))? else { return Ok(0) };
    user_memory::write_unless_null(call.arg(1), &found.ending.to_status())?;
    user_memory::write_unless_null(call.arg(3), &[0u64; USAGE_WORDS])?;
    Ok(found.pid as usize)
}

pub(super) fn waitid(call: Call<'_>) -> Result<usize, Errno> {
    let options = call.arg32(3);
    let known = linux::WNOHANG | linux::WNOWAIT | linux::WEXITED | linux::WSTOPPED | IDLE_OPTIONS | KINDS;
    let asks = linux::WEXITED | linux::WSTOPPED | linux::WCONTINUED;
    if options & !known != 0 || options & asks == 0 {
        return Err(Errno::EINVAL);
    }
    let id = call.arg32(1);
    let wanted = match call.arg32(0) {
        linux::P_ALL => Wanted::Any,
        linux::P_PID if id as i32 > 0 => Wanted::Pid(id),
        linux::P_PGID if id == 0 => wanted(0)?,
        linux::P_PGID => Wanted::Group(id),
        _ => return Err(Errno::EINVAL),
    };
    let question = Question { wanted, kind: kind(options), keep: options & linux::WNOWAIT != 0 };
    let mut info = [0; crate::process::signal::info::SIZE];
    if let Some(found) = wait::for_child(&question, hang(options))? {
        let (code, status) = found.ending.to_code_and_status();
        let cause = Cause::Child { pid: found.pid, status };
        info = Info { signal: Signal::SIGCHLD, code, cause }.to_bytes();
    }
    user_memory::write_unless_null(call.arg(2), &info)?;
    user_memory::write_unless_null(call.arg(4), &[0u64; USAGE_WORDS])?;
    Ok(0)
}

pub(super) fn getpid(_: Call<'_>) -> Result<usize, Errno> {
    Ok(thread::current().process.pid as usize)
}

pub(super) fn getppid(_: Call<'_>) -> Result<usize, Errno> {
    Ok(thread::current().process.parent() as usize)
}

/// The process that an argument numbers; 0 is the caller's.
fn pid_or_own(pid: u32) -> u32 {
    if pid == 0 { thread::current().process.pid } else { pid }
}

pub(super) fn getpgid(call: Call<'_>) -> Result<usize, Errno> {
    family::group(pid_or_own(call.arg32(0))).map(|group| group as usize)
}

pub(super) fn setpgid(call: Call<'_>) -> Result<usize, Errno> {
    let pid = pid_or_own(call.arg32(0));
    let group = if call.arg32(1) == 0 { pid } else { call.arg32(1) };
    if (group as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    family::set_group(thread::current().process.pid, pid, group)?;
    Ok(0)
}

pub(super) fn getsid(call: Call<'_>) -> Result<usize, Errno> {
    family::session(pid_or_own(call.arg32(0))).map(|session| session as usize)
}

pub(super) fn setsid(_: Call<'_>) -> Result<usize, Errno> {
    family::new_session(thread::current().process.pid).map(|session| session as usize)
}

pub(super) fn prctl(call: Call<'_>) -> Result<usize, Errno> {
    let thread = thread::current();
    match call.arg32(0) {
        linux_raw_sys::prctl::PR_SET_NAME => {
            thread.set_name(&read_name(call.arg(1))?);
            thread.announce();
        }
        linux_raw_sys::prctl::PR_GET_NAME => user_memory::write(call.arg(1), &thread.name())?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// A thread's name: what is too long is cut off.
fn read_name(address: u64) -> Result<Vec<u8>, Errno> {
    let mut name = Vec::new();
    for index in 0..15 {
        match user_memory::read(address.wrapping_add(index))? {
            0 => break,
            byte => name.push(byte),
        }
    }
    Ok(name)
}
