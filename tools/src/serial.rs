//! A serial line: bytes out, and bytes in as far as they come in time.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The speed of every console here.
const BAUD: u32 = 115_200;

/// Something that bytes go over, not all of which arrive.
pub(crate) trait Wire {
    /// Sends all of them.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// The next ones, if any come in time; none if not.
    fn receive(&mut self, wait: Duration) -> Result<Vec<u8>>;
}

/// A serial port of this host.
pub(crate) struct Serial(File);

impl Serial {
    /// Opens a port and sets it to 115200 baud, 8 bits, no parity, 1 stop bit, nothing translated.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot use {} as a serial port", path.display());
        let flags = OFlags::NOCTTY.bits() as i32;
        let file = File::options().read(true).write(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| anyhow!("{error}{}", advice(error.kind()))).with_context(context)?;
        let mut settings = tcgetattr(&file).with_context(context)?;
        settings.make_raw();
        settings.set_speed(BAUD).with_context(context)?;
        tcsetattr(&file, OptionalActions::Now, &settings).with_context(context)?;
        Ok(Self(file))
    }
}

/// What helps against a port that does not open.
fn advice(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::NotFound => "; those that are plugged in: ls /dev/ttyUSB* /dev/ttyACM*",
        ErrorKind::PermissionDenied => "; sudo usermod -aG dialout $USER, then log in again",
        _ => "",
    }
}

impl Wire for Serial {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context("the serial port takes nothing")
    }

    fn receive(&mut self, wait: Duration) -> Result<Vec<u8>> {
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut waiting = [PollFd::new(&self.0, PollFlags::IN)];
        // A signal ends the wait early, as if nothing had come.
        if poll(&mut waiting, Some(&timeout)).unwrap_or(0) == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; 4096];
        let count = self.0.read(&mut bytes).context("the serial port is gone")?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// Calls `each` with what comes, until it returns something or the time is up.
pub(crate) fn listen<R>(
    wire: &mut dyn Wire,
    limit: Duration,
    mut each: impl FnMut(&[u8]) -> Option<R>,
) -> Result<Option<R>> {
    let start = Instant::now();
    while let Some(left) = limit.checked_sub(start.elapsed()) {
        let bytes = wire.receive(left.min(Duration::from_millis(100)))?;
        if let Some(result) = each(&bytes) {
            return Ok(Some(result));
        }
        if crate::guest::stopped() {
            break;
        }
    }
    Ok(None)
}
