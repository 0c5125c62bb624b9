//! How a case makes its calls and notes the answers.

use std::{fmt::Display, io::Write};

use crate::sys::{
    self,
    memory::{Mapping, PAGE},
};

/// An address in the kernel's half, whatever is there.
pub(super) const KERNEL: u64 = 0xffff_8000_0000_0000;

/// An address that no program has mapped.
pub(super) const UNMAPPED: u64 = 0x10;

/// A descriptor that is not open.
pub(super) const CLOSED: u64 = 777;

/// "This directory" as the first argument of openat and its kin.
pub(super) const HERE: u64 = libc::AT_FDCWD as u64;

/// Takes the answers of one case.
pub struct Notes {
    case: String,
    out: Box<dyn Write>,
}

impl Notes {
    pub(super) fn new(case: String, out: Box<dyn Write>) -> Self {
        Self { case, out }
    }

    /// Notes a value under the name of the case and the check.
    pub(super) fn note(&mut self, check: &str, value: impl Display) {
        // One write per line, so that nothing is lost if the next call kills this process.
        let line = format!("{}/{check} {value}\n", self.case);
        self.out.write_all(line.as_bytes()).expect("the parent reads until the end");
    }

    /// Makes a call and notes its answer.
    pub(super) fn call(&mut self, check: &str, number: i64, arguments: &[u64]) {
        self.note(check, answer(call(number, arguments)));
    }
}

/// Makes a system call; missing arguments are zero.
pub(super) fn call(number: i64, arguments: &[u64]) -> i64 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: each case runs in a child of its own and passes addresses of memory that it made for this call, or
    // addresses that the kernel must refuse. If a kernel does not, that child is what gets damaged.
    unsafe { sys::raw(number, all) }
}

/// Makes a call that must work for the case to mean anything.
pub(super) fn must(number: i64, arguments: &[u64]) -> u64 {
    let value = call(number, arguments);
    assert!(value >= 0, "system call {number} answered {}", answer(value));
    value as u64
}

/// The value, or the name of the errno.
pub(super) fn answer(value: i64) -> String {
    let name = match -value as i32 {
        _ if value >= 0 => return value.to_string(),
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EBADF => "EBADF",
        libc::ECHILD => "ECHILD",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EEXIST => "EEXIST",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ESPIPE => "ESPIPE",
        libc::EPIPE => "EPIPE",
        libc::ERANGE => "ERANGE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOSYS => "ENOSYS",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::E2BIG => "E2BIG",
        libc::ENOEXEC => "ENOEXEC",
        other => return format!("errno-{other}"),
    };
    name.to_string()
}

/// The address of a value, as an argument.
pub(super) fn at<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

/// The address of a value that the kernel may write.
pub(super) fn into<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

/// An open pipe as two numbers: the end to read, the end to write.
pub(super) fn pipe(flags: i32) -> (u64, u64) {
    let mut ends = [0i32; 2];
    must(libc::SYS_pipe2, &[into(&mut ends), flags as u64]);
    (ends[0] as u64, ends[1] as u64)
}

/// A page of zeroes that is followed by a page which nobody may touch.
pub(super) struct PageEnd(Mapping);

impl PageEnd {
    pub(super) fn new() -> Self {
        let mapping = Mapping::private(2 * PAGE).expect("two pages");
        let second = mapping.start() as u64 + PAGE as u64;
        must(libc::SYS_mprotect, &[second, PAGE as u64, libc::PROT_NONE as u64]);
        Self(mapping)
    }

    /// The address that many bytes before the end of what may be touched.
    pub(super) fn before_end(&self, bytes: usize) -> u64 {
        self.0.start() as u64 + (PAGE - bytes) as u64
    }
}
