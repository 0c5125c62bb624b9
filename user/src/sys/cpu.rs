//! CPUs: affinity, the counter register, and the marker instructions.

use std::{arch::asm, fs, io, mem, sync::OnceLock};

use super::check;

/// The CPUs this thread may run on, in ascending order.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) }.into())?;
    // SAFETY: CPU_ISSET only reads `set`, and every index is below its size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Binds this thread to the given CPUs.
pub fn pin_to(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the index was just checked against the size of `set`.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }.into()).map(drop)
}

/// Binds this thread to one CPU; the kernel moves it there before the call returns.
pub fn pin(cpu: usize) -> io::Result<()> {
    pin_to(&[cpu])
}

/// Runs `body` bound to these CPUs.
pub fn bound_to<T>(home: &[usize], body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let cpus = allowed()?;
    pin_to(home)?;
    let result = body();
    pin_to(&cpus)?;
    result
}

/// The CPU this thread runs on now.
pub fn current() -> io::Result<usize> {
    let mut cpu = 0u32;
    // SAFETY: getcpu writes one word to `cpu`; the other two pointers may be null.
    check(unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, 0, 0) })?;
    Ok(cpu as usize)
}

/// The virtual counter. Under QEMU's `-icount` it counts instructions.
pub fn ticks() -> u64 {
    let value: u64;
    // SAFETY: reads a register that Linux and Lazuli open to EL0; the ISB keeps the read from moving up.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack)) };
    value
}

/// This CPU's cycle counter, where the kernel says that programs may read it.
pub fn cycles() -> Option<u64> {
    static READABLE: OnceLock<bool> = OnceLock::new();
    let says_so =
        || fs::read_to_string("/proc/lazy_tlb").is_ok_and(|text| text.contains("cycle_counter: pmccntr_el0\n"));
    READABLE.get_or_init(says_so).then(|| {
        let value: u64;
        // SAFETY: reads a register that the kernel has opened to EL0, as it says itself; ISB as in `ticks`.
        unsafe { asm!("isb", "mrs {}, pmccntr_el0", out(reg) value, options(nostack)) };
        value
    })
}

/// How many ticks make a second.
pub fn ticks_per_second() -> u64 {
    let value: u64;
    // SAFETY: reads a register that Linux and Lazuli open to EL0.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// Marks the start of a measured region for a plugin of the emulator. A NOP to every CPU.
pub fn mark_start() {
    // SAFETY: an unallocated HINT is a NOP (Arm ARM C6.2, HINT).
    unsafe { asm!("hint #100", options(nostack)) };
}

/// Marks the end of a measured region for a plugin of the emulator. A NOP to every CPU.
pub fn mark_end() {
    // SAFETY: an unallocated HINT is a NOP (Arm ARM C6.2, HINT).
    unsafe { asm!("hint #101", options(nostack)) };
}

/// One turn of a spin loop. YIELD, because under `-icount` it hands the emulator's time slice on.
pub fn relax() {
    // SAFETY: YIELD is a hint and changes no state.
    unsafe { asm!("yield", options(nostack)) };
}
