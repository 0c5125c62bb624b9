//! Which CPUs ask something of one CPU: a set that many add to and its owner empties, without locks.

use core::sync::atomic::{AtomicU64, Ordering};

use mm::{CpuId, MAX_CPUS};

const WORDS: usize = MAX_CPUS / 64;

/// The senders, one bit each, and one bit for each word that is not empty.
///
/// A sender sets its bit and then the word's; the owner takes the words' bits and then the words.
/// So a bit is never stranded: if the owner took the words' bits too early to see the sender's
/// second step, that step finds no bit set and tells the sender to interrupt the owner again.
#[derive(Debug)]
pub(super) struct Inbox {
    words_in_use: AtomicU64,
    senders: [AtomicU64; WORDS],
}

impl Inbox {
    pub(super) const fn new() -> Self {
        Self { words_in_use: AtomicU64::new(0), senders: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Adds a sender. Whether the inbox was empty, so that the owner must be interrupted.
    pub(super) fn post(&self, sender: CpuId) -> bool {
        let word = sender.index() / 64;
        // Release: pairs with the Acquire of `senders` in `take`; it publishes the sender's request.
        self.senders[word].fetch_or(1 << (sender.index() % 64), Ordering::Release);
        // Release: pairs with the Acquire of `words_in_use` in `take`; who sees the word's bit sees
        // the sender's.
        self.words_in_use.fetch_or(1 << word, Ordering::Release) == 0
    }

    /// How many senders there are; a glance.
    pub(super) fn count(&self) -> usize {
        // Relaxed: a number for people and tests.
        self.senders.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Whether this sender has not been heard yet; a glance.
    pub(super) fn holds(&self, sender: CpuId) -> bool {
        // Relaxed: a 1 that is out of date costs an SGI in vain.
        self.senders[sender.index() / 64].load(Ordering::Relaxed) & 1 << (sender.index() % 64) != 0
    }

    /// Takes all senders out and calls `each` for every one. Only the owner may call it.
    pub(super) fn take(&self, mut each: impl FnMut(CpuId)) {
        // A plain look first: a waiter polls here, and must not keep the line to itself.
        // Relaxed: a 0 that is out of date comes with an SGI.
        while self.words_in_use.load(Ordering::Relaxed) != 0 {
            // Acquire: pairs with the second Release in `post`.
            let words = self.words_in_use.swap(0, Ordering::Acquire);
            for word in bits(words) {
                // Acquire: pairs with the first Release in `post`.
                let senders = self.senders[word].swap(0, Ordering::Acquire);
                bits(senders).for_each(|bit| each(CpuId((word * 64 + bit) as u16)));
            }
        }
    }
}

/// The numbers of the bits that are set, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}
