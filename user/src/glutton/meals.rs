//! The meals, one for each thing that the kernel keeps memory for.

use std::{ptr, thread};

use super::Meal;
use crate::sys::{self, memory::PAGE};

/// All meals by name.
pub const MEALS: &[(&str, Meal)] = &[
    ("files", files),
    ("copies-of-files", copies),
    ("names", names),
    ("depth", depth),
    ("arguments", arguments),
    ("pipes", pipes),
    ("descriptors", descriptors),
    ("regions", regions),
    ("signals", signals),
    ("children", children),
    ("threads", threads),
    ("pages", pages),
    ("shared-pages", shared_pages),
];

const MIB: u64 = 1 << 20;
const HERE: u64 = libc::AT_FDCWD as u64;

/// A system call: its value, or the errno.
fn call(number: i64, arguments: &[u64]) -> Result<u64, i32> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: a meal runs in a child of its own and passes addresses of memory that it made for this call.
    let value = unsafe { sys::raw(number, all) };
    if value < 0 { Err(-value as i32) } else { Ok(value as u64) }
}

fn at<T: ?Sized>(value: &T) -> u64 {
    ptr::from_ref(value).cast::<u8>() as u64
}

/// Repeats until it is refused; gives the errno.
fn until_refused(mut bite: impl FnMut(u64) -> Result<u64, i32>) -> i32 {
    (0..).find_map(|count| bite(count).err()).unwrap_or(0)
}

fn own_name(count: u64) -> String {
    format!("/tmp/{}-{count}\0", std::process::id())
}

fn create(count: u64) -> Result<u64, i32> {
    let flags = libc::O_CREAT | libc::O_RDWR;
    call(libc::SYS_openat, &[HERE, at(own_name(count).as_bytes()), flags as u64, 0o600])
}

fn remove(count: u64) {
    let _ = call(libc::SYS_unlinkat, &[HERE, at(own_name(count).as_bytes()), 0]);
}

/// Files that fill what is left with ever smaller pieces, and then go.
fn files() -> i32 {
    let mut count = 0;
    let mut size = 16 * MIB;
    let mut refused_with = 0;
    while size > 0 && count < 1000 {
        let step = create(count).and_then(|file| call(libc::SYS_ftruncate, &[file, size]));
        count += 1;
        if let Err(errno) = step {
            refused_with = errno;
            size /= 2;
        }
    }
    (0..count).for_each(remove);
    refused_with
}

/// Private mappings of a large file.
fn copies() -> i32 {
    let Ok(file) = create(0) else { return 0 };
    let refused_with = until_refused(|_| {
        call(libc::SYS_ftruncate, &[file, 16 * MIB])?;
        let length = 16 * MIB;
        call(libc::SYS_mmap, &[0, length, libc::PROT_READ as u64, libc::MAP_PRIVATE as u64, file, 0])
    });
    remove(0);
    refused_with
}

/// Empty files, then removed.
fn names() -> i32 {
    let mut made = 0;
    let refused_with = until_refused(|count| {
        let file = create(count)?;
        made = count + 1;
        call(libc::SYS_close, &[file])
    });
    (0..made).for_each(remove);
    refused_with
}

/// A directory in a directory and so on, then one that was removed before it got children.
fn depth() -> i32 {
    let make = |name: &[u8]| {
        call(libc::SYS_mkdirat, &[HERE, at(name), 0o700]).and_then(|_| call(libc::SYS_chdir, &[at(name)]))
    };
    let top = own_name(0);
    let _ = make(top.as_bytes());
    let Ok(held) = call(libc::SYS_openat, &[HERE, at(b".\0"), 0]) else { return 0 };
    let _ = call(libc::SYS_unlinkat, &[HERE, at(top.as_bytes()), libc::AT_REMOVEDIR as u64]);
    let refused_with = until_refused(|count| if count < 2000 { make(b"below\0") } else { Err(libc::ENOENT) });
    let _ = call(libc::SYS_chdir, &[at(b"/\0")]);
    let _ = call(libc::SYS_close, &[held]);
    refused_with
}

