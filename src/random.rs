//! Random numbers for programs: seeds of hash tables and the like.
//!
//! Not cryptographic. The machine gives at most a seed in its device tree and the time; xoshiro256++
//! (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021) spreads that out.

use crate::arch::timer;
use crate::platform;
use crate::sync::SpinLock;

struct Generator([u64; 4]);

static GENERATOR: SpinLock<Option<Generator>> = SpinLock::new(None);

impl Generator {
    /// Seeds it with what differs from boot to boot: the loader's seed, if any, and the time.
    fn seeded() -> Self {
        let mut seed = timer::now_ticks();
        for chunk in platform::random_seed().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            seed = mix(seed ^ u64::from_le_bytes(word));
        }
        Self(core::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(seed)
        }))
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of the input.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Fills a buffer.
pub fn fill(bytes: &mut [u8]) {
    let mut generator = GENERATOR.lock();
    let generator = generator.get_or_insert_with(Generator::seeded);
    // When the question comes is part of the answer.
    generator.0[0] ^= timer::now_ticks();
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&generator.next().to_le_bytes()[..chunk.len()]);
    }
}

/// Random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}
