//! Raw system calls behind safe functions, where a safe function is possible.

pub mod cpu;
pub mod futex;
pub mod memory;
pub mod process;

use std::{
    arch::asm,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
};

/// Turns the `-1 and errno` of a C library call into a `Result`.
pub fn check(value: i64) -> io::Result<i64> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The cheapest system call there is, without any C library in between.
pub fn null_call() -> i64 {
    // SAFETY: getppid takes no arguments and touches no memory.
    unsafe { raw(libc::SYS_getppid, [0; 6]) }
}

/// Gives up the CPU to another runnable task.
pub fn sched_yield() {
    // SAFETY: sched_yield takes no arguments and cannot fail.
    unsafe { libc::syscall(libc::SYS_sched_yield) };
}

/// Writes one byte to a pipe, with nothing between program and kernel that would be measured, too.
pub fn write_byte(pipe: impl AsFd) -> io::Result<()> {
    move_byte(libc::SYS_write, pipe.as_fd(), &mut 1)
}

/// Reads one byte from a pipe; likewise.
pub fn read_byte(pipe: impl AsFd) -> io::Result<()> {
    move_byte(libc::SYS_read, pipe.as_fd(), &mut 0)
}

fn move_byte(call: i64, pipe: BorrowedFd<'_>, byte: &mut u8) -> io::Result<()> {
    loop {
        // SAFETY: either call moves at most the one byte that is borrowed here.
        let moved = unsafe { raw(call, [pipe.as_raw_fd() as u64, ptr::from_mut(byte) as u64, 1, 0, 0, 0]) };
        match moved {
            1 => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            error if -error == i64::from(libc::EINTR) => {}
            error => return Err(io::Error::from_raw_os_error(-error as i32)),
        }
    }
}

/// A system call by its number, with the kernel's own answer: a value, or minus an errno.
///
/// # Safety
///
/// What the call does to the memory of this process must be something that the caller may do.
#[inline]
pub unsafe fn raw(number: i64, arguments: [u64; 6]) -> i64 {
    let [mut x0, x1, x2, x3, x4, x5] = arguments;
    // SAFETY: the Linux ABI: number in x8, arguments in x0 to x5, the answer in x0, all else is kept.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") x0, in("x1") x1, in("x2") x2, in("x3") x3, in("x4") x4,
            in("x5") x5, options(nostack));
    }
    x0 as i64
}