/// As many arguments as a program can have, all empty.
fn arguments() -> i32 {
    let empty = 0u8;
    let mut pointers = vec![at(&empty); 57_000];
    pointers.push(0);
    call(libc::SYS_execve, &[at(b"/no-such-program\0"), at(pointers.as_slice()), at(pointers.as_slice())])
        .and_then(|_| call(libc::SYS_execve, &[at(b"/no-such-program\0"), at(pointers.as_slice()), 0]))
        .err()
        .unwrap_or(0)
}

/// Full pipes.
fn pipes() -> i32 {
    let bytes = vec![7u8; 64 << 10];
    until_refused(|_| {
        let mut ends = [0u32; 2];
        call(libc::SYS_pipe2, &[(&raw mut ends) as u64, libc::O_NONBLOCK as u64])?;
        call(libc::SYS_write, &[ends[1].into(), at(bytes.as_slice()), bytes.len() as u64])
    })
}

/// All descriptors there are, closed at once in the end.
fn descriptors() -> i32 {
    let refused_with = until_refused(|_| call(libc::SYS_dup, &[0]));
    let _ = call(libc::SYS_close_range, &[3, u64::from(u32::MAX), 0]);
    let again = until_refused(|_| call(libc::SYS_dup, &[0]));
    if again == libc::EMFILE { refused_with } else { again }
}

/// A mapping whose pages differ in their rights, and the report on it.
fn regions() -> i32 {
    let length = (PAGE as u64) << 17;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let Ok(start) = call(libc::SYS_mmap, &[0, length, libc::PROT_READ as u64, flags as u64, u64::MAX, 0]) else {
        return libc::ENOMEM;
    };
    let refused_with = until_refused(|count| {
        call(libc::SYS_mprotect, &[start + (2 * count + 1) * PAGE as u64, PAGE as u64, libc::PROT_NONE as u64])
    });
    let maps = until_refused(|_| call(libc::SYS_openat, &[HERE, at(b"/proc/self/maps\0"), 0]));
    if maps == libc::EMFILE { refused_with } else { maps }
}

/// Real-time signals that wait.
fn signals() -> i32 {
    let blocked = u64::MAX;
    let _ = call(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as u64, at(&blocked), 0, 8]);
    let me = u64::from(std::process::id());
    let mut info = [0u32; 32];
    info[2] = -1i32 as u32;
    for signal in (1..64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)).map(|signal| signal as u64)
    {
        let _ = call(libc::SYS_rt_tgsigqueueinfo, &[me, me, signal, at(&info)]);
    }
    until_refused(|count| {
        if count > 10_000 {
            return Err(libc::EAGAIN);
        }
        call(libc::SYS_rt_tgsigqueueinfo, &[me, me, 64, at(&info)])
    })
}

/// Children that wait for a signal.
fn children() -> i32 {
    let blocked = u64::MAX;
    until_refused(|_| match call(libc::SYS_clone, &[libc::SIGCHLD as u64])? {
        0 => loop {
            let _ = call(libc::SYS_rt_sigsuspend, &[at(&blocked), 8]);
        },
        child => Ok(child),
    })
}

/// Threads that sleep; more than so many in one process take the address space long to place.
fn threads() -> i32 {
    let sleep = || {
        loop {
            thread::park();
        }
    };
    until_refused(|count| {
        if count == 1000 {
            return Err(libc::EMFILE);
        }
        let started = thread::Builder::new().stack_size(PAGE).spawn(sleep);
        started.map(|_| count).map_err(|error| error.raw_os_error().unwrap_or(0))
    })
}

/// Private pages. The kernel may kill who takes the last one.
fn pages() -> i32 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    until_refused(|_| {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let start = call(libc::SYS_mmap, &[0, MIB, rights as u64, flags as u64, u64::MAX, 0])?;
        (0..MIB).step_by(PAGE).for_each(|offset| {
            // SAFETY: inside the mapping just made.
            unsafe { ((start + offset) as *mut u8).write_volatile(1) }
        });
        Ok(start)
    })
}

/// Shared pages, which are there at once.
fn shared_pages() -> i32 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    until_refused(|_| {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        call(libc::SYS_mmap, &[0, MIB, rights as u64, flags as u64, u64::MAX, 0])
    })
}
