//! Random numbers from a seed: the same seed gives the same run.

/// xorshift64*, by Sebastiano Vigna ("An experimental exploration of Marsaglia's xorshift generators", 2016).
pub struct Random(u64);

impl Random {
    /// The generator of that part of a run.
    pub fn new(seed: u64, part: u64) -> Self {
        // Any odd multiplier spreads neighbours far apart; zero is the one state that must not be.
        let state = (seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mut random = Self(state | 1);
        random.number();
        random
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The high half: the low bits of the state are weak.
        (self.number() >> 32) % limit
    }

    /// True once in so many times.
    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
