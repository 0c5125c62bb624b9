//! A test of the tests over a serial line: QEMU's Raspberry Pi 4 behind a pseudo-terminal, and lines that lose bytes,
//! change them, or fall silent.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::card;
use crate::hw::{self, Heard};
use crate::job::Job;
use crate::qemu;
use crate::report::Tally;
use crate::serial::{Serial, Wire, listen};

/// What is pushed, and what a card starts.
pub(crate) struct Parts<'a> {
    /// The raw chain loader.
    pub(crate) chainload: &'a Path,
    /// A test program in an archive of its own.
    pub(crate) program: &'a Job,
    /// A kernel that hangs, and is ended by its watchdog.
    pub(crate) hanging: &'a Job,
    /// Where the card goes.
    pub(crate) folder: &'a Path,
}

/// How long a board is listened to whose last line may be lost, or that says nothing any more.
const PATIENCE: Duration = Duration::from_secs(60);
const SILENCE: Duration = Duration::from_secs(1);
/// The last test that is heard of.
const LAST: &str = "munmap-is-seen";

/// Runs all of it. Only one thing is pushed: QEMU takes as long for a byte as the line does.
pub(crate) fn run(parts: &Parts<'_>) -> Result<Tally> {
    let mut total = Tally::default();
    let mut verdict = |name: &str, outcome: Result<()>| match outcome {
        Ok(()) => {
            println!("ok   serial-line-{name}");
            total.passed += 1;
        }
        Err(why) => {
            println!("FAIL serial-line-{name}: {why:#}");
            total.failures.push(format!("serial-line-{name}: {why:#}"));
        }
    };
    let tree = qemu::RPI4_TREE;
    let mut board = Board::start(parts.chainload, tree.as_ref(), &[])?;
    verdict("bad-there", is_sent_again(&mut board.line(50_021, 0), parts.program));
    let words = hw::words(&parts.hanging.machine, limit(parts.hanging));
    let mut board = Board::start(&parts.hanging.machine.kernel, tree.as_ref(), &["-append".to_owned(), words])?;
    verdict("hang", ends_itself(&mut board, parts.hanging));
    let card = Card::of(parts.program, parts.folder)?;
    verdict("card", card.start().and_then(|mut board| all_passed(&board.hear(parts.program)?, parts.program)));
    verdict("bad-back", card.start().and_then(|mut board| is_noticed(&mut board.line(0, 97), parts.program)));
    verdict("silence", card.start().and_then(|mut board| names_the_last_test(&mut board.port, parts.program)));
    Ok(total)
}

fn limit(job: &Job) -> Duration {
    Duration::from_secs(job.timeout_s)
}

/// What was damaged is sent again, and all tests pass.
fn is_sent_again(wire: &mut Noisy<'_>, job: &Job) -> Result<()> {
    let heard = hw::run_one(wire, job)?;
    ensure!(heard.repeated > 0, "nothing was sent again");
    all_passed(&heard, job)
}

fn all_passed(heard: &Heard, job: &Job) -> Result<()> {
    let tally = heard.judge(&job.expect);
    ensure!(tally.failures.is_empty() && tally.passed > 1, "{tally:?}");
    Ok(())
}

/// What was damaged on the way back is told, and the run has failed. The end may be among it: then nothing is waited for.
fn is_noticed(wire: &mut Noisy<'_>, job: &Job) -> Result<()> {
    let tally = hw::hear(wire, PATIENCE, None, &mut |_| {})?.judge(&job.expect);
    ensure!(tally.failures.iter().any(|failure| failure.starts_with("serial line: ")), "not noticed: {tally:?}");
    Ok(())
}

/// A kernel that hangs says what each CPU did, long before this host gives it up.
fn ends_itself(board: &mut Board, job: &Job) -> Result<()> {
    let tally = hw::hear(&mut board.port, 30 * limit(job), None, &mut |_| {})?.judge(&job.expect);
    ensure!(tally.failures.is_empty(), "{tally:?}");
    Ok(())
}

