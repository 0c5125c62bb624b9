//! The activity LED of the Raspberry Pi 4: a sign of life where there is no console.
//@ board: rpi4
//@ mode: icount
//@ scheme: refcount
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use lazuli::arch::{mmu, timer};
use lazuli::drivers::bcm_gpio;
use lazuli::testing::mms::{MS, sleep};
use lazuli::{heartbeat, kernel_tests, platform, sync};

kernel_tests! {
    it_was_lit_by_the_first_instructions,
    it_follows,
    its_heart_beats_once_a_second,
}

/// Offsets and bits for pin 42 (BCM2711 ARM Peripherals, 5.2): its function in GPFSEL4, its level in GPLEV1.
const GPFSEL4: usize = 0x10;
const FUNCTION_SHIFT: u32 = 6;
const OUTPUT: u32 = 1;
const GPLEV1: usize = 0x38;
const LEVEL: u32 = 1 << (42 - 32);

fn register(offset: usize) -> u32 {
    static REGISTERS: spin::once::Once<usize, sync::Relax> = spin::once::Once::new();
    let gpio = platform::get().gpio.expect("a Raspberry Pi");
    let base = *REGISTERS.call_once(|| mmu::map_device(gpio.base, gpio.len) as usize);
    // SAFETY: the pin controller's registers are mapped there for good; reading these changes nothing.
    unsafe { ((base + offset) as *const u32).read_volatile() }
}

fn is_lit() -> bool {
    register(GPFSEL4) >> FUNCTION_SHIFT & 7 == OUTPUT && register(GPLEV1) & LEVEL != 0
}

fn it_was_lit_by_the_first_instructions() {
    assert!(is_lit());
}

fn it_follows() {
    for lit in [false, true, false] {
        bcm_gpio::set_led(lit);
        assert_eq!(is_lit(), lit);
    }
}

fn its_heart_beats_once_a_second() -> Result<(), String> {
    heartbeat::begin();
    let end = timer::now_ns() + 3000 * MS;
    let (mut changes, mut was_lit) = (0, is_lit());
    while timer::now_ns() < end {
        sleep(5 * MS);
        changes += u32::from(is_lit() != was_lit);
        was_lit = is_lit();
    }
    // Six halves of a second begin in it; the first finds the LED dark already.
    if (5..=6).contains(&changes) { Ok(()) } else { Err(format!("{changes} changes in 3 s")) }
}
