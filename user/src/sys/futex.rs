//! Futexes on an atomic word.

use std::{io, ptr, sync::atomic::AtomicU32, time::Duration};

use super::check;

/// Who can see the word: the threads of one process, or all who map its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only the threads of this process.
    Private,
    /// Every process that maps the page.
    Shared,
}

impl Scope {
    fn flag(self) -> i32 {
        match self {
            Scope::Private => libc::FUTEX_PRIVATE_FLAG,
            Scope::Shared => 0,
        }
    }
}

/// Sleeps while the word holds `expected`; also returns when woken for no reason, interrupted, or timed out.
pub fn wait(word: &AtomicU32, expected: u32, scope: Scope, timeout: Option<Duration>) -> io::Result<()> {
    let time = timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word and the time live across the call, and the kernel only reads them.
    let done = check(unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | scope.flag(), expected, time)
    });
    match done {
        Err(error) if [libc::EAGAIN, libc::EINTR, libc::ETIMEDOUT].contains(&error.raw_os_error().unwrap_or(0)) => {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Wakes up to `count` waiters and says how many there were.
pub fn wake(word: &AtomicU32, count: i32, scope: Scope) -> io::Result<i64> {
    // SAFETY: a wake only uses the address of the word.
    check(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | scope.flag(), count) })
}
