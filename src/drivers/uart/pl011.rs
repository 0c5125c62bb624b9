//! The PL011 (Arm PL011 Technical Reference Manual, DDI 0183).

use core::ptr::NonNull;

use safe_mmio::fields::{ReadPure, ReadPureWrite, ReadWrite, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};

/// The registers that are used (chapter 3).
#[repr(C)]
struct Registers {
    dr: ReadWrite<u32>,
    _rsr: ReadPure<u32>,
    _reserved_0: [u32; 4],
    fr: ReadPure<u32>,
    _reserved_1: [u32; 2],
    ibrd: ReadPureWrite<u32>,
    fbrd: ReadPureWrite<u32>,
    lcr_h: ReadPureWrite<u32>,
    cr: ReadPureWrite<u32>,
    _ifls: ReadPureWrite<u32>,
    imsc: ReadPureWrite<u32>,
    _ris: ReadPure<u32>,
    _mis: ReadPure<u32>,
    icr: WriteOnly<u32>,
}

/// How many bytes of registers there are.
pub(super) const LEN: u64 = size_of::<Registers>() as u64;

/// FR: a byte is still on its way out.
const FR_BUSY: u32 = 1 << 3;
/// FR: the receive FIFO is empty.
const FR_RXFE: u32 = 1 << 4;
/// FR: the transmit FIFO is full.
const FR_TXFF: u32 = 1 << 5;
/// LCR_H: FIFOs on; eight bits, no parity, one stop bit.
const LCR_H_8N1: u32 = 1 << 4 | 0b11 << 5;
/// CR: the port is on.
const CR_UARTEN: u32 = 1;
/// CR: the port sends, and receives.
const CR_BOTH_WAYS: u32 = 1 << 8 | 1 << 9;
/// IMSC and ICR: a byte was received, or some wait in a FIFO that is not full enough.
const RECEIVED: u32 = 1 << 4 | 1 << 6;

/// A mapped PL011.
#[derive(Clone, Copy, Debug)]
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

    /// Whether firmware has turned the port on.
    pub(super) fn is_on(&self) -> bool {
        field_shared!(self.registers(), cr).read() & CR_UARTEN != 0
    }

    /// Turns the port on with eight bits, no parity and one stop bit, at this speed.
    pub(super) fn turn_on(&self, clock_hz: u32, baud: u32) {
        let mut registers = self.registers();
        field!(registers, cr).write(0);
        field!(registers, imsc).write(0);
        // The divisor is clock / (16 baud), in 64ths (3.3.6); writing LCR_H makes it count.
        let divisor = (4 * clock_hz / baud).max(1 << 6);
        field!(registers, ibrd).write(divisor >> 6);
        field!(registers, fbrd).write(divisor & 0x3f);
        field!(registers, lcr_h).write(LCR_H_8N1);
        field!(registers, cr).write(CR_UARTEN | CR_BOTH_WAYS);
    }

    /// Sends a byte, waiting while the FIFO is full.
    pub(super) fn write_byte(&self, byte: u8) {
        let mut registers = self.registers();
        while field_shared!(registers, fr).read() & FR_TXFF != 0 {
            crate::sync::relax();
        }
        field!(registers, dr).write(u32::from(byte));
    }

    /// Waits until all bytes are out.
    pub(super) fn flush(&self) {
        let registers = self.registers();
        while field_shared!(registers, fr).read() & FR_BUSY != 0 {
            crate::sync::relax();
        }
    }

    /// Takes a received byte, if there is one.
    pub(super) fn try_read_byte(&self) -> Option<u8> {
        let mut registers = self.registers();
        (field_shared!(registers, fr).read() & FR_RXFE == 0).then(|| field!(registers, dr).read() as u8)
    }

    pub(super) fn enable_receive_interrupt(&self) {
        let mut registers = self.registers();
        field!(registers, icr).write(RECEIVED);
        field!(registers, imsc).write(RECEIVED);
    }

    pub(super) fn clear_receive_interrupt(&self) {
        let mut registers = self.registers();
        field!(registers, icr).write(RECEIVED);
    }
}
