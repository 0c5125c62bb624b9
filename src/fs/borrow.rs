//! A kernel thread that borrows a program's `Mm`, as `kthread_use_mm` lets it in Linux, and gives it
//! back: the way by which a CPU becomes lazy without a task switch.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use mm::MmUser;

use crate::arch::user_copy::read_user_u32;
use crate::errno::Errno;
use crate::heap;
use crate::machine::Kernel;
use crate::sched::{self, Builder};

/// Makes a kernel thread borrow the caller's `Mm` so many times, and waits for it. Each time it reads
/// the word at `address`.
pub fn run(times: u64, address: u64) -> Result<(), Errno> {
    heap::admit()?;
    let lent = sched::share_mm().ok_or(Errno::EINVAL)?;
    let failures = Arc::new(AtomicU64::new(0));
    let counted = failures.clone();
    let work = move || borrow(&lent, times, address, &counted);
    let thread = Builder::new("borrower").affinity(sched::current().affinity()).spawn(work);
    thread.map_err(|_| Errno::ENOMEM)?.join();
    // Relaxed: the join orders it.
    if failures.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

fn borrow(lent: &MmUser<Kernel>, times: u64, address: u64, failures: &AtomicU64) {
    for _ in 0..times {
        drop(sched::replace_mm(Some(lent.clone())));
        if read_user_u32(address).is_err() {
            failures.fetch_add(1, Ordering::Relaxed);
        }
        drop(sched::replace_mm(None));
    }
}
