//! Which calls are made, and with what kind of arguments.

use std::arch::naked_asm;

use super::values::Values;
use crate::sys;

/// What an argument is meant to be.
#[derive(Clone, Copy)]
enum Kind {
    /// An address.
    Pointer,
    /// An address that no call can use: a good one would make the call wait for ever.
    BadPointer,
    /// The first page of something to map, protect or unmap.
    Area,
    /// A length or a count.
    Length,
    Descriptor,
    Flags,
    /// `PROT_…`.
    Rights,
    /// `MAP_…`.
    Mapping,
    /// `CLONE_…`, and the signal of the end.
    Child,
    /// `FUTEX_…`.
    Futex,
    /// Those of them that move waiters and take a number where the others take a time.
    Requeue,
    /// A word that a futex may hold.
    Word,
    Path,
    /// The address of an array of strings.
    Strings,
    /// The address of a `sigaction`.
    Action,
    /// This process, or none.
    Process,
    Signal,
    /// The address of a short time, or of nothing.
    Time,
    /// A clock to sleep by. Not one that counts the sleeper's own CPU time: that stands still meanwhile.
    Clock,
    /// Bits of `fcntl` that keep pipes from blocking.
    Nonblocking,
    /// Bits of `waitid` that keep it from waiting for who never ends.
    NoHang,
    /// Advice, but for the one that tells Linux that the memory is broken.
    Advice,
}

use Kind::{
    Action, Advice, Area, BadPointer, Child, Clock, Descriptor, Flags, Futex, Length, Mapping, NoHang, Nonblocking,
    Path, Pointer, Process, Requeue, Rights, Signal, Strings, Time, Word,
};

