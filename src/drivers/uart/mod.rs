//! Serial ports: polled output, interrupt-driven input, 115200 baud, 8 bits, no parity, 1 stop bit.

mod mini;
mod pl011;

use core::ptr::NonNull;

use spin::once::Once;

use self::mini::MiniUart;
use self::pl011::Pl011;
use super::bcm_mailbox::{self, Clock};
use super::{bcm_gpio, gic, interrupt};
use crate::arch::mmu;
use crate::console;
use crate::platform::{self, Uart, UartKind};
use crate::sync::{IrqLock, Relax};

const BAUD: u32 = 115_200;

/// A serial port.
#[derive(Clone, Copy, Debug)]
pub enum Port {
    /// Arm's.
    Pl011(Pl011),
    /// The second one of the Raspberry Pi.
    Mini(MiniUart),
}

impl Port {
    fn is_on(&self) -> bool {
        match self {
            Self::Pl011(port) => port.is_on(),
            Self::Mini(port) => port.is_on(),
        }
    }

    fn turn_on(&self, clock_hz: u32) {
        match self {
            Self::Pl011(port) => port.turn_on(clock_hz, BAUD),
            Self::Mini(port) => port.turn_on(clock_hz, BAUD),
        }
    }

    /// Sends a byte, waiting for room.
    pub fn write_byte(&self, byte: u8) {
        match self {
            Self::Pl011(port) => port.write_byte(byte),
            Self::Mini(port) => port.write_byte(byte),
        }
    }

    /// Waits until all bytes are out.
    pub fn flush(&self) {
        match self {
            Self::Pl011(port) => port.flush(),
            Self::Mini(port) => port.flush(),
        }
    }

    fn try_read_byte(&self) -> Option<u8> {
        match self {
            Self::Pl011(port) => port.try_read_byte(),
            Self::Mini(port) => port.try_read_byte(),
        }
    }

    fn enable_receive_interrupt(&self) {
        match self {
            Self::Pl011(port) => port.enable_receive_interrupt(),
            Self::Mini(port) => port.enable_receive_interrupt(),
        }
    }

    /// Before the FIFO is emptied: a byte that arrives after the last look raises the interrupt again.
    fn clear_receive_interrupt(&self) {
        match self {
            Self::Pl011(port) => port.clear_receive_interrupt(),
            // Its interrupt lasts as long as there are bytes, and no longer.
            Self::Mini(_) => {}
        }
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
static PORT: Once<Port, Relax> = Once::new();
/// The port that we turned on before its clock was known.
static GUESSED: Once<UartKind, Relax> = Once::new();
static ON_INPUT: Once<fn(), Relax> = Once::new();

/// Prints from now on to the port of the board that loads its kernel at this physical address: where there are two, to the
/// one that somebody can hear.
pub fn init_early(image: u64) {
    let Some(board) = bsp::board_of_image(image) else { return };
    let (kind, registers, clock) = match &board.pins {
        Some(pins) if bcm_gpio::has_mini_uart(pins) => (UartKind::Mini, pins.mini_uart_registers, pins.mini_uart_clock),
        _ => (UartKind::Pl011, board.early_console, board.early_console_clock),
    };
    let port = map(kind, registers);
    // A port that is off never has room: waiting for it would be the end, without a word.
    if !port.is_on() {
        port.turn_on(clock);
        GUESSED.call_once(|| kind);
    }
    console::attach(port);
}

/// Prints from now on to the port that the device tree names, if it names one.
pub fn init() {
    if let Some(uart) = &platform::get().uart {
        let port = *PORT.call_once(|| map(uart.kind, uart.registers.base));
        bcm_gpio::connect(&uart.pins);
        let is_guessed = GUESSED.get() == Some(&uart.kind);
        if (is_guessed || !port.is_on())
            && let Some(clock) = clock(uart)
        {
            if is_guessed {
                port.flush();
            }
            port.turn_on(clock);
        }
        console::attach(port);
    }
}

/// How fast the clock of a port runs: as the tree says, else as the VideoCore does.
fn clock(uart: &Uart) -> Option<u32> {
    uart.clock_hz.or_else(|| {
        bcm_mailbox::clock_rate(match uart.kind {
            UartKind::Pl011 => Clock::Uart,
            UartKind::Mini => Clock::Core,
        })
    })
}

fn map(kind: UartKind, base: u64) -> Port {
    let len = match kind {
        UartKind::Pl011 => pl011::LEN,
        UartKind::Mini => mini::LEN,
    };
    let base = NonNull::new(mmu::map_device(base, len)).expect("mappings are not at 0");
    // SAFETY: the device tree, or the board's description, says that such a port is there; device
    // mappings last for ever.
    unsafe {
        match kind {
            UartKind::Pl011 => Port::Pl011(Pl011::new(base)),
            UartKind::Mini => Port::Mini(MiniUart::new(base)),
        }
    }
}

/// Lets the console's port interrupt this CPU when bytes arrive. The interrupt controller is set up.
pub fn enable_input() {
    let interrupt = platform::get().uart.as_ref().and_then(|uart| uart.interrupt);
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
