//! System calls that threads live by.

use linux_raw_sys::general as linux;

use super::Call;
use super::time::{deadline_after, deadline_at};
use crate::errno::Errno;
use crate::process::futex::{self, Requeue, Scope};
use crate::process::thread;
use crate::sched::Patience;

pub(super) fn gettid(_: Call<'_>) -> Result<usize, Errno> {
    Ok(thread::current().tid() as usize)
}

pub(super) fn set_tid_address(call: Call<'_>) -> Result<usize, Errno> {
    let thread = thread::current();
    thread.set_clear_child_tid(call.arg(0));
    Ok(thread.tid() as usize)
}

/// A count that is an `int`: a negative one means none, as in Linux, for waking at least one.
fn count(argument: u32) -> usize {
    (argument as i32).max(0) as usize
}

pub(super) fn futex(call: Call<'_>) -> Result<usize, Errno> {
    let (operation, value) = (call.arg32(1), call.arg32(2));
    let scope = if operation & linux::FUTEX_PRIVATE_FLAG != 0 { Scope::Private } else { Scope::Shared };
    match operation & !linux::FUTEX_PRIVATE_FLAG {
        linux::FUTEX_WAKE => futex::wake(call.arg(0), scope, count(value).max(1), linux::FUTEX_BITSET_MATCH_ANY),
        linux::FUTEX_WAKE_BITSET => futex::wake(call.arg(0), scope, count(value).max(1), call.arg32(5)),
        others => wait_or_requeue(&call, others, scope),
    }
}

/// Not inlined: who wakes does not pay for the registers it needs.
#[inline(never)]
fn wait_or_requeue(call: &Call<'_>, operation: u32, scope: Scope) -> Result<usize, Errno> {
    let (address, value) = (call.arg(0), call.arg32(2));
    let command = operation & !linux::FUTEX_CLOCK_REALTIME;
    if command != operation && !matches!(command, linux::FUTEX_WAIT | linux::FUTEX_WAIT_BITSET) {
        return Err(Errno::ENOSYS);
    }
    let wait = |deadline, bits| {
        let patience = Patience::INTERRUPTIBLE.until(deadline);
        futex::wait(address, scope, value, bits, patience).map(|()| 0)
    };
    match command {
        linux::FUTEX_WAIT => wait(deadline_after(call.arg(3))?, linux::FUTEX_BITSET_MATCH_ANY),
        // Both clocks are one here.
        linux::FUTEX_WAIT_BITSET => wait(deadline_at(call.arg(3))?, call.arg32(5)),
        linux::FUTEX_REQUEUE | linux::FUTEX_CMP_REQUEUE => {
            let (wake, moved) = (value as i32, call.arg32(3) as i32);
            if wake < 0 || moved < 0 {
                return Err(Errno::EINVAL);
            }
            let compares = command == linux::FUTEX_CMP_REQUEUE;
            let request = Requeue {
                from: address,
                to: call.arg(4),
                wake: wake as usize,
                moved: moved as usize,
                expected: compares.then(|| call.arg32(5)),
            };
            futex::requeue(&request, scope)
        }
        _ => Err(Errno::ENOSYS),
    }
}
