//! Kernels that end in a panic: each test here must, and one is chosen by `test=NAME`. What the console then says is
//! judged by `lazuli test` (tools/src/scenario.rs).
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use lazuli::sync::{self, IrqGuard};
use lazuli::testing::mms::{MS, Outcome, sleep, spawn, spin_until};
use lazuli::{kernel_tests, percpu, println};

kernel_tests! {
    a_panic,
    a_fault,
    a_deaf_cpu,
    a_run_that_is_too_long,
}

/// Where the panics happen: not where the tests run.
const CPU: usize = 1;

/// Keeps all other CPUs talking, so that a panic must stop them, and take the console from one of them.
fn let_the_others_talk() {
    /// How many do. Relaxed: it publishes nothing.
    static TALKING: AtomicUsize = AtomicUsize::new(0);
    let others = 2..percpu::count();
    for cpu in others.clone() {
        spawn(cpu, None, || {
            TALKING.fetch_add(1, Ordering::Relaxed);
            loop {
                println!("CPU {} still runs", percpu::cpu_id());
                (0..10_000).for_each(|_| sync::relax());
            }
        });
    }
    spin_until(|| TALKING.load(Ordering::Relaxed) == others.len());
}

/// Nothing of this file ends a test: the panic does.
fn wait_for_the_end() -> Outcome {
    loop {
        sleep(100 * MS);
    }
}

#[inline(never)]
fn panic_on_purpose() {
    panic!("on purpose");
}

#[inline(never)]
fn fault_on_purpose() {
    // SAFETY: it faults: that is the test.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) 8_u64 => _, in("x27") 0x1234_5678_9abc_u64, options(nostack)) };
}

fn a_panic() -> Outcome {
    let_the_others_talk();
    spawn(CPU, None, panic_on_purpose);
    wait_for_the_end()
}

fn a_fault() -> Outcome {
    let_the_others_talk();
    spawn(CPU, None, fault_on_purpose);
    wait_for_the_end()
}

fn a_deaf_cpu() -> Outcome {
    let_the_others_talk();
    spawn(CPU, None, || {
        let _masked = IrqGuard::new();
        loop {
            sync::relax();
        }
    });
    wait_for_the_end()
}

fn a_run_that_is_too_long() -> Outcome {
    wait_for_the_end()
}
