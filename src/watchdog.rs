//! `watchdog=SECONDS`: a run that takes longer ends in a panic that says what ran, not in silence.
//!
//! Every CPU arms its EL1 physical timer, which nothing else uses, so that a CPU that masks interrupts
//! for ever is found by another one. Without the option nothing is armed.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, ReadWriteable, Readable, Writeable};

use crate::drivers::{gic, interrupt};
use crate::{cmdline, ipi, percpu, platform, println, sched};

/// When the time is up, in ticks of the physical counter. 0: no watchdog.
static DEADLINE: AtomicU64 = AtomicU64::new(0);

/// Whether some CPU has found the time to be up.
static BARKED: AtomicBool = AtomicBool::new(false);

fn seconds() -> Option<u64> {
    cmdline::get("watchdog")?.parse().ok()
}

/// Starts the time. CPU 0 calls it before any CPU calls [`init_cpu`].
pub fn init() {
    if seconds().is_some() {
        interrupt::register(platform::get().watchdog_interrupt, "watchdog", |_| on_timer());
        restart();
    }
}

/// Gives the run its whole time again, from now on: each test of a test kernel gets it.
pub fn restart() {
    if let Some(seconds) = seconds() {
        let ticks = seconds.saturating_mul(CNTFRQ_EL0.get());
        // Relaxed: a number that publishes nothing else.
        DEADLINE.store(CNTPCT_EL0.get().saturating_add(ticks), Ordering::Relaxed);
    }
}

/// Arms this CPU's timer, if there is a watchdog.
pub fn init_cpu() {
    // Relaxed: see `restart`.
    let deadline = DEADLINE.load(Ordering::Relaxed);
    if deadline != 0 {
        CNTP_CVAL_EL0.set(deadline);
        CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET + CNTP_CTL_EL0::IMASK::CLEAR);
        gic::enable(platform::get().watchdog_interrupt);
    }
}

/// Disarms this CPU's timer: the CPU goes offline, and the others keep watch.
pub fn stop_cpu() {
    CNTP_CTL_EL0.set(0);
}

fn on_timer() {
    // Relaxed: see `restart`.
    let deadline = DEADLINE.load(Ordering::Relaxed);
    if CNTPCT_EL0.get() < deadline {
        CNTP_CVAL_EL0.set(deadline);
        return;
    }
    CNTP_CTL_EL0.modify(CNTP_CTL_EL0::IMASK::SET);
    // Relaxed: only one CPU is the first. The others go back to what they did, where its IPI stops
    // them.
    if !BARKED.swap(true, Ordering::Relaxed) {
        bark();
    }
}

fn bark() -> ! {
    ipi::stop_others();
    let deaf = ipi::online();
    for cpu in 0..percpu::count() {
        let ran = sched::name_on(cpu);
        match (cpu == percpu::cpu_id(), deaf.contains(mm::CpuId(cpu as u16))) {
            (false, true) => println!("CPU {cpu} ran {ran} and takes no interrupts"),
            _ => println!("CPU {cpu} ran {ran}"),
        }
    }
    panic!("watchdog: the {} s of watchdog= are over", seconds().unwrap_or(0));
}
