//! The serial port: what arrives interrupts a CPU and waits to be read.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use lazuli::arch::mmu;
use lazuli::drivers::uart;
use lazuli::{kernel_tests, platform, sync};

kernel_tests! {
    input_interrupts_and_waits_to_be_read,
    too_much_input_keeps_the_first,
}

/// Offsets of the control and data registers, and the bit that connects output to input
/// (Arm PL011 manual, DDI 0183, 3.3).
const DR: usize = 0x000;
const CR: usize = 0x030;
const LOOPBACK: u32 = 1 << 7;

/// Makes the port hear these bytes, one at a time: it need not have a FIFO. QEMU prints them too.
fn feed(bytes: &[u8]) {
    static REGISTERS: spin::once::Once<usize, sync::Relax> = spin::once::Once::new();
    let uart = platform::get().uart.as_ref().expect("a console");
    let base = *REGISTERS.call_once(|| mmu::map_device(uart.registers.base, uart.registers.len) as usize);
    let register = |offset: usize| (base + offset) as *mut u32;
    // SAFETY: a PL011's registers are mapped there for good.
    unsafe {
        let control = register(CR).read_volatile();
        register(CR).write_volatile(control | LOOPBACK | 1 << 9 | 1 << 8 | 1);
        for &byte in bytes {
            let wakes = WAKES.load(Ordering::Relaxed);
            register(DR).write_volatile(u32::from(byte));
            while WAKES.load(Ordering::Relaxed) == wakes {
                sync::relax();
            }
        }
        register(CR).write_volatile(control);
    }
}

/// How often the driver said that there is input. Relaxed: it orders nothing.
static WAKES: AtomicUsize = AtomicUsize::new(0);

fn wake() {
    WAKES.fetch_add(1, Ordering::Relaxed);
}

fn read_all() -> Vec<u8> {
    core::iter::from_fn(uart::read_byte).collect()
}

fn input_interrupts_and_waits_to_be_read() -> Result<(), String> {
    uart::on_input(wake);
    feed(b"hello\n");
    let heard = read_all();
    if heard != b"hello\n" { Err(format!("heard {heard:?}")) } else { Ok(()) }
}

fn too_much_input_keeps_the_first() -> Result<(), String> {
    let bytes: Vec<u8> =
        (0..300u16).map(|place| if place % 60 == 59 { b'\n' } else { b'a' + (place % 26) as u8 }).collect();
    feed(&bytes);
    let heard = read_all();
    if heard != bytes[..256] { Err(format!("heard {} bytes", heard.len())) } else { Ok(()) }
}
