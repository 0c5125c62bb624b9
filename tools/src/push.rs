//! Pushes an image to the chain loader; `tests/chainload/src/main.rs` states the protocol.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::crc::crc32;
use crate::serial::{Wire, listen};

const READY: &[u8] = b"LZRDY\n";
const MAGIC: &[u8] = b"LZLD";
const BLOCK: usize = 1024;
/// The index of the block that ends an image.
const END: u32 = u32::MAX;
const GOOD: u8 = b'K';
const AGAIN: &[u8] = b"NN";
/// How long the loader may take to announce itself: as long as a kernel that hangs may take to find that out itself.
const TO_READY: Duration = Duration::from_secs(330);
/// After how long the user is told that there may be something to do.
const TO_WONDER: Duration = Duration::from_secs(20);
const TO_ANSWER: Duration = Duration::from_secs(3);
/// The same for the end, at which the loader looks at the whole image, with its caches off.
const TO_CHECK: Duration = Duration::from_secs(30);
/// How often the same is sent before the line is given up.
const ATTEMPTS: u32 = 20;

/// What the loader answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Again,
    /// It has begun anew.
    Ready,
    Nothing,
}

/// Pushes `image`; when this returns, it has been started. Returns how much had to be sent again.
pub(crate) fn push(wire: &mut dyn Wire, image: &[u8]) -> Result<u32> {
    let mut repeated = 0;
    for _ in 0..ATTEMPTS {
        wait_for_loader(wire)?;
        send_header(wire, image)?;
        if send_blocks(wire, image, &mut repeated)? {
            return Ok(repeated);
        }
    }
    bail!("the chain loader has begun anew {ATTEMPTS} times: the line loses too much")
}

fn wait_for_loader(wire: &mut dyn Wire) -> Result<()> {
    let mut seen = Vec::new();
    let start = Instant::now();
    let mut wondered = false;
    let ready = listen(wire, TO_READY, |bytes| {
        seen.extend_from_slice(bytes);
        if !wondered && start.elapsed() > TO_WONDER {
            wondered = true;
            eprintln!("no chain loader yet; unless the board restarts by itself, switch it off and on");
        }
        seen.windows(READY.len()).any(|window| window == READY).then_some(())
    })?;
    ready.with_context(|| {
        let tail = String::from_utf8_lossy(&seen[seen.len().saturating_sub(200)..]).into_owned();
        format!("no chain loader within {} s; `make chainload` makes its card; heard: {tail:?}", TO_READY.as_secs())
    })
}

/// Sends the header until it is taken.
fn send_header(wire: &mut dyn Wire, image: &[u8]) -> Result<()> {
    let fields: Vec<u8> = [image.len() as u32, crc32(image)].into_iter().flat_map(u32::to_le_bytes).collect();
    let header = [MAGIC, &fields, &crc32(&fields).to_le_bytes()].concat();
    for _ in 0..ATTEMPTS {
        wire.send(&header)?;
        match answer(wire, END, TO_ANSWER)? {
            // Silence: it has taken the header, and its answer was lost; else it would announce itself again.
            Answer::Good | Answer::Nothing => return Ok(()),
            Answer::Ready | Answer::Again => {}
        }
    }
    bail!("the chain loader does not take the header: is the image too large, or the line too bad?")
}

/// Sends all blocks that are not zero, and the end. False if the loader has begun anew.
fn send_blocks(wire: &mut dyn Wire, image: &[u8], repeated: &mut u32) -> Result<bool> {
    let blocks = image.len().div_ceil(BLOCK);
    let whole = image.chunks(BLOCK).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    let mut told = None;
    for (index, bytes) in whole.map(|(index, bytes)| (index as u32, bytes)).chain([(END, [].as_slice())]) {
        let percent = (index as usize).min(blocks) * 100 / blocks;
        if told.replace(percent) != Some(percent) {
            eprint!("\rpushing {percent} %");
        }
        if !send_block(wire, index, bytes, repeated)? {
            return Ok(false);
        }
    }
    eprintln!();
    Ok(true)
}

/// Sends one block until it is taken. False if the loader has begun anew.
fn send_block(wire: &mut dyn Wire, index: u32, bytes: &[u8], repeated: &mut u32) -> Result<bool> {
    let mut block = index.to_le_bytes().to_vec();
    block.extend_from_slice(bytes);
    block.resize(4 + BLOCK, 0);
    block.extend(crc32(&block).to_le_bytes());
    for attempt in 0..ATTEMPTS {
        *repeated += u32::from(attempt > 0);
        wire.send(&block)?;
        match answer(wire, index, if index == END { TO_CHECK } else { TO_ANSWER })? {
            Answer::Good => return Ok(true),
            // The answer to the end may be lost, and the kernel already running: its first words are no answer.
            Answer::Nothing | Answer::Again if index == END && attempt > 0 => return Ok(true),
            Answer::Ready => return Ok(false),
            Answer::Again | Answer::Nothing => {}
        }
    }
    bail!("block {index} did not arrive in {ATTEMPTS} attempts")
}

/// The answer to the block with this index.
fn answer(wire: &mut dyn Wire, index: u32, wait: Duration) -> Result<Answer> {
    let mut seen = Vec::new();
    let answer = listen(wire, wait, |bytes| {
        seen.extend_from_slice(bytes);
        understand(&seen, index, bytes.is_empty())
    })?;
    Ok(answer.unwrap_or(Answer::Nothing))
}

/// What the bytes that came so far mean, if that is clear by now: if nothing more comes for a moment, they are damaged,
/// unless they answer an earlier block.
fn understand(seen: &[u8], index: u32, is_quiet: bool) -> Option<Answer> {
    let has = |pair: &[u8]| seen.windows(2).any(|window| window == pair);
    let is_late = || seen.chunks(2).all(|pair| pair.len() == 2 && pair[0] == GOOD);
    match () {
        () if has(&[GOOD, index as u8]) => Some(Answer::Good),
        () if READY.windows(2).any(has) => Some(Answer::Ready),
        () if has(AGAIN) || is_quiet && !is_late() => Some(Answer::Again),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_is_not_taken_for_another() {
        assert_eq!(understand(b"", 7, true), None);
        assert_eq!(understand(b"K\x07", 7, false), Some(Answer::Good));
        assert_eq!(understand(b"K\x06", 7, true), None, "it answers the block before");
        assert_eq!(understand(b"K\x06K\x07", 7, false), Some(Answer::Good));
        assert_eq!(understand(b"K\x06NN", 7, false), Some(Answer::Again));
        assert_eq!(understand(b"K\xff", END, false), Some(Answer::Good));
    }

    #[test]
    fn damage_asks_for_the_same_again() {
        assert_eq!(understand(b"K", 7, false), None, "more may come");
        for damaged in [&b"K"[..], b"\x07", b"[\x07", b"N", b"K\x06\x07"] {
            assert_eq!(understand(damaged, 7, true), Some(Answer::Again), "{damaged:?}");
        }
        assert_eq!(understand(b"LZ", 7, false), Some(Answer::Ready));
        assert_eq!(understand(b"DY\n", 7, false), Some(Answer::Ready));
    }
}
