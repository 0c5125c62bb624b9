//! The error numbers that system calls return.

use core::fmt;

use linux_raw_sys::errno;

use crate::sched::WaitError;

/// Why a system call failed.
///
/// A whole register wide, so that `Result<usize, Errno>` travels in two registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(usize);

macro_rules! errors {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "` of Linux.")]
                pub const $name: Errno = Errno(errno::$name as usize);
            )*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($name)),)*
                    Errno(number) => write!(f, "errno {number}"),
                }
            }
        }
    };
}

errors! {
    E2BIG EACCES EAGAIN EBADF EBUSY ECHILD EEXIST EFAULT EINTR EINVAL EIO EISDIR ELOOP EMFILE
    ENAMETOOLONG ENODEV ENOENT ENOEXEC ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTTY ENXIO EPERM EPIPE
    ELIBBAD EROFS ESPIPE ESRCH ETIMEDOUT EXDEV EFBIG ERANGE EOPNOTSUPP
}

impl Errno {
    /// Never seen by a program: a signal came in. If its handler was installed with `SA_RESTART`,
    /// or none runs, the call is made again; otherwise it returns `EINTR`.
    pub const RESTART: Errno = Errno(512);
    /// Never seen by a program: a signal came in. `EINTR` if a handler runs, else the call is made
    /// again.
    pub const RESTART_UNLESS_HANDLED: Errno = Errno(514);
    /// Never seen by a program: the call needs registers that are not in its frame yet.
    pub const ALL_REGISTERS: Errno = Errno(513);

    /// Whether the way back to the program must decide between a restart and `EINTR`.
    pub const fn asks_for_restart(self) -> bool {
        self.0 >= Self::RESTART.0
    }

    /// The word that the program finds in x0.
    pub const fn to_register(self) -> u64 {
        (self.0 as u64).wrapping_neg()
    }
}

/// What a wait without a deadline of the program's own makes of its end: a call that a signal
/// interrupted is made again, unless the handler wants otherwise.
impl From<WaitError> for Errno {
    fn from(error: WaitError) -> Errno {
        match error {
            WaitError::TimedOut => Errno::ETIMEDOUT,
            WaitError::Interrupted => Errno::RESTART,
        }
    }
}
