//! Processes: fork, exec, exit and wait.

use std::{ffi::CString, io, ptr};

use super::check;

/// How a child ended, as `wait4` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By `exit`, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// Reads a status word.
    pub fn from_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exited(libc::WEXITSTATUS(status))
        } else {
            Self::Killed(libc::WTERMSIG(status))
        }
    }
}

/// Ends this process at once: no destructors, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no conditions.
    unsafe { libc::_exit(code) }
}

/// Switches the machine off, on Linux and by the superuser. Comes back only with an error.
pub fn power_off() -> io::Error {
    // SAFETY: reboot(2) with RB_POWER_OFF touches no memory of ours.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    io::Error::last_os_error()
}

/// Forks a child that runs `body` and exits with what it returns. Gives the child's id.
///
/// The child has one thread. It may allocate, because musl keeps its own locks consistent across `fork`.
pub fn spawn(body: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child only runs `body` and `_exit`; the caller forks where no other thread holds a Rust lock.
    match check(unsafe { libc::fork() }.into())? {
        0 => exit_now(body()),
        pid => Ok(pid as i32),
    }
}

/// Forks a child that does nothing but exit: the bare system call, without the C library's own calls around it.
pub fn spawn_empty() -> io::Result<i32> {
    // SAFETY: a fork-like clone; the child leaves by `_exit` and never touches the C library's idea of itself.
    match check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })? {
        0 => exit_now(0),
        pid => Ok(pid as i32),
    }
}

/// Forks and executes. A child that cannot execute exits with 127, or 126 if the kernel does not know the format.
pub fn spawn_program(path: &str, arguments: &[&str]) -> io::Result<i32> {
    let text = |s: &str| CString::new(s).map_err(io::Error::from);
    let path = text(path)?;
    let arguments = arguments.iter().map(|s| text(s)).collect::<io::Result<Vec<_>>>()?;
    let mut argv: Vec<_> = arguments.iter().map(|s| s.as_ptr()).collect();
    argv.push(ptr::null());
    let envp = [ptr::null()];
    spawn(|| {
        // SAFETY: the path and both arrays are null-terminated and live until the call returns or this image ends.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let unknown_format = io::Error::last_os_error().raw_os_error() == Some(libc::ENOEXEC);
        if unknown_format { 126 } else { 127 }
    })
}

/// Waits until that child (or any, with -1) ends; gives its id and how it ended.
pub fn wait(pid: i32) -> io::Result<(i32, Ended)> {
    let mut status = 0;
    loop {
        // SAFETY: the status word outlives the call.
        match check(unsafe { libc::waitpid(pid, &mut status, 0) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|pid| (pid as i32, Ended::from_status(status))),
        }
    }
}

/// Reaps that child if it has ended already.
pub fn try_wait(pid: i32) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: the status word outlives the call.
    let found = check(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) }.into())?;
    Ok((found != 0).then(|| Ended::from_status(status)))
}
