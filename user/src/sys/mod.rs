//! Raw system calls behind safe functions, where a safe function is possible.

pub mod cpu;
pub mod futex;
pub mod memory;
pub mod process;

use std::io;

/// Turns the `-1 and errno` of a C library call into a `Result`.
pub fn check(value: i64) -> io::Result<i64> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The cheapest system call there is, without any C library in between.
pub fn null_call() -> i64 {
    // SAFETY: getppid takes no arguments and touches no memory.
    unsafe { libc::syscall(libc::SYS_getppid) }
}

/// Gives up the CPU to another runnable task.
pub fn sched_yield() {
    // SAFETY: sched_yield takes no arguments and cannot fail.
    unsafe { libc::syscall(libc::SYS_sched_yield) };
}
