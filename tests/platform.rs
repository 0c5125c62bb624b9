//! What the device tree of the machine at hand says is understood. Other trees are read on the host: formats/tests.
//@ mode: icount
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use lazuli::platform::{self, Gic};
use lazuli::{kernel_tests, percpu};

kernel_tests! {
    this_machine_is_understood,
}

fn expect<T: PartialEq + core::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:x?}, not {expected:x?}")) }
}

/// A machine by what its tree must say: RAM, serial port, distributor, and a GICv2's CPU interface.
struct Machine {
    ram: u64,
    uart: (u64, u32),
    distributor: u64,
    cpu_interface: u64,
}

/// QEMU `virt`: hw/arm/virt.c, base_memmap and a15irqmap.
const VIRT: Machine =
    Machine { ram: 0x4000_0000, uart: (0x900_0000, 33), distributor: 0x800_0000, cpu_interface: 0x801_0000 };
/// BCM2711 ARM Peripherals, 1.2.4 and 6; the addresses of "low peripheral" mode.
const RPI4: Machine =
    Machine { ram: 0, uart: (0xfe20_1000, 153), distributor: 0xff84_1000, cpu_interface: 0xff84_2000 };

fn this_machine_is_understood() -> Result<(), String> {
    let platform = platform::get();
    let machine = if platform.model.starts_with("Raspberry Pi 4") { RPI4 } else { VIRT };
    expect("RAM", platform.ram[0].base, machine.ram)?;
    let uart = platform.uart.as_ref().map(|uart| (uart.registers.base, uart.interrupt));
    expect("serial port", uart, Some((machine.uart.0, Some(machine.uart.1))))?;
    expect("timers", (platform.timer_interrupt, platform.watchdog_interrupt), (27, 30))?;
    let distributor = match &platform.gic {
        Gic::V2 { distributor, cpu_interface } => {
            expect("CPU interface", cpu_interface.base, machine.cpu_interface)?;
            distributor
        }
        Gic::V3 { distributor, redistributors } => {
            expect("redistributors", redistributors[0].base, 0x80a_0000)?;
            distributor
        }
    };
    expect("distributor", distributor.base, machine.distributor)?;
    expect("CPUs", platform.cpus().count(), percpu::count())?;
    expect("first CPU", platform.cpus().next().map(|cpu| cpu.mpidr), Some(percpu::of(0).mpidr))
}
