//! System calls that ask what this is.

use linux_raw_sys::general as linux;

use super::Call;
use crate::arch::timer::now_ns;
use crate::errno::Errno;
use crate::fs::{descriptor, proc};
use crate::process::{family, memory};
use crate::{random, sched, user_memory};

/// The bytes of one field of `struct new_utsname`.
const FIELD: usize = 65;
/// System, host, release, version, machine, domain. Programs ask for Linux and its release to know
/// which system calls they may use.
const NAMES: [&str; 6] =
    ["Linux", "lazuli", "6.12.0-lazuli", concat!("Lazuli ", env!("CARGO_PKG_VERSION")), "aarch64", "(none)"];

pub(super) fn uname(call: Call<'_>) -> Result<usize, Errno> {
    let mut fields = [[0; FIELD]; 6];
    for (field, name) in fields.iter_mut().zip(NAMES) {
        field[..name.len()].copy_from_slice(name.as_bytes());
    }
    user_memory::write(call.arg(0), &fields)?;
    Ok(0)
}

pub(super) fn sysinfo(call: Call<'_>) -> Result<usize, Errno> {
    let (total, free) = proc::memory_bytes();
    let processes = family::count() as u64;
    // uptime, three loads, RAM (total, free, shared, buffers), swap (total, free), processes,
    // high memory (total, free), the unit of all these.
    let words = [now_ns() / 1_000_000_000, 0, 0, 0, total, free, 0, 0, 0, 0, processes & 0xffff, 0, 0, 1];
    user_memory::write(call.arg(0), &words)?;
    Ok(0)
}

pub(super) fn getrandom(call: Call<'_>) -> Result<usize, Errno> {
    const CHUNK: usize = 256;
    if call.arg32(2) & !(linux::GRND_NONBLOCK | linux::GRND_RANDOM | linux::GRND_INSECURE) != 0 {
        return Err(Errno::EINVAL);
    }
    let length = (call.arg(1) as usize).min(i32::MAX as usize);
    let mut done = 0;
    while done < length && !(done > 0 && sched::is_interrupted()) {
        let mut chunk: [u8; CHUNK] = random::bytes();
        let count = CHUNK.min(length - done);
        let written = user_memory::write_bytes(call.arg(0).wrapping_add(done as u64), &chunk[..count]);
        chunk.fill(0);
        match written {
            Ok(()) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `RLIM_INFINITY`.
const INFINITE: u64 = u64::MAX;

/// The soft and the hard limit.
fn limit(resource: u32) -> Result<[u64; 2], Errno> {
    Ok(match resource {
        linux::RLIMIT_STACK => [memory::STACK_SIZE, INFINITE],
        linux::RLIMIT_NOFILE => [descriptor::LIMIT as u64; 2],
        linux::RLIMIT_CORE => [0, INFINITE],
        _ if resource < linux::RLIM_NLIMITS => [INFINITE; 2],
        _ => return Err(Errno::EINVAL),
    })
}

/// The limits are what they are. A wish within them is granted, and changes nothing.
fn check_wish([soft, hard]: [u64; 2], resource: u32) -> Result<(), Errno> {
    let [_, most] = limit(resource)?;
    match () {
        () if soft > hard => Err(Errno::EINVAL),
        () if hard > most => Err(Errno::EPERM),
        () => Ok(()),
    }
}

pub(super) fn prlimit64(call: Call<'_>) -> Result<usize, Errno> {
    let (pid, resource) = (call.arg32(0), call.arg32(1));
    let limit = limit(resource)?;
    if call.arg(2) != 0 {
        check_wish(user_memory::read(call.arg(2))?, resource)?;
    }
    if pid != 0 {
        family::process(pid)?;
    }
    user_memory::write_unless_null(call.arg(3), &limit)?;
    Ok(0)
}

pub(super) fn getrlimit(call: Call<'_>) -> Result<usize, Errno> {
    user_memory::write(call.arg(1), &limit(call.arg32(0))?)?;
    Ok(0)
}

pub(super) fn setrlimit(call: Call<'_>) -> Result<usize, Errno> {
    check_wish(user_memory::read(call.arg(1))?, call.arg32(0))?;
    Ok(0)
}

/// The bytes of `struct rusage`, in words.
pub(super) const USAGE_WORDS: usize = 18;

/// Nothing of it is counted: all is zero.
pub(super) fn getrusage(call: Call<'_>) -> Result<usize, Errno> {
    // Itself, its children, its thread.
    if !(-1..=1).contains(&(call.arg32(0) as i32)) {
        return Err(Errno::EINVAL);
    }
    user_memory::write(call.arg(1), &[0u64; USAGE_WORDS])?;
    Ok(0)
}

/// All users are root, in no other group.
pub(super) fn root(_: Call<'_>) -> Result<usize, Errno> {
    Ok(0)
}
