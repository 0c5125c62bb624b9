//! Breaks sound input: numbers, words and stretches of bytes, as the format suggests.

use fastrand::Rng;

use crate::Format;

/// How a format writes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Two bytes, the low one first.
    Little16,
    /// Four.
    Little32,
    /// Eight.
    Little64,
    /// Four bytes, the high one first.
    Big32,
    /// Eight.
    Big64,
    /// Eight digits.
    Hexadecimal,
    /// Digits.
    Decimal,
}

impl Encoding {
    fn bytes(self, number: u64) -> Vec<u8> {
        match self {
            Self::Little16 => (number as u16).to_le_bytes().into(),
            Self::Little32 => (number as u32).to_le_bytes().into(),
            Self::Little64 => number.to_le_bytes().into(),
            Self::Big32 => (number as u32).to_be_bytes().into(),
            Self::Big64 => number.to_be_bytes().into(),
            Self::Hexadecimal => format!("{:08x}", number as u32).into(),
            Self::Decimal => number.to_string().into(),
        }
    }

    /// Where such a number may stand: where the format keeps it, mostly.
    fn place(self, bytes: &[u8], random: &mut Rng) -> usize {
        let anywhere = random.usize(..=bytes.len());
        match self {
            Self::Little16 => anywhere & !1,
            Self::Hexadecimal => {
                let headers: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"07070")).collect();
                let header = random.choice(headers).unwrap_or(0);
                (header + 6 + 8 * random.usize(..13)).min(bytes.len())
            }
            Self::Decimal => anywhere,
            _ => anywhere & !3,
        }
    }
}

/// The most that one input is damaged.
const MOST: u32 = 6;
/// The longest input that is made.
const LONGEST: usize = 1 << 16;

/// A damaged sample.
pub fn damaged(format: &Format, random: &mut Rng) -> Vec<u8> {
    let samples = (format.samples)();
    if random.u32(..50) == 0 {
        let length = random.usize(..2 * samples[0].len());
        return (0..length).map(|_| random.u8(..)).collect();
    }
    let other = random.choice(&samples).cloned().unwrap_or_default();
    let mut bytes = random.choice(samples).unwrap_or_default();
    for _ in 0..random.u32(1..=MOST) {
        damage(&mut bytes, &other, format, random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn damage(bytes: &mut Vec<u8>, other: &[u8], format: &Format, random: &mut Rng) {
    let (from, to) = stretch(bytes.len(), random);
    match random.u32(..12) {
        0..=4 => {
            let encoding = random.choice(format.numbers.iter().copied()).unwrap_or(Encoding::Little32);
            let number = number(bytes.len() as u64, random);
            overwrite(bytes, encoding.place(bytes, random), &encoding.bytes(number));
        }
        5 => {
            let word = random.choice(format.words).copied().unwrap_or_default();
            if random.bool() {
                overwrite(bytes, from, word.as_bytes());
            } else {
                bytes.splice(from..from, word.bytes());
            }
        }
        6 => bytes[from..to].iter_mut().take(8).for_each(|byte| *byte = random.u8(..)),
        7 => bytes[from..to].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.u32(..8)),
        8 => drop(bytes.drain(from..to)),
        9 => {
            let copy = bytes[from..to].to_vec();
            let at = random.usize(..=bytes.len());
            bytes.splice(at..at, copy);
        }
        10 => {
            let (from, to) = stretch(other.len(), random);
            let at = random.usize(..=bytes.len());
            overwrite(bytes, at, &other[from..to]);
        }
        _ => bytes.truncate(to),
    }
}

/// A stretch of bytes, mostly short, mostly of whole words.
fn stretch(length: usize, random: &mut Rng) -> (usize, usize) {
    let mask = if random.bool() { !3 } else { !0 };
    let from = random.usize(..=length) & mask;
    let most = if random.bool() { 16 } else { length };
    let to = from + random.usize(..=most.min(length - from));
    (from, to)
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}

/// A number that lengths, offsets and counts like least, or one near the length of the input.
fn number(length: u64, random: &mut Rng) -> u64 {
    match random.u32(..6) {
        0 => random.u64(..20),
        1 => 1 << random.u32(..64),
        2 => (1u64 << random.u32(..64)).wrapping_sub(1 + random.u64(..9)),
        3 => (length + 8).saturating_sub(random.u64(..16)),
        4 => u64::MAX - random.u64(..5000),
        _ => random.u64(..) >> random.u32(..64),
    }
}
