//! `heartbeat=on`: the board's activity LED blinks as long as threads are scheduled.
//!
//! It is lit from the kernel's first instructions in Rust on, before the console works; who sees it blink knows that
//! memory, interrupts and scheduler are well. Off unless asked for: a thread that wakes up disturbs measurements.

use crate::arch::timer;
use crate::cmdline;
use crate::drivers::bcm_gpio;
use crate::sched::{self, Signals};

const HALF_PERIOD_NS: u64 = 500_000_000;

/// Starts blinking, if the command line asks for it.
pub(crate) fn start() {
    if cmdline::get("heartbeat").is_some() {
        begin();
    }
}

/// Starts blinking, for ever.
pub fn begin() {
    sched::Builder::new("heartbeat").spawn(blink).expect("no memory for a thread");
}

fn blink() {
    let mut lit = false;
    loop {
        bcm_gpio::set_led(lit);
        lit = !lit;
        sched::sleep_until(timer::now_ns() + HALF_PERIOD_NS, Signals::Wait).expect("no signal ends this sleep");
    }
}
