//! System calls on who runs where.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use mm::{CpuSet, MAX_CPUS};

use super::Call;
use crate::errno::Errno;
use crate::process::{family, thread};
use crate::sched::{self, Thread};
use crate::{percpu, user_memory};

/// The thread that an argument numbers; 0 is the running one.
fn target(tid: u32) -> Result<Arc<Thread>, Errno> {
    match tid {
        0 => thread::current().scheduled(),
        _ => family::thread(tid)?.scheduled(),
    }
    .ok_or(Errno::ESRCH)
}

pub(super) fn sched_yield(_: Call<'_>) -> Result<usize, Errno> {
    sched::yield_now();
    Ok(0)
}

pub(super) fn sched_setaffinity(call: Call<'_>) -> Result<usize, Errno> {
    let mut bytes = [0; MAX_CPUS / 8];
    let length = (call.arg32(1) as usize).min(bytes.len());
    user_memory::read_bytes(&mut bytes[..length], call.arg(2))?;
    let mut words = [0; MAX_CPUS / 64];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    let thread = target(call.arg32(0))?;
    sched::set_affinity(&thread, &CpuSet::from_words(&words)).map_err(|_| Errno::EINVAL)?;
    Ok(0)
}

pub(super) fn sched_getaffinity(call: Call<'_>) -> Result<usize, Errno> {
    let room = call.arg32(1) as usize;
    if room * 8 < percpu::count() || !room.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let set = target(call.arg32(0))?.affinity().intersection(&crate::ipi::online());
    let words = percpu::count().div_ceil(64).min(room / 8);
    for (index, word) in set.words().iter().take(words).enumerate() {
        user_memory::write(call.arg(2).wrapping_add(8 * index as u64), word)?;
    }
    Ok(8 * words)
}

pub(super) fn getcpu(call: Call<'_>) -> Result<usize, Errno> {
    // It may have moved when the program reads this; that is true of every kernel.
    let cpu = sched::current().last_cpu() as u32;
    user_memory::write_unless_null(call.arg(0), &cpu)?;
    user_memory::write_unless_null(call.arg(1), &0u32)?;
    Ok(0)
}

/// There are no priorities: round robin for all.
pub(super) fn sched_get_priority(call: Call<'_>) -> Result<usize, Errno> {
    if call.arg32(0) <= linux::SCHED_BATCH { Ok(0) } else { Err(Errno::EINVAL) }
}

pub(super) fn sched_getscheduler(call: Call<'_>) -> Result<usize, Errno> {
    target(call.arg32(0))?;
    Ok(linux::SCHED_NORMAL as usize)
}
