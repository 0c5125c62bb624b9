//! The pins of the Raspberry Pi 4 (BCM2711 ARM Peripherals, chapter 5): what each is connected to, and the LED.

use core::ptr::NonNull;

use safe_mmio::fields::{ReadPureWrite, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};
use spin::once::Once;

use crate::arch::mmu;
use crate::platform::{self, Pin};
use crate::sync::{IrqLock, Relax};

#[repr(C)]
struct Registers {
    /// Three bits for each pin, ten pins in a word.
    function: [ReadPureWrite<u32>; 6],
    _reserved_0: u32,
    /// Writing a one makes the pin high.
    set: [WriteOnly<u32>; 2],
    _reserved_1: u32,
    clear: [WriteOnly<u32>; 2],
    _reserved_2: [u32; 45],
    /// Two bits for each pin, sixteen pins in a word.
    pull: [ReadPureWrite<u32>; 4],
}

const PINS: u8 = 58;
/// Function select: the pin is an output.
const OUTPUT: u8 = 1;
/// What pulls a pin that nobody drives.
const NO_PULL: u8 = 0;
const PULL_UP: u8 = 1;

struct Gpio(NonNull<Registers>);

// SAFETY: the pointer is to device registers, mapped for every CPU and for ever.
unsafe impl Send for Gpio {}

/// The controller, if the tree has one. Mapped by CPU 0.
static GPIO: Once<Option<IrqLock<Gpio>>, Relax> = Once::new();

fn gpio() -> Option<&'static IrqLock<Gpio>> {
    let map = || {
        let region = platform::get().gpio?;
        Some(IrqLock::new(Gpio::map(region.base, region.len)))
    };
    GPIO.call_once(map).as_ref()
}

/// Connects pins as the tree says.
pub(super) fn connect(pins: &[Pin]) {
    if let Some(gpio) = gpio() {
        pins.iter().filter(|pin| pin.number < PINS).for_each(|pin| gpio.lock().connect(pin));
    }
}

/// Lights the activity LED of the board that loads its kernel at this physical address: the first sign of life.
pub fn light_early(image: u64) {
    if let Some(pins) = bsp::board_of_image(image).and_then(|board| board.pins.as_ref()) {
        let mut gpio = Gpio::map(pins.gpio, 0);
        gpio.connect(&Pin { number: pins.led, function: OUTPUT, pull: None });
        gpio.drive(pins.led, true);
    }
}

/// Whether firmware has connected the serial line's pins to the mini UART. If to nothing, the PL011 gets them.
pub(super) fn has_mini_uart(pins: &bsp::Pins) -> bool {
    let mut gpio = Gpio::map(pins.gpio, 0);
    let [function, _] = pins.serial.map(|pin| gpio.function(pin));
    if function != pins.mini_uart && function != pins.pl011 {
        for (number, pull) in pins.serial.into_iter().zip([NO_PULL, PULL_UP]) {
            gpio.connect(&Pin { number, function: pins.pl011, pull: Some(pull) });
        }
    }
    function == pins.mini_uart
}

/// Makes the board's activity LED light, or not. Nothing where the tree names none.
pub fn set_led(lit: bool) {
    let Some((gpio, led)) = gpio().zip(platform::get().led.filter(|led| led.number < PINS)) else { return };
    let mut gpio = gpio.lock();
    gpio.connect(&Pin { number: led.number, function: OUTPUT, pull: None });
    gpio.drive(led.number, lit != led.active_low);
}

impl Gpio {
    fn map(base: u64, len: u64) -> Self {
        let mapped = mmu::map_device(base, len.max(size_of::<Registers>() as u64));
        Self(NonNull::new(mapped).expect("mappings are not at 0").cast())
    }

    fn registers(&mut self) -> UniqueMmioPointer<'_, Registers> {
        // SAFETY: mapped device registers, behind the lock.
        unsafe { UniqueMmioPointer::new(self.0) }
    }

    fn connect(&mut self, pin: &Pin) {
        let (word, shift) = (usize::from(pin.number / 10), pin.number % 10 * 3);
        let mut registers = self.registers();
        let before = field_shared!(registers, function).get(word).expect("six words hold 58 pins").read();
        let after = before & !(0b111 << shift) | u32::from(pin.function & 0b111) << shift;
        if after != before {
            field!(registers, function).get(word).expect("as above").write(after);
        }
        if let Some(pull) = pin.pull {
            let (word, shift) = (usize::from(pin.number / 16), pin.number % 16 * 2);
            let before = field_shared!(registers, pull).get(word).expect("four words hold 58 pins").read();
            let after = before & !(0b11 << shift) | u32::from(pull & 0b11) << shift;
            field!(registers, pull).get(word).expect("as above").write(after);
        }
    }

    fn function(&mut self, pin: u8) -> u8 {
        let registers = self.registers();
        let word =
            field_shared!(registers, function).get(usize::from(pin / 10)).expect("six words hold 58 pins").read();
        (word >> (pin % 10 * 3) & 0b111) as u8
    }

    fn drive(&mut self, pin: u8, high: bool) {
        let (word, bit) = (usize::from(pin / 32), 1 << (pin % 32));
        let mut registers = self.registers();
        if high {
            field!(registers, set).get(word).expect("two words hold 58 pins").write(bit);
        } else {
            field!(registers, clear).get(word).expect("as above").write(bit);
        }
    }
}
