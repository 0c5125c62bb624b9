//! The devices: console, null and zero.

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::{general as linux, ioctl};

use crate::drivers::uart;
use crate::errno::Errno;
use crate::fs::file::{File, Ready, Waiting};
use crate::fs::node::Node;
use crate::fs::poll;
use crate::sched::{self, Patience, WaitQueue};
use crate::sync::SpinLock;
use crate::user_memory::{self, UserBuffer};
use crate::{console, print};

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The serial console.
    Console,
    /// Its name as the terminal of the process that asks.
    Terminal,
    /// Swallows everything, holds nothing.
    Null,
    /// Swallows everything, holds zeroes.
    Zero,
}

impl Device {
    /// All devices.
    pub const ALL: [Device; 4] = [Device::Console, Device::Terminal, Device::Null, Device::Zero];

    /// Its name in /dev.
    pub fn name(self) -> &'static [u8] {
        match self {
            Device::Console => b"console",
            Device::Terminal => b"tty",
            Device::Null => b"null",
            Device::Zero => b"zero",
        }
    }

    /// Its permissions.
    pub fn permissions(self) -> u32 {
        if self == Device::Console { 0o600 } else { 0o666 }
    }

    /// Its device number, as Linux gives it (Documentation/admin-guide/devices.txt).
    pub fn number(self) -> u64 {
        match self {
            Device::Console => 5 << 8 | 1,
            Device::Terminal => 5 << 8,
            Device::Null => 1 << 8 | 3,
            Device::Zero => 1 << 8 | 5,
        }
    }

    /// Opens it.
    pub fn open(self, node: &Arc<Node>) -> Box<dyn File> {
        let node = node.clone();
        match self {
            Device::Console | Device::Terminal => Box::new(Console(node)),
            Device::Null | Device::Zero => Box::new(Memory { node, holds_zeroes: self == Device::Zero }),
        }
    }
}

/// /dev/null and /dev/zero.
struct Memory {
    node: Arc<Node>,
    holds_zeroes: bool,
}

impl File for Memory {
    fn read(&self, _: u64, to: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        if self.holds_zeroes { to.put_zeroes() } else { Ok(0) }
    }

    fn write(&self, _: u64, from: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        Ok(from.skip_all())
    }

    fn stat(&self) -> linux::stat {
        self.node.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some(0)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.node)
    }
}

/// Who waits for input.
static READERS: WaitQueue = WaitQueue::new();

/// Input that was typed and not read yet.
static LINE: SpinLock<Line> = SpinLock::new(Line { bytes: [0; Line::LIMIT], length: 0, complete: false });

/// A line that is being typed: nothing of it can be read before it is complete.
struct Line {
    bytes: [u8; Line::LIMIT],
    length: usize,
    complete: bool,
}

impl Line {
    const LIMIT: usize = 256;
    const END_OF_FILE: u8 = 4;

    /// Takes what has come in from the port, up to the end of a line.
    fn gather(&mut self) {
        while !self.complete
            && let Some(byte) = uart::read_byte()
        {
            match byte {
                Line::END_OF_FILE => self.complete = true,
                8 | 127 if self.length > 0 => {
                    self.length -= 1;
                    print!("\u{8} \u{8}");
                }
                8 | 127 => {}
                b'\r' | b'\n' => {
                    self.push(b'\n');
                    self.complete = true;
                }
                _ if self.length < Line::LIMIT - 1 => self.push(byte),
                _ => {}
            }
        }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
        console::write(if byte == b'\n' { b"\r\n" } else { core::slice::from_ref(&byte) });
    }

    fn read(&mut self, to: &mut UserBuffer<'_>) -> Result<usize, Errno> {
        let count = to.put(&self.bytes[..self.length])?;
        self.bytes.copy_within(count..self.length, 0);
        self.length -= count;
        self.complete = self.length > 0;
        Ok(count)
    }
}

fn has_input() -> bool {
    let mut line = LINE.lock();
    line.gather();
    line.complete
}

/// Called with interrupts masked when bytes have come in.
fn input_arrived() {
    READERS.wake_all();
    poll::changed();
}

/// Lets the console's input wake who waits for it.
pub fn init() {
    uart::on_input(input_arrived);
}

/// The console: a terminal that gathers lines and echoes them.
struct Console(Arc<Node>);

impl File for Console {
    fn read(&self, _: u64, to: &mut UserBuffer<'_>, waiting: Waiting) -> Result<usize, Errno> {
        loop {
            let mut line = LINE.lock();
            line.gather();
            if line.complete {
                return line.read(to);
            }
            drop(line);
            if waiting == Waiting::Refused {
                return Err(Errno::EAGAIN);
            }
            READERS.wait(Patience::INTERRUPTIBLE, || has_input().then_some(()))?;
        }
    }

    fn write(&self, _: u64, from: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        const CHUNK: usize = 256;
        let mut total = 0;
        while from.remaining() > 0 && !(total > 0 && sched::is_interrupted()) {
            let mut chunk = [0; CHUNK];
            match from.take(&mut chunk) {
                Ok(count) => {
                    print_text(&chunk[..count]);
                    total += count;
                }
                Err(error) if total == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn ready(&self) -> Ready {
        let mut ready = Ready::WRITE;
        ready.set(Ready::READ, has_input());
        ready
    }

    fn stat(&self) -> linux::stat {
        self.0.stat()
    }

    fn control(&self, request: u32, argument: u64) -> Result<usize, Errno> {
        match request {
            ioctl::TCGETS => user_memory::write(argument, &TERMINAL_SETTINGS)?,
            // The settings stay what they are; programs set them to what they read, or to "raw".
            ioctl::TCSETS | ioctl::TCSETSW | ioctl::TCSETSF => {
                user_memory::read::<[u8; SETTINGS_SIZE]>(argument)?;
            }
            ioctl::TIOCGWINSZ => {
                let unknown = linux::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
                user_memory::write(argument, &unknown)?;
            }
            ioctl::TIOCGPGRP => user_memory::write(argument, &1u32)?,
            ioctl::TIOCSPGRP | ioctl::TIOCSCTTY => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.0)
    }
}

/// Prints what a program wrote. A terminal starts each line at the left edge.
fn print_text(text: &[u8]) {
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line {
            [start @ .., b'\n'] => {
                console::write(start);
                console::write(b"\r\n");
            }
            _ => console::write(line),
        }
    }
}

/// `struct termios` has no padding but at its end: four words and twenty bytes.
const SETTINGS_SIZE: usize = 36;

/// A terminal that gathers lines and echoes: `ICRNL`, `OPOST | ONLCR`, `B115200 | CS8 | CREAD`,
/// `ISIG | ICANON | ECHO | ECHOE | ECHOK`.
const TERMINAL_SETTINGS: [u32; SETTINGS_SIZE / 4] = {
    let input = linux::ICRNL;
    let output = linux::OPOST | linux::ONLCR;
    let control = linux::B115200 | linux::CS8 | linux::CREAD;
    let local = linux::ISIG | linux::ICANON | linux::ECHO | linux::ECHOE | linux::ECHOK;
    [input, output, control, local, 0, 0, 0, 0, 0]
};
