//! The end of a kernel that cannot go on: says why and where, stops the other CPUs, gives a non-zero verdict.
//!
//! Allocates nothing and waits for no lock.

use core::arch::asm;
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::exception::TrapFrame;
use crate::arch::{cpu, mmu};
use crate::drivers::power;
use crate::{console, ipi, percpu, println, testing};

/// What QEMU exits with after a panic.
pub const EXIT_CODE: i32 = 101;

/// The CPU that panics, plus 1; 0 while none does. A CPU that finds another's number stops; one that finds its own
/// panicked again while panicking. AcqRel: the first to swap is the only one.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// How many calls of a backtrace are printed.
const MAX_DEPTH: usize = 32;

#[panic_handler]
fn on_panic(info: &PanicInfo<'_>) -> ! {
    let frame_pointer: u64;
    // SAFETY: reads a register; the kernel is built with frame pointers.
    unsafe { asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    take_over();
    match info.location() {
        Some(at) => println!("\nKERNEL PANIC on CPU {} at {at}: {}", percpu::cpu_id(), info.message()),
        None => println!("\nKERNEL PANIC on CPU {}: {}", percpu::cpu_id(), info.message()),
    }
    name_who_goes_on();
    println!("backtrace:");
    backtrace(frame_pointer);
    testing::report_panic(format_args!("{}", info.message()));
    power::exit(EXIT_CODE)
}

/// Ends the kernel for an exception that interrupted it at `frame`.
pub fn on_exception(frame: &TrapFrame, what: fmt::Arguments<'_>) -> ! {
    take_over();
    println!("\nKERNEL PANIC on CPU {}: {what}", percpu::cpu_id());
    name_who_goes_on();
    println!("{frame}backtrace:\n  at {:#018x}", frame.pc);
    backtrace(frame.x[29]);
    testing::report_panic(what);
    power::exit(EXIT_CODE)
}

/// Makes this the only CPU that runs and the console its own, or stops this CPU.
fn take_over() {
    let me = percpu::cpu_id() + 1;
    match OWNER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            ipi::stop_others();
            // SAFETY: the owner of the console either was told to stop or is this CPU, which never goes back.
            unsafe { console::steal() };
        }
        Err(owner) if owner == me => power::exit(EXIT_CODE),
        Err(_) => cpu::halt(),
    }
}

/// Names the CPUs that were told to stop and did not: what they do from here on is not to be trusted.
fn name_who_goes_on() {
    let going_on = ipi::online();
    for cpu in going_on.iter().map(|cpu| usize::from(cpu.0)).filter(|&cpu| cpu != percpu::cpu_id()) {
        println!("CPU {cpu} did not stop");
    }
}

/// Prints the calls of a chain of frame records {next, return address}, as far as it makes sense.
fn backtrace(mut record: u64) {
    for _ in 0..MAX_DEPTH {
        if record == 0 || !record.is_multiple_of(8) || !mmu::is_readable(record) || !mmu::is_readable(record + 8) {
            return;
        }
        // SAFETY: aligned, and the MMU says that both words can be read.
        let [next, return_address] = unsafe { (record as *const [u64; 2]).read() };
        if return_address == 0 {
            return;
        }
        // The call itself: what it returns to may be another line, or even another function.
        println!("  at {:#018x}", return_address - 4);
        // Stacks grow down: a caller's record lies above. Another stack's may lie anywhere, but not here again.
        if next == record {
            return;
        }
        record = next;
    }
}
