//! The mini UART of the Raspberry Pi (BCM2711 ARM Peripherals, 2.2), cousin of a 16550.

use core::ptr::NonNull;

use safe_mmio::fields::{ReadPure, ReadPureWrite, ReadWrite};
use safe_mmio::{UniqueMmioPointer, field, field_shared};

/// The auxiliary block up to the mini UART's registers, which the device tree names alone.
#[repr(C)]
struct Registers {
    _irq: ReadPure<u32>,
    enables: ReadPureWrite<u32>,
    _other_devices: [u32; 14],
    io: ReadWrite<u32>,
    ier: ReadPureWrite<u32>,
    iir: ReadPureWrite<u32>,
    lcr: ReadPureWrite<u32>,
    mcr: ReadPureWrite<u32>,
    lsr: ReadPure<u32>,
    _msr: ReadPure<u32>,
    _scratch: ReadPureWrite<u32>,
    cntl: ReadPureWrite<u32>,
    _stat: ReadPure<u32>,
    baud: ReadPureWrite<u32>,
}

/// Where in the block the tree's address lies.
const OWN: u64 = 0x40;
/// How many bytes of registers there are behind that.
pub(super) const LEN: u64 = size_of::<Registers>() as u64 - OWN;

/// AUX_ENABLES: the mini UART is there at all; until then its registers cannot be reached.
const ENABLES_MINI_UART: u32 = 1;
/// IER: a byte was received. The manual lacks bit 2, without which none is reported (its errata).
const IER_RECEIVED: u32 = 0b101;
/// IIR: empty both FIFOs.
const IIR_CLEAR: u32 = 0b110;
/// LCR: eight bits; the manual lacks bit 1.
const LCR_8_BITS: u32 = 0b11;
const LSR_RECEIVED: u32 = 1;
/// LSR: there is room to send a byte; and all bytes are out.
const LSR_ROOM: u32 = 1 << 5;
const LSR_IDLE: u32 = 1 << 6;
/// CNTL: receives and sends.
const CNTL_BOTH_WAYS: u32 = 0b11;

/// A mapped mini UART.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart(NonNull<Registers>);

// SAFETY: the pointer is to device registers, valid on every CPU; see `registers` for sharing.
unsafe impl Send for MiniUart {}
// SAFETY: as above.
unsafe impl Sync for MiniUart {}

impl MiniUart {
    /// A port at a mapped address: that of its data register, which lies in one page with the whole block.
    ///
    /// # Safety
    /// A mini UART's registers are mapped there as device memory, for as long as the value is used.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        // SAFETY: the block begins 64 bytes before, in the same page, and a page is mapped whole.
        Self(unsafe { base.sub(OWN as usize) }.cast())
    }

    fn registers(&self) -> UniqueMmioPointer<'_, Registers> {
        // SAFETY: mapped device registers, as `new` was promised; shared as those of a PL011 are.
        unsafe { UniqueMmioPointer::new(self.0) }
    }

    /// Whether firmware has turned the port on.
    pub(super) fn is_on(&self) -> bool {
        let registers = self.registers();
        field_shared!(registers, enables).read() & ENABLES_MINI_UART != 0
            && field_shared!(registers, cntl).read() & CNTL_BOTH_WAYS == CNTL_BOTH_WAYS
            && field_shared!(registers, baud).read() != 0
    }

    /// Turns the port on with eight bits, at this speed. It has neither parity nor a second stop bit.
    pub(super) fn turn_on(&self, clock_hz: u32, baud: u32) {
        let mut registers = self.registers();
        let enabled = field_shared!(registers, enables).read();
        field!(registers, enables).write(enabled | ENABLES_MINI_UART);
        field!(registers, cntl).write(0);
        field!(registers, ier).write(0);
        field!(registers, lcr).write(LCR_8_BITS);
        field!(registers, mcr).write(0);
        field!(registers, iir).write(IIR_CLEAR);
        field!(registers, baud).write((clock_hz / (8 * baud)).saturating_sub(1));
        field!(registers, cntl).write(CNTL_BOTH_WAYS);
    }

    /// Sends a byte, waiting while the FIFO is full.
    pub(super) fn write_byte(&self, byte: u8) {
        let mut registers = self.registers();
        while field_shared!(registers, lsr).read() & LSR_ROOM == 0 {
            crate::sync::relax();
        }
        field!(registers, io).write(u32::from(byte));
    }

    /// Waits until all bytes are out.
    pub(super) fn flush(&self) {
        let registers = self.registers();
        while field_shared!(registers, lsr).read() & LSR_IDLE == 0 {
            crate::sync::relax();
        }
    }

    /// Takes a received byte, if there is one.
    pub(super) fn try_read_byte(&self) -> Option<u8> {
        let mut registers = self.registers();
        (field_shared!(registers, lsr).read() & LSR_RECEIVED != 0).then(|| field!(registers, io).read() as u8)
    }

    pub(super) fn enable_receive_interrupt(&self) {
        let mut registers = self.registers();
        field!(registers, ier).write(IER_RECEIVED);
    }
}
