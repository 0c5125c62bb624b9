//! A ring of records: one CPU writes, any CPU reads, nobody waits.
//!
//! The writer overwrites the oldest record. A reader may meet it half way, so each slot carries the number of the record
//! in it: a reader takes a record only if it found the number it came for before and after.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;
use crate::heap;

/// How many records a ring keeps: a power of two.
pub const RECORDS: u64 = 8192;
/// Words of a record.
const WORDS: usize = 4;

/// What a slot's number says while its words change. Records are numbered from 1.
const CHANGING: u64 = 0;

/// The words of one record.
pub(super) type Words = [u64; WORDS];

/// A place for one record.
#[derive(Debug)]
struct Slot {
    number: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Slot {
    const fn empty() -> Self {
        Self { number: AtomicU64::new(CHANGING), words: [const { AtomicU64::new(0) }; WORDS] }
    }
}

/// The last records of one CPU.
#[derive(Debug)]
pub struct Ring {
    slots: Box<[Slot]>,
    /// How many records were written so far.
    written: AtomicU64,
}

impl Ring {
    /// An empty ring.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn new() -> Result<Self, Errno> {
        let mut slots = Vec::new();
        heap::reserve(&mut slots, RECORDS as usize)?;
        slots.resize_with(RECORDS as usize, Slot::empty);
        Ok(Self { slots: slots.into_boxed_slice(), written: AtomicU64::new(0) })
    }

    /// Writes a record over the oldest. The caller is the ring's CPU, interrupts masked: one writer at a time.
    #[inline]
    pub(super) fn push(&self, words: Words) {
        // Relaxed: only this CPU writes it.
        let number = self.written.load(Ordering::Relaxed) + 1;
        let slot = self.slot(number);
        // Relaxed: the Release of each word below comes after it.
        slot.number.store(CHANGING, Ordering::Relaxed);
        for (cell, word) in slot.words.iter().zip(words) {
            // Release: pairs with the Acquire of the word in `read`; who sees the new word sees that the slot changes.
            cell.store(word, Ordering::Release);
        }
        // Release: pairs with the first Acquire in `read`; who sees the number sees its words.
        slot.number.store(number, Ordering::Release);
        // Release: pairs with the Acquire in `written`.
        self.written.store(number, Ordering::Release);
    }

    /// How many records were written so far. The last [`RECORDS`] of them can be read, as long as they last.
    pub fn written(&self) -> u64 {
        // Acquire: pairs with the Release in `push`: the records up to here are in their slots, or newer ones.
        self.written.load(Ordering::Acquire)
    }

    /// The record with that number, from 1; `None` if it is overwritten.
    pub(super) fn read(&self, number: u64) -> Option<Words> {
        let slot = self.slot(number);
        // Acquire: pairs with the last Release of the slot in `push`: the words are this record's or newer.
        if slot.number.load(Ordering::Acquire) != number {
            return None;
        }
        // Acquire: pairs with the words' Release in `push`. If one is newer, the look below finds another number.
        let words = slot.words.each_ref().map(|word| word.load(Ordering::Acquire));
        // Relaxed: the Acquires above come before it.
        (slot.number.load(Ordering::Relaxed) == number).then_some(words)
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % RECORDS) as usize]
    }
}
