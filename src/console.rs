//! The console: one line of bytes to the outside, shared by all CPUs.

use core::fmt::{self, Write};

use crate::drivers::uart::Port;
use crate::sync::IrqLock;

static CONSOLE: IrqLock<Console> = IrqLock::new(Console(None));

struct Console(Option<Port>);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(port) = self.0 {
            for byte in text.bytes() {
                if byte == b'\n' {
                    port.write_byte(b'\r');
                }
                port.write_byte(byte);
            }
        }
        Ok(())
    }
}

/// Sends what is printed to `port`. What was printed before is lost.
pub fn attach(port: Port) {
    CONSOLE.lock().0 = Some(port);
}

/// Sends bytes as they are: the output of user programs.
pub fn write(bytes: &[u8]) {
    if let Some(port) = CONSOLE.lock().0 {
        bytes.iter().for_each(|&byte| port.write_byte(byte));
    }
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
        if let Some(port) = console.0 {
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
