//! The console: one line of bytes to the outside, shared by all CPUs.

mod frame;

use core::fmt::{self, Write};

use self::frame::Frame;
use crate::drivers::uart::Port;
use crate::sync::IrqLock;

static CONSOLE: IrqLock<Console> = IrqLock::new(Console { port: None, frame: None });

struct Console {
    port: Option<Port>,
    /// With `frames=on`: the line under way.
    frame: Option<Frame>,
}

impl Console {
    fn send(&mut self, byte: u8) {
        let Some(port) = self.port else { return };
        if let Some(frame) = &mut self.frame {
            if byte == b'\n' {
                frame.end_line().into_iter().for_each(|byte| port.write_byte(byte));
            } else {
                frame.add(byte);
            }
        }
        port.write_byte(byte);
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

/// Sends what is printed to `port`. What was printed before is lost.
pub fn attach(port: Port) {
    CONSOLE.lock().port = Some(port);
}

/// Ends each line from now on with its number and checksum.
pub(crate) fn begin_frames() {
    CONSOLE.lock().frame = Some(Frame::new());
}

/// Sends bytes as they are: the output of user programs.
pub fn write(bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    bytes.iter().for_each(|&byte| console.send(byte));
}

/// Prints; what [`print!`](crate::print) expands to.
pub fn print(args: fmt::Arguments<'_>) {
    // `Console` never fails; a `Display` that does has said what it could.
    let _ = CONSOLE.lock().write_fmt(args);
}

/// Prints the last words of a run and waits until they are out, unless the console is taken: its owner will not go on.
pub(crate) fn end(args: fmt::Arguments<'_>) {
    if let Some(mut console) = CONSOLE.try_lock() {
        // `Console` never fails.
        let _ = console.write_fmt(args);
        if let Some(port) = console.port {
            port.flush();
        }
    }
}

/// Opens the console for a CPU that panics, also if the lock's owner will never release it.
///
/// # Safety
///
/// The other CPUs were told to stop and this one never leaves its panic.
pub(crate) unsafe fn steal() {
    if CONSOLE.try_lock().is_none() {
        // SAFETY: our caller promises that no owner goes on.
        unsafe { CONSOLE.force_unlock() };
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