type Call = (i64, &'static [Kind]);

/// Calls that change an address space or who runs in it: every other call is one of these.
const ON_MEMORY: &[Call] = &[
    (libc::SYS_mmap, &[Area, Length, Rights, Mapping, Descriptor, Length]),
    (libc::SYS_mmap, &[Area, Length, Rights, Mapping, Descriptor, Area]),
    (libc::SYS_munmap, &[Area, Length]),
    (libc::SYS_mprotect, &[Area, Length, Rights]),
    (libc::SYS_madvise, &[Area, Length, Advice]),
    (libc::SYS_msync, &[Area, Length, Flags]),
    (libc::SYS_brk, &[Pointer]),
    (libc::SYS_clone, &[Child, Pointer, Pointer, Pointer, Pointer]),
    (libc::SYS_execve, &[Path, Strings, Strings]),
    (libc::SYS_futex, &[Pointer, Futex, Word, Time, Pointer, Word]),
    (libc::SYS_futex, &[Pointer, Requeue, Word, Word, Pointer, Word]),
    (libc::SYS_sched_setaffinity, &[Process, Length, Pointer]),
    (libc::SYS_rt_sigaction, &[Signal, Action, Pointer, Length]),
    (libc::SYS_tgkill, &[Process, Process, Signal]),
];

const CALLS: &[Call] = &[
    (libc::SYS_getcwd, &[Pointer, Length]),
    (libc::SYS_dup, &[Descriptor]),
    (libc::SYS_dup3, &[Descriptor, Descriptor, Flags]),
    (libc::SYS_fcntl, &[Descriptor, Flags, Nonblocking]),
    (libc::SYS_ioctl, &[Descriptor, Flags, Pointer]),
    (libc::SYS_chdir, &[Path]),
    (libc::SYS_fchdir, &[Descriptor]),
    (libc::SYS_umask, &[Flags]),
    (libc::SYS_openat, &[Descriptor, Path, Flags, Flags]),
    (libc::SYS_mkdirat, &[Descriptor, Path, Flags]),
    (libc::SYS_unlinkat, &[Descriptor, Path, Flags]),
    (libc::SYS_faccessat, &[Descriptor, Path, Flags]),
    (libc::SYS_faccessat2, &[Descriptor, Path, Flags, Flags]),
    (libc::SYS_close, &[Descriptor]),
    (libc::SYS_close_range, &[Descriptor, Descriptor, Flags]),
    (libc::SYS_pipe2, &[Pointer, Nonblocking]),
    (libc::SYS_getdents64, &[Descriptor, Pointer, Length]),
    (libc::SYS_lseek, &[Descriptor, Length, Flags]),
    (libc::SYS_read, &[Descriptor, Pointer, Length]),
    (libc::SYS_write, &[Descriptor, Pointer, Length]),
    (libc::SYS_readv, &[Descriptor, Pointer, Length]),
    (libc::SYS_writev, &[Descriptor, Pointer, Length]),
    (libc::SYS_pread64, &[Descriptor, Pointer, Length, Length]),
    (libc::SYS_pwrite64, &[Descriptor, Pointer, Length, Length]),
    (libc::SYS_ftruncate, &[Descriptor, Length]),
    (libc::SYS_sendfile, &[Descriptor, Descriptor, Pointer, Length]),
    (libc::SYS_fsync, &[Descriptor]),
    (libc::SYS_ppoll, &[Pointer, Length, Time, Pointer, Length]),
    (libc::SYS_pselect6, &[Length, Pointer, Pointer, Pointer, Time, Pointer]),
    (libc::SYS_readlinkat, &[Descriptor, Path, Pointer, Length]),
    (libc::SYS_newfstatat, &[Descriptor, Path, Pointer, Flags]),
    (libc::SYS_fstat, &[Descriptor, Pointer]),
    (libc::SYS_exit, &[Flags]),
    (libc::SYS_exit_group, &[Flags]),
    (libc::SYS_set_tid_address, &[Pointer]),
    (libc::SYS_set_robust_list, &[Pointer, Length]),
    (libc::SYS_get_robust_list, &[Process, Pointer, Pointer]),
    (libc::SYS_nanosleep, &[Time, Pointer]),
    (libc::SYS_clock_gettime, &[Flags, Pointer]),
    (libc::SYS_clock_getres, &[Flags, Pointer]),
    (libc::SYS_clock_nanosleep, &[Clock, Flags, Time, Pointer]),
    (libc::SYS_gettimeofday, &[Pointer, Pointer]),
    (libc::SYS_times, &[Pointer]),
    (libc::SYS_setitimer, &[Flags, Pointer, Pointer]),
    (libc::SYS_getitimer, &[Flags, Pointer]),
    (libc::SYS_sched_getaffinity, &[Process, Length, Pointer]),
    (libc::SYS_sched_getscheduler, &[Process]),
    (libc::SYS_sched_get_priority_max, &[Flags]),
    (libc::SYS_sched_yield, &[]),
    (libc::SYS_kill, &[Process, Signal]),
    (libc::SYS_tkill, &[Process, Signal]),
    (libc::SYS_rt_sigqueueinfo, &[Process, Signal, Pointer]),
    (libc::SYS_rt_tgsigqueueinfo, &[Process, Process, Signal, Pointer]),
    (libc::SYS_sigaltstack, &[Pointer, Pointer]),
    (libc::SYS_rt_sigsuspend, &[BadPointer, Length]),
    (libc::SYS_rt_sigaction, &[Signal, Pointer, Pointer, Length]),
    (libc::SYS_rt_sigprocmask, &[Flags, Pointer, Pointer, Length]),
    (libc::SYS_rt_sigpending, &[Pointer, Length]),
    (libc::SYS_rt_sigtimedwait, &[Pointer, Pointer, Time, Length]),
    (libc::SYS_rt_sigreturn, &[]),
    (libc::SYS_setpgid, &[Process, Process]),
    (libc::SYS_getpgid, &[Process]),
    (libc::SYS_getsid, &[Process]),
    (libc::SYS_setsid, &[]),
    (libc::SYS_prctl, &[Flags, Pointer, Length, Length, Length]),
    (libc::SYS_uname, &[Pointer]),
    (libc::SYS_sysinfo, &[Pointer]),
    (libc::SYS_getpid, &[]),
    (libc::SYS_getppid, &[]),
    (libc::SYS_getuid, &[]),
    (libc::SYS_gettid, &[]),
    (libc::SYS_getgroups, &[Length, Pointer]),
    (libc::SYS_wait4, &[Process, Pointer, Flags, Pointer]),
    (libc::SYS_waitid, &[Flags, Process, Pointer, NoHang, Pointer]),
    (libc::SYS_prlimit64, &[Process, Flags, Pointer, Pointer]),
    (libc::SYS_getrlimit, &[Flags, Pointer]),
    (libc::SYS_setrlimit, &[Flags, Pointer]),
    (libc::SYS_getrusage, &[Flags, Pointer]),
    (libc::SYS_getrandom, &[Pointer, Length, Flags]),
    (libc::SYS_getcpu, &[Pointer, Pointer, Pointer]),
    (libc::SYS_membarrier, &[Flags, Flags, Flags]),
    (libc::SYS_clone3, &[BadPointer, Length]),
    (1000, &[Pointer, Length]),
    (-1, &[Pointer]),
    (i64::MIN, &[]),
];

/// Calls that end the child or make it another program: a batch should not be over after a few calls.
const FINAL: [i64; 4] = [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn, libc::SYS_execve];

/// A short time. Not in scratch memory: the calls write there, and a child that sleeps for years teaches nothing.
static SHORT: [i64; 2] = [0, 1000];

/// The next call.
pub(super) fn choose(values: &mut Values) -> (i64, [u64; 6]) {
    let (number, kinds) = loop {
        let from = if values.random.one_in(2) { ON_MEMORY } else { CALLS };
        let call = values.random.pick(from);
        if !FINAL.contains(&call.0) || values.random.one_in(10) {
            break call;
        }
    };
    let mut arguments = [0; 6];
    for (place, argument) in arguments.iter_mut().enumerate() {
        *argument = match kinds.get(place) {
            Some(&kind) => value(values, kind),
            None => values.any(),
        };
    }
    (number, arguments)
}

fn value(values: &mut Values, kind: Kind) -> u64 {
    match kind {
        // What would do harm or wait for ever is never mixed up with other kinds.
        Process => values.process(),
        Signal => values.signal(),
        BadPointer => values.bad_pointer(),
        Time if values.random.one_in(3) => values.bad_pointer(),
        Time => SHORT.as_ptr() as u64,
        Clock => values.random.pick(&[0, 1, 7, 11, 12, 99, 0x7fff_ffff]),
        Requeue => values.random.pick(&[3, 4, 3 | 128, 4 | 128]),
        Nonblocking => values.flags() | libc::O_NONBLOCK as u64,
        NoHang => values.flags() | libc::WNOHANG as u64,
        Advice => values.random.below(30),
        // The address of the child's memory, a way to share it, or both are wrong often enough by themselves.
        Child => values.clone_flags(),
        _ if values.random.one_in(12) => values.any(),
        Pointer => values.pointer(),
        Area => values.area(),
        Length => values.length(),
        Descriptor => values.descriptor(),
        Flags => values.flags(),
        Rights => values.random.below(8),
        Mapping => values.mapping(),
        Futex => values.futex(),
        Word => values.random.below(3),
        Path => values.path(),
        Strings => values.strings(),
        Action => values.action(),
    }
}

/// Makes the call.
pub(super) fn make(number: i64, arguments: [u64; 6]) {
    if number == libc::SYS_clone {
        let [flags, stack, parent, local, child, _] = arguments;
        clone_and_exit(flags, stack, parent, local, child);
    } else {
        // SAFETY: none is promised: this process exists to be damaged, and its parent expects it to die.
        unsafe { sys::raw(number, arguments) };
    }
}

/// clone; the new thread or process exits at once, without touching a stack: it may have none, or this one.
#[unsafe(naked)]
extern "C" fn clone_and_exit(_flags: u64, _stack: u64, _parent: u64, _local: u64, _child: u64) -> i64 {
    naked_asm!("mov x8, #220", "svc #0", "cbnz x0, 1f", "mov x8, #93", "svc #0", "udf #0", "1: ret")
}
