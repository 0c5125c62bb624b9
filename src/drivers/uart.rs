//! The PL011 serial port: polled output, interrupt-driven input.

use core::ptr::NonNull;

use safe_mmio::fields::{ReadPure, ReadPureWrite, ReadWrite, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};
use spin::once::Once;

use super::{gic, interrupt};
use crate::arch::mmu;
use crate::console;
use crate::platform::{self, Region};
use crate::sync::{IrqLock, Relax};

/// The registers that are used (Arm PL011 manual, DDI 0183, chapter 3).
#[repr(C)]
struct Registers {
    dr: ReadWrite<u32>,
    _rsr: ReadPure<u32>,
    _reserved_0: [u32; 4],
    fr: ReadPure<u32>,
    _reserved_1: [u32; 2],
    _line_control: [u32; 3],
    _cr: ReadPureWrite<u32>,
    _ifls: ReadPureWrite<u32>,
    imsc: ReadPureWrite<u32>,
    _ris: ReadPure<u32>,
    _mis: ReadPure<u32>,
    icr: WriteOnly<u32>,
}

/// FR: a byte is still on its way out.
const FR_BUSY: u32 = 1 << 3;
/// FR: the receive FIFO is empty.
const FR_RXFE: u32 = 1 << 4;
/// FR: the transmit FIFO is full.
const FR_TXFF: u32 = 1 << 5;
/// IMSC and ICR: a byte was received, or some wait in a FIFO that is not full enough.
const RECEIVED: u32 = 1 << 4 | 1 << 6;

/// A PL011 whose line settings the firmware made.
#[derive(Clone, Copy)]
pub struct Pl011(NonNull<Registers>);

// SAFETY: the pointer is to device registers, valid on every CPU; see `registers` for sharing.
unsafe impl Send for Pl011 {}
// SAFETY: as above.
unsafe impl Sync for Pl011 {}

impl Pl011 {
    /// A port at a mapped address.
    ///
    /// # Safety
    /// A PL011's registers are mapped there as device memory, for as long as the value is used.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self(base.cast())
    }

    fn registers(&self) -> UniqueMmioPointer<'_, Registers> {
        // SAFETY: mapped device registers, as `new` was promised. Each method makes single reads
        // and writes that carry nothing over to the next, so callers on two CPUs can at worst
        // interleave their bytes; the console's lock prevents even that.
        unsafe { UniqueMmioPointer::new(self.0) }
    }

    /// Sends a byte, waiting while the FIFO is full.
    pub fn write_byte(&self, byte: u8) {
        let mut registers = self.registers();
        while field_shared!(registers, fr).read() & FR_TXFF != 0 {
            crate::sync::relax();
        }
        field!(registers, dr).write(u32::from(byte));
    }

    /// Waits until all bytes are out.
    pub fn flush(&self) {
        let registers = self.registers();
        while field_shared!(registers, fr).read() & FR_BUSY != 0 {
            crate::sync::relax();
        }
    }

    /// Takes a received byte, if there is one.
    pub fn try_read_byte(&self) -> Option<u8> {
        let mut registers = self.registers();
        (field_shared!(registers, fr).read() & FR_RXFE == 0).then(|| field!(registers, dr).read() as u8)
    }

    fn enable_receive_interrupt(&self) {
        let mut registers = self.registers();
        field!(registers, icr).write(RECEIVED);
        field!(registers, imsc).write(RECEIVED);
    }

    fn clear_receive_interrupt(&self) {
        let mut registers = self.registers();
        field!(registers, icr).write(RECEIVED);
    }
}

/// Received bytes that nobody has asked for yet.
struct Ring {
    bytes: [u8; Ring::LEN],
    /// Bytes ever put in and ever taken out; their difference is at most `LEN`.
    put: usize,
    taken: usize,
}

impl Ring {
    const LEN: usize = 256;

    /// Keeps the byte, or drops it if 256 wait already: the sender is a person or has flow control.
    fn put(&mut self, byte: u8) {
        if self.put - self.taken < Self::LEN {
            self.bytes[self.put % Self::LEN] = byte;
            self.put += 1;
        }
    }

    fn take(&mut self) -> Option<u8> {
        (self.taken < self.put).then(|| {
            self.taken += 1;
            self.bytes[(self.taken - 1) % Self::LEN]
        })
    }
}

static INPUT: IrqLock<Ring> = IrqLock::new(Ring { bytes: [0; Ring::LEN], put: 0, taken: 0 });
/// The port that the device tree names.
static PORT: Once<Pl011, Relax> = Once::new();
static ON_INPUT: Once<fn(), Relax> = Once::new();

/// Prints from now on to the port of the board that loads its kernel at this physical address.
pub fn init_early(image: u64) {
    if let Some(board) = bsp::board_of_image(image) {
        let registers = Region { base: board.early_console, len: size_of::<Registers>() as u64 };
        console::attach(map(registers));
    }
}

/// Prints from now on to the port that the device tree names, if it names one.
pub fn init() {
    if let Some(uart) = platform::get().uart {
        console::attach(*PORT.call_once(|| map(uart.registers)));
    }
}

fn map(registers: Region) -> Pl011 {
    let base = mmu::map_device(registers.base, registers.len);
    // SAFETY: the device tree, or the board's description, says that a PL011 is there; device
    // mappings last for ever.
    unsafe { Pl011::new(NonNull::new(base).expect("mappings are not at 0")) }
}

/// Lets the console's port interrupt this CPU when bytes arrive. The interrupt controller is set up.
pub fn enable_input() {
    let interrupt = platform::get().uart.and_then(|uart| uart.interrupt);
    if let Some((port, intid)) = PORT.get().zip(interrupt) {
        interrupt::register(intid, "uart", handle_irq);
        port.enable_receive_interrupt();
        gic::enable(intid);
    }
}

/// Names what to call, with interrupts masked, when input has arrived: it wakes who waits for it.
pub fn on_input(wake: fn()) {
    ON_INPUT.call_once(|| wake);
}

/// Takes a byte of input, if there is one.
pub fn read_byte() -> Option<u8> {
    INPUT.lock().take()
}

fn handle_irq(_intid: u32) {
    let Some(port) = PORT.get() else { return };
    // Before the FIFO is emptied: a byte that arrives after the last look raises it again.
    port.clear_receive_interrupt();
    let mut input = INPUT.lock();
    while let Some(byte) = port.try_read_byte() {
        input.put(byte);
    }
    drop(input);
    if let Some(wake) = ON_INPUT.get() {
        wake();
    }
}