/// Of a board that is not heard any more, the last test is known.
fn names_the_last_test(port: &mut Serial, job: &Job) -> Result<()> {
    let (text, mut heard) = (format!("ok {LAST}"), Vec::new());
    let came = listen(port, PATIENCE, |bytes| {
        heard.extend_from_slice(bytes);
        let at = heard.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some(at + heard[at..].iter().position(|byte| *byte == b'\n')? + 1)
    })?;
    heard.truncate(came.with_context(|| format!("`{text}` did not come"))?);
    let tally = hw::hear(&mut Dead(heard), SILENCE, None, &mut |_| {})?.judge(&job.expect);
    let last = format!("last test seen: {LAST}");
    ensure!(tally.failures.len() == 1 && tally.failures[0].ends_with(&last), "{tally:?}");
    Ok(())
}

/// The files of a card that starts a test.
struct Card {
    folder: PathBuf,
    line: String,
}

impl Card {
    /// Makes a card, and takes its files out again.
    fn of(job: &Job, folder: &Path) -> Result<Self> {
        let image = folder.join("card.img");
        let folder = folder.join("card");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join(name), bytes).with_context(|| format!("cannot write {name}"))
        };
        // QEMU runs no such files; a card has them.
        card::FIRMWARE.iter().try_for_each(|name| write(name, name.as_bytes()))?;
        card::write_image(&card::suite_files(job, &folder)?, &image)?;
        let files = card::read_image(&image)?;
        let same = std::fs::read(&job.machine.kernel).is_ok_and(|kernel| files.get("kernel8.img") == Some(&kernel));
        ensure!(same, "the card's kernel is not, byte for byte, the one that boots on virt");
        files.iter().try_for_each(|(name, bytes)| write(name, bytes))?;
        let line = files.get("cmdline.txt").context("the card has no cmdline.txt")?;
        Ok(Self { line: String::from_utf8_lossy(line).trim().to_owned(), folder })
    }

    /// Has QEMU boot the files as the firmware would.
    fn start(&self) -> Result<Board> {
        let at = |name: &str| self.folder.join(name);
        let initrd = at("initrd.img").display().to_string();
        let options = ["-initrd".to_owned(), initrd, "-append".to_owned(), self.line.clone()];
        Board::start(&at("kernel8.img"), &at("rpi4.dtb"), &options)
    }
}

/// A QEMU whose first serial port is a pseudo-terminal.
struct Board {
    qemu: Child,
    port: Serial,
}

impl Board {
    fn start(kernel: &Path, tree: &Path, options: &[String]) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-aarch64")
            // One host thread: the parked CPUs, which spin, would keep it from the one that serves the serial port.
            .args(["-M", "raspi4b", "-accel", "tcg,thread=single", "-display", "none", "-nic", "none"])
            // It does not start before somebody hears it.
            .args(["-S", "-monitor", "stdio", "-serial", "pty", "-kernel"])
            .arg(kernel)
            .arg("-dtb")
            .arg(tree)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start QEMU; run `make setup`")?;
        let port = Self::connect(&mut qemu);
        match port {
            Ok(port) => Ok(Self { qemu, port }),
            Err(error) => {
                qemu.kill().context("cannot end QEMU")?;
                Err(error)
            }
        }
    }

    fn connect(qemu: &mut Child) -> Result<Serial> {
        let stdout = qemu.stdout.take().context("QEMU says nothing")?;
        let port = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("redirected to ")?.1.split(' ').next()?.to_owned()));
        let port = Serial::open(Path::new(&port.context("QEMU names no pseudo-terminal")?))?;
        qemu.stdin.as_mut().context("QEMU hears nothing")?.write_all(b"cont\n").context("cannot start the board")?;
        Ok(port)
    }

    /// Hears a test to its end.
    fn hear(&mut self, job: &Job) -> Result<Heard> {
        hw::hear(&mut self.port, limit(job), None, &mut |_| {})
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

/// A line over which these bytes come, and then nothing any more.
struct Dead(Vec<u8>);

impl Wire for Dead {
    fn send(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn receive(&mut self, wait: Duration) -> Result<Vec<u8>> {
        if self.0.is_empty() {
            std::thread::sleep(wait);
        }
        Ok(std::mem::take(&mut self.0))
    }
}
