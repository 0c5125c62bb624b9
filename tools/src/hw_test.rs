//! A test of the tests over a serial line: QEMU's Raspberry Pi 4 behind a pseudo-terminal, and a line that loses bytes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::hw;
use crate::job::Job;
use crate::qemu;
use crate::report::Tally;
use crate::serial::{Serial, Wire};

/// Pushes `job` twice, over a line that damages what is sent, and one that damages what comes back.
pub(crate) fn run(chainload: &Path, job: &Job) -> Result<Tally> {
    let mut board = Board::start(chainload)?;
    let mut total = Tally::default();
    let mut verdict = |name: &str, why: Option<String>| match why {
        None => {
            println!("ok   serial-line-{name}");
            total.passed += 1;
        }
        Some(why) => {
            println!("FAIL serial-line-{name}: {why}");
            total.failures.push(format!("serial-line-{name}: {why}"));
        }
    };
    let (tally, _, repeated) = hw::run_one(&mut board.line(50_021, 0), job)?;
    let why = if repeated == 0 { "nothing was sent again".to_owned() } else { tally.failures.join("; ") };
    verdict("bad-there", (repeated == 0 || !tally.failures.is_empty()).then_some(why));
    let (tally, _, _) = hw::run_one(&mut board.line(0, 97), job)?;
    let noticed = tally.failures.iter().any(|failure| failure.starts_with("serial line: "));
    verdict("bad-back", (!noticed).then(|| format!("damage was not noticed: {tally:?}")));
    Ok(total)
}

/// A QEMU whose first serial port is a pseudo-terminal.
struct Board {
    qemu: Child,
    port: Serial,
}

impl Board {
    fn start(chainload: &Path) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-aarch64")
            // One host thread: the parked CPUs, which spin, would keep it from the one that serves the serial port.
            .args([
                "-M",
                "raspi4b",
                "-accel",
                "tcg,thread=single",
                "-display",
                "none",
                "-monitor",
                "none",
                "-nic",
                "none",
                "-serial",
                "pty",
            ])
            .arg("-kernel")
            .arg(chainload)
            .args(["-dtb", qemu::RPI4_TREE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start QEMU; run `make setup`")?;
        let stdout = qemu.stdout.take().context("QEMU says nothing")?;
        let port = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("redirected to ")?.1.split(' ').next()?.to_owned()));
        let port = port.context("QEMU names no pseudo-terminal").and_then(|port| Serial::open(Path::new(&port)));
        match port {
            Ok(port) => Ok(Self { qemu, port }),
            Err(error) => {
                qemu.kill().context("cannot end QEMU")?;
                Err(error)
            }
        }
    }

    /// The line to it, which damages every so many bytes on the way there and back; 0: none.
    fn line(&mut self, there: usize, back: usize) -> Noisy<'_> {
        Noisy { port: &mut self.port, there: Damage { every: there, count: 0 }, back: Damage { every: back, count: 0 } }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill().and_then(|()| self.qemu.wait());
    }
}

/// Drops and changes bytes, in turn.
struct Damage {
    every: usize,
    count: usize,
}

impl Damage {
    fn done_to(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.count += 1;
            let hit = self.every != 0 && self.count.is_multiple_of(self.every);
            match (hit, self.count / self.every.max(1) % 2) {
                (false, _) => out.push(byte),
                (true, 0) => {}
                (true, _) => out.push(byte ^ 0x10),
            }
        }
        out
    }
}

struct Noisy<'p> {
    port: &'p mut Serial,
    there: Damage,
    back: Damage,
}

impl Wire for Noisy<'_> {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.port.send(&self.there.done_to(bytes))
    }

    fn receive(&mut self, wait: Duration) -> Result<Vec<u8>> {
        let bytes = self.port.receive(wait)?;
        Ok(self.back.done_to(&bytes))
    }
}
