//! Both serial ports of a Raspberry Pi 4, as firmware left them, until one is spoken to.

use core::arch::asm;

/// The PL011 (Arm DDI 0183, chapter 3), and the mini UART (BCM2711 ARM Peripherals, 2.2).
const PL011: usize = 0xfe20_1000;
const AUX: usize = 0xfe21_5000;
const AUX_ENABLES: usize = AUX + 0x04;
const MINI_UART_ENABLED: u32 = 1;

/// Nobody has sent anything for a while.
pub(crate) struct Silence;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Pl011,
    Mini,
}

pub(crate) struct Ports {
    has_mini: bool,
    /// The one that the host spoke on.
    chosen: Option<Port>,
}

impl Ports {
    pub(crate) fn new() -> Self {
        let on = load(PL011 + 0x30) & 1 != 0;
        if !on {
            // 115200 baud of 48 MHz, 8N1 with FIFOs, on.
            for (offset, value) in [(0x30, 0), (0x24, 26), (0x28, 3), (0x2c, 0x70), (0x30, 0x301)] {
                store(PL011 + offset, value);
            }
        }
        Self { has_mini: load(AUX_ENABLES) & MINI_UART_ENABLED != 0, chosen: None }
    }

    /// Says it on every port that the host may hang on.
    pub(crate) fn announce(&mut self, text: &[u8]) {
        self.chosen = None;
        text.iter().for_each(|&byte| self.write(byte));
    }

    pub(crate) fn write(&self, byte: u8) {
        if self.chosen != Some(Port::Mini) {
            while load(PL011 + 0x18) & 1 << 5 != 0 {}
            store(PL011, u32::from(byte));
        }
        if self.has_mini && self.chosen != Some(Port::Pl011) {
            while load(AUX + 0x54) & 1 << 5 == 0 {}
            store(AUX + 0x40, u32::from(byte));
        }
    }

    /// Waits until all bytes are out.
    pub(crate) fn flush(&self) {
        while load(PL011 + 0x18) & 1 << 3 != 0 {}
        while self.has_mini && load(AUX + 0x54) & 1 << 6 == 0 {}
    }

    /// The next byte, if it comes within a second.
    pub(crate) fn read(&mut self) -> Result<u8, Silence> {
        self.read_within(1)
    }

    /// The next byte, if the host comes back at all.
    pub(crate) fn read_patiently(&mut self) -> Result<u8, Silence> {
        self.read_within(10)
    }

    /// Drops what comes until nothing does for a moment.
    pub(crate) fn drain(&mut self) {
        let mut end = now() + frequency() / 20;
        while now() < end {
            if self.try_read().is_some() {
                end = now() + frequency() / 20;
            }
        }
    }

    fn read_within(&mut self, seconds: u64) -> Result<u8, Silence> {
        let end = now() + seconds * frequency();
        loop {
            if let Some(byte) = self.try_read() {
                return Ok(byte);
            }
            if now() > end {
                return Err(Silence);
            }
        }
    }

    fn try_read(&mut self) -> Option<u8> {
        if self.chosen != Some(Port::Mini) && load(PL011 + 0x18) & 1 << 4 == 0 {
            self.chosen = Some(Port::Pl011);
            return Some(load(PL011) as u8);
        }
        if self.has_mini && self.chosen != Some(Port::Pl011) && load(AUX + 0x54) & 1 != 0 {
            self.chosen = Some(Port::Mini);
            return Some(load(AUX + 0x40) as u8);
        }
        None
    }
}

fn load(register: usize) -> u32 {
    // SAFETY: a device register of the one board that this program is for; with the MMU off it is device memory.
    unsafe { (register as *const u32).read_volatile() }
}

fn store(register: usize, value: u32) {
    // SAFETY: as in `load`.
    unsafe { (register as *mut u32).write_volatile(value) };
}

fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

fn frequency() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}
