//! Console lines that carry a number and a checksum: what was lost or damaged on the way is known, and never believed.
//!
//! A kernel with `frames=on` ends each line with ` ~`, four digits of its number and eight of the CRC-32 of text and
//! number (`src/console/frame.rs`). From the first such line on every other one is broken.

use crate::crc::crc32;

const MARK: &str = " ~";
const DIGITS: usize = 12;

/// Takes a console apart as it comes.
#[derive(Default)]
pub(crate) struct Frames {
    line: Vec<u8>,
    /// The number of the next line, once one was seen.
    next: Option<u16>,
    /// The text of all sound lines.
    pub(crate) text: String,
    pub(crate) broken: usize,
    pub(crate) lost: usize,
    /// The chain loader is back: the run is over, whether it said so or not.
    over: bool,
}

/// The exit status of a run whose own was lost.
const UNKNOWN: i32 = 125;

impl Frames {
    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // Put in by one console or another.
                b'\r' => {}
                _ => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        match (sound(&line), self.next) {
            (Some((text, number)), next) => {
                self.lost += usize::from(number.wrapping_sub(next.unwrap_or(0)));
                self.next = Some(number.wrapping_add(1));
                self.text += &text;
                self.text.push('\n');
            }
            (None, Some(_)) if line == b"LZRDY" => self.over = true,
            (None, Some(_)) => self.broken += 1,
            // Before the first: the loader, or a kernel that has not read its command line yet.
            (None, None) => {}
        }
    }

    /// The exit status, once the run has ended.
    pub(crate) fn exit_status(&self) -> Option<i32> {
        let said = self.text.lines().rev().find_map(|line| line.strip_prefix("exit status ")?.parse().ok());
        said.or(self.over.then_some(UNKNOWN))
    }

    /// What is wrong with the line, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        // A line that is broken is missing from the numbers, too.
        let lost = self.lost.saturating_sub(self.broken);
        (self.broken + lost > 0).then(|| format!("serial line: {} lines broken, {lost} lost", self.broken))
    }
}

/// Text and number of a line that arrived whole.
fn sound(line: &[u8]) -> Option<(String, u16)> {
    let line = str::from_utf8(line).ok()?;
    let (text, digits) = line.rsplit_once(MARK)?;
    let number = digits.get(..4)?;
    let sum = u32::from_str_radix(digits.get(4..DIGITS)?, 16).ok()?;
    let whole = digits.len() == DIGITS && crc32(format!("{text}{number}").as_bytes()) == sum;
    whole.then_some((text.to_owned(), u16::from_str_radix(number, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(number: u16, text: &str) -> String {
        let sum = crc32(format!("{text}{number:04x}").as_bytes());
        format!("{text}{MARK}{number:04x}{sum:08x}\r\n")
    }

    fn console() -> String {
        ["ok a", "ok b", "2 passed, 0 failed", "exit status 0"]
            .iter()
            .enumerate()
            .map(|(number, text)| framed(number as u16, text))
            .collect()
    }

    #[test]
    fn a_whole_console_has_no_fault() {
        let mut frames = Frames::default();
        frames.feed(b"LZRDY\nLazuli: entered\n");
        console().as_bytes().chunks(3).for_each(|bytes| frames.feed(bytes));
        assert_eq!(frames.text, "ok a\nok b\n2 passed, 0 failed\nexit status 0\n");
        assert_eq!((frames.exit_status(), frames.fault()), (Some(0), None));
    }

    #[test]
    fn each_changed_and_each_lost_byte_is_noticed() {
        let sound = console();
        for at in 0..sound.len() - 2 {
            let mut changed = sound.clone().into_bytes();
            if changed[at] == b'\r' {
                continue;
            }
            changed[at] ^= 0x04;
            let mut dropped = sound.clone().into_bytes();
            dropped.remove(at);
            for bytes in [changed, dropped] {
                let mut frames = Frames::default();
                frames.feed(&bytes);
                // The first line has nothing before it that would make it count as broken; but then it is missing.
                let whole = frames.text.lines().count() == 4;
                assert!(frames.fault().is_some() || !whole, "byte {at} of {:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn numbers_tell_of_whole_lines_that_are_lost() {
        let mut frames = Frames { next: Some(0xfffe), ..Frames::default() };
        frames.feed(framed(1, "x").as_bytes());
        assert_eq!(frames.fault().unwrap(), "serial line: 0 lines broken, 3 lost");
    }
}
