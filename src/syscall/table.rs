//! Which function answers which system call.

use linux_raw_sys::general as linux;

use super::{Handler, files, info, memory, nothing_to_do, paths, poll, process, put_off, refused, scheduling};
use super::{signals, threads, time, unknown};

/// One past the highest number that a call has here.
pub(super) const SIZE: usize = 512;

const CALLS: &[(u32, Handler)] = &[
    // Open files.
    (linux::__NR_read, files::read),
    (linux::__NR_write, files::write),
    (linux::__NR_readv, files::readv),
    (linux::__NR_writev, files::writev),
    (linux::__NR_pread64, files::pread64),
    (linux::__NR_pwrite64, files::pwrite64),
    (linux::__NR_lseek, files::lseek),
    (linux::__NR_close, files::close),
    (linux::__NR_close_range, files::close_range),
    (linux::__NR_dup, files::dup),
    (linux::__NR_dup3, files::dup3),
    (linux::__NR_fcntl, files::fcntl),
    (linux::__NR_ioctl, files::ioctl),
    (linux::__NR_pipe2, files::pipe2),
    (linux::__NR_ftruncate, files::ftruncate),
    (linux::__NR_getdents64, files::getdents64),
    (linux::__NR_sendfile, files::sendfile),
    (linux::__NR_fsync, files::sync),
    (linux::__NR_fdatasync, files::sync),
    (linux::__NR_ppoll, poll::ppoll),
    (linux::__NR_pselect6, poll::pselect6),
    // Names.
    (linux::__NR_openat, paths::openat),
    (linux::__NR_newfstatat, paths::newfstatat),
    (linux::__NR_fstat, paths::fstat),
    (linux::__NR_readlinkat, paths::readlinkat),
    (linux::__NR_faccessat, paths::faccessat),
    (linux::__NR_faccessat2, paths::faccessat2),
    (linux::__NR_unlinkat, paths::unlinkat),
    (linux::__NR_mkdirat, paths::mkdirat),
    (linux::__NR_getcwd, paths::getcwd),
    (linux::__NR_chdir, paths::chdir),
    (linux::__NR_fchdir, paths::fchdir),
    (linux::__NR_umask, paths::umask),
    // Memory.
    (linux::__NR_brk, memory::brk),
    (linux::__NR_mmap, memory::mmap),
    (linux::__NR_munmap, memory::munmap),
    (linux::__NR_mprotect, memory::mprotect),
    (linux::__NR_madvise, memory::madvise),
    (linux::__NR_msync, memory::msync),
    // Processes.
    (linux::__NR_clone, put_off),
    (linux::__NR_execve, put_off),
    (linux::__NR_exit, process::exit),
    (linux::__NR_exit_group, process::exit_group),
    (linux::__NR_wait4, process::wait4),
    (linux::__NR_waitid, process::waitid),
    (linux::__NR_getpid, process::getpid),
    (linux::__NR_getppid, process::getppid),
    (linux::__NR_getpgid, process::getpgid),
    (linux::__NR_setpgid, process::setpgid),
    (linux::__NR_getsid, process::getsid),
    (linux::__NR_setsid, process::setsid),
    (linux::__NR_prctl, process::prctl),
    // Threads.
    (linux::__NR_gettid, threads::gettid),
    (linux::__NR_set_tid_address, threads::set_tid_address),
    (linux::__NR_futex, threads::futex),
    (linux::__NR_set_robust_list, refused),
    (linux::__NR_get_robust_list, refused),
    (linux::__NR_rseq, refused),
    (linux::__NR_clone3, refused),
    (linux::__NR_membarrier, refused),
    // Signals.
    (linux::__NR_kill, signals::kill),
    (linux::__NR_tkill, signals::tkill),
    (linux::__NR_tgkill, signals::tgkill),
    (linux::__NR_rt_sigqueueinfo, signals::rt_sigqueueinfo),
    (linux::__NR_rt_tgsigqueueinfo, signals::rt_tgsigqueueinfo),
    (linux::__NR_rt_sigaction, signals::rt_sigaction),
    (linux::__NR_rt_sigprocmask, signals::rt_sigprocmask),
    (linux::__NR_rt_sigpending, signals::rt_sigpending),
    (linux::__NR_rt_sigsuspend, signals::rt_sigsuspend),
    (linux::__NR_rt_sigtimedwait, signals::rt_sigtimedwait),
    (linux::__NR_rt_sigreturn, put_off),
    (linux::__NR_sigaltstack, signals::sigaltstack),
    // Scheduling.
    (linux::__NR_sched_yield, scheduling::sched_yield),
    (linux::__NR_sched_setaffinity, scheduling::sched_setaffinity),
    (linux::__NR_sched_getaffinity, scheduling::sched_getaffinity),
    (linux::__NR_getcpu, scheduling::getcpu),
    (linux::__NR_sched_get_priority_max, scheduling::sched_get_priority),
    (linux::__NR_sched_get_priority_min, scheduling::sched_get_priority),
    (linux::__NR_sched_getscheduler, scheduling::sched_getscheduler),
    // Time.
    (linux::__NR_clock_gettime, time::clock_gettime),
    (linux::__NR_clock_getres, time::clock_getres),
    (linux::__NR_clock_nanosleep, time::clock_nanosleep),
    (linux::__NR_nanosleep, time::nanosleep),
    (linux::__NR_gettimeofday, time::gettimeofday),
    (linux::__NR_times, time::times),
    (linux::__NR_setitimer, time::setitimer),
    (linux::__NR_getitimer, time::getitimer),
    // What and who.
    (linux::__NR_uname, info::uname),
    (linux::__NR_sysinfo, info::sysinfo),
    (linux::__NR_getrandom, info::getrandom),
    (linux::__NR_prlimit64, info::prlimit64),
    (linux::__NR_getrlimit, info::getrlimit),
    (linux::__NR_setrlimit, info::setrlimit),
    (linux::__NR_getrusage, info::getrusage),
    (linux::__NR_getuid, info::root),
    (linux::__NR_geteuid, info::root),
    (linux::__NR_getgid, info::root),
    (linux::__NR_getegid, info::root),
    (linux::__NR_getgroups, info::root),
    (linux::__NR_sync, nothing_to_do),
];

/// The calls by number: one comparison and one load find the function.
static TABLE: [Handler; SIZE] = {
    let mut table = [unknown as Handler; SIZE];
    let mut i = 0;
    while i < CALLS.len() {
        table[CALLS[i].0 as usize] = CALLS[i].1;
        i += 1;
    }
    table
};

/// The function that answers this number, of which Linux reads the lower half only.
#[inline]
pub(super) fn find(number: u64) -> Handler {
    TABLE.get(number as u32 as usize).copied().unwrap_or(unknown)
}
