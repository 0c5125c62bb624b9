//! Test kernels: each file in `tests/` lists its tests in [`kernel_tests!`](crate::kernel_tests).
//!
//! Each prints `ok NAME` or `FAIL NAME: why`; the last line is `N passed, N failed`, the verdict 0 or 1. A panic ends
//! the kernel with 101. `test=SUBSTRING` on the command line chooses tests by name.

pub mod mms;

use alloc::string::String;
use core::arch::naked_asm;
use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use mm::{CpuId, CpuSet};

use crate::arch::exception::TrapFrame;
use crate::arch::fault_decode::{Fault, Kind};
use crate::cmdline;
use crate::drivers::power;
use crate::sync::IrqLock;
use crate::{percpu, println, sched, watchdog};

/// What a test may return: nothing, or a reason why it failed.
pub trait Outcome {
    /// The reason, if it failed.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl Outcome for Result<(), String> {
    fn failure(self) -> Option<String> {
        self.err()
    }
}

/// A test by name.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its function's name.
    pub name: &'static str,
    /// Runs it; says why it failed.
    pub run: fn() -> Option<String>,
}

/// Makes a test kernel of functions that return `()` or `Result<(), String>`.
#[macro_export]
macro_rules! kernel_tests {
    ($($test:ident),+ $(,)?) => {
        #[unsafe(no_mangle)]
        fn kernel_main(_boot: &'static $crate::arch::boot::BootInfo) -> ! {
            $crate::testing::run_all(&[$($crate::testing::Test {
                name: stringify!($test),
                run: || $crate::testing::Outcome::failure($test()),
            }),+])
        }
    };
}

/// Where the tests stand, for a panic to report. Relaxed: only the CPU that runs the tests writes, and a panic that
/// reads an old value misses a line.
static PASSED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static RUNNING: AtomicPtr<Test> = AtomicPtr::new(core::ptr::null_mut());

/// Runs the tests that the command line chooses, then exits with the verdict.
///
/// They run in a thread of CPU 0: a test may wait, and knows where it is.
pub fn run_all(tests: &'static [Test]) -> ! {
    let cpu_0 = CpuSet::only(CpuId(0));
    let thread = sched::Builder::new("tests").affinity(cpu_0).spawn(move || run_each(tests));
    thread.expect("no memory for a thread");
    sched::idle::run()
}

fn run_each(tests: &'static [Test]) {
    let filter = cmdline::get("test").unwrap_or("");
    for test in tests.iter().filter(|test| test.name.contains(filter)) {
        watchdog::restart();
        RUNNING.store(core::ptr::from_ref(test).cast_mut(), Ordering::Relaxed);
        match (test.run)() {
            None => {
                PASSED.fetch_add(1, Ordering::Relaxed);
                println!("ok {}", test.name);
            }
            Some(why) => {
                FAILED.fetch_add(1, Ordering::Relaxed);
                println!("FAIL {}: {why}", test.name);
            }
        }
    }
    let failed = print_summary();
    power::exit(i32::from(failed != 0))
}

/// Says which test a panic ended, if one is running.
pub(crate) fn report_panic(why: fmt::Arguments<'_>) {
    // SAFETY: null, or the address of a `Test` in a static list.
    if let Some(test) = unsafe { RUNNING.load(Ordering::Relaxed).as_ref() } {
        FAILED.fetch_add(1, Ordering::Relaxed);
        println!("FAIL {}: {why}", test.name);
        print_summary();
    }
}

fn print_summary() -> usize {
    let failed = FAILED.load(Ordering::Relaxed);
    println!("{} passed, {failed} failed", PASSED.load(Ordering::Relaxed));
    failed
}

/// The fault that ended a function on purpose.
static CAUGHT: IrqLock<Option<Fault>> = IrqLock::new(None);

/// Runs `fault`, which must cause a fault of this kind and never come back from it.
///
/// What it holds when it faults stays held: it must take no lock and no memory.
pub fn must_fault(kind: Kind, fault: extern "C" fn()) -> Result<(), String> {
    *CAUGHT.lock() = None;
    // SAFETY: the word is this CPU's; `call_and_catch` leaves it 0.
    unsafe { call_and_catch(fault, percpu::this().own.expected_fault.as_ptr()) };
    match *CAUGHT.lock() {
        Some(caught) if caught.kind() == kind => Ok(()),
        Some(caught) => Err(alloc::format!("expected: {kind}; got: {caught}")),
        None => Err(alloc::format!("expected: {kind}; but nothing happened")),
    }
}

/// Makes `frame` return to [`must_fault`] if that is running on this CPU.
pub(crate) fn is_expected(frame: &mut TrapFrame, fault: &Fault) -> bool {
    let expected = &percpu::this().own.expected_fault;
    // Relaxed: this CPU's own.
    let sp = expected.load(Ordering::Relaxed);
    if sp == 0 {
        return false;
    }
    *CAUGHT.lock() = Some(*fault);
    frame.x[0] = sp;
    frame.x[1] = expected as *const AtomicU64 as u64;
    frame.pc = resume as *const () as u64;
    true
}

/// Calls `fault` with the stack pointer noted in `expected`, so that `resume` can return from here.
///
/// # Safety
///
/// `expected` is this CPU's `expected_fault`, and 0.
#[unsafe(naked)]
unsafe extern "C" fn call_and_catch(fault: extern "C" fn(), expected: *mut u64) {
    naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "mov x29, sp",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "str x1, [sp, #96]",
        "mov x2, sp",
        "str x2, [x1]",
        "blr x0",
        "mov x0, sp",
        "ldr x1, [sp, #96]",
        "b {resume}",
        resume = sym resume,
    )
}

/// Returns from `call_and_catch`, whose stack pointer is in x0 and whose second argument is in x1.
#[unsafe(naked)]
extern "C" fn resume() {
    naked_asm!(
        "str xzr, [x1]",
        "mov sp, x0",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #112",
        "ret",
    )
}
