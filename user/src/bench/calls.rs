//! `syscall` and `kthread`: the cost of a visit to the kernel, and of the kernel visiting us.

use std::{fs, hint::black_box, io, path::Path, sync::atomic::AtomicU32};

use super::{Sample, Workload, measure};
use crate::sys::{
    self,
    futex::{self, Scope},
};

/// Calls before the measured region.
const WARM_UP: u64 = 64;

/// Writing a number here has a kernel thread borrow the writer's address space that many times.
const BORROW: &str = "/proc/lazy_tlb_borrow";

fn getppid(ops: u64) -> io::Result<(u64, Sample)> {
    let call = |_| {
        black_box(sys::null_call());
    };
    (0..WARM_UP).for_each(call);
    Ok((ops, measure::region(|| (0..ops).for_each(call)).1))
}

fn futex_wake(ops: u64) -> io::Result<(u64, Sample)> {
    let word = AtomicU32::new(0);
    let call = |_| futex::wake(&word, 1, Scope::Private).map(drop);
    (0..WARM_UP).try_for_each(call)?;
    let (done, sample) = measure::region(|| (0..ops).try_for_each(call));
    done.map(|()| (ops, sample))
}

fn borrow(ops: u64) -> io::Result<(u64, Sample)> {
    if !Path::new(BORROW).exists() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("this kernel has no {BORROW}")));
    }
    fs::write(BORROW, "1")?;
    let (done, sample) = measure::region(|| fs::write(BORROW, ops.to_string()));
    done.map(|()| (ops, sample))
}

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("syscall-getppid", 20_000, getppid),
        Workload::new("syscall-futex", 20_000, futex_wake),
        Workload::new("kthread", 1_000, borrow),
    ]
}
