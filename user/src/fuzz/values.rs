//! Random numbers, and the nasty values that are made of them.

use std::io;

use crate::sys::memory::{Mapping, PAGE};

/// xorshift64*, by Sebastiano Vigna ("An experimental exploration of Marsaglia's xorshift generators", 2016).
pub(super) struct Random(u64);

impl Random {
    /// The generator of that batch.
    pub(super) fn new(seed: u64, batch: u64) -> Self {
        // Any odd multiplier spreads neighbours far apart; zero is the one state that must not be.
        let state = (seed ^ batch.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mut random = Self(state | 1);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // The high half: the low bits of the state are weak.
        (self.next() >> 32) % limit
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Paths to try. None of them blocks when read, and none shows on the console.
const PATHS: [&[u8]; 12] = [
    b"/dev/null\0",
    b"/dev/zero\0",
    b"/proc/self/maps\0",
    b"/proc/cpuinfo\0",
    b"/proc/lazy_tlb\0",
    b"/proc/self/exe\0",
    b"/\0",
    b"/bin\0",
    b"/bin/../bin/./\0",
    b"no-such-file\0",
    b"/dev/null/x\0",
    b"\0",
];

/// A source of arguments, with memory and descriptors that calls can do harm to.
pub(super) struct Values {
    pub(super) random: Random,
    scratch: Mapping,
    own_pid: u64,
}

/// Pages of scratch memory. The last may not be touched.
const SCRATCH_PAGES: usize = 5;

impl Values {
    /// Sets the child up: quiet standard descriptors, a pipe that never blocks, scratch memory.
    pub(super) fn prepare(random: Random) -> io::Result<Self> {
        let scratch = Mapping::private(SCRATCH_PAGES * PAGE)?;
        // SAFETY: descriptors and memory of this child, which nobody else uses.
        unsafe {
            libc::mprotect(scratch.start().add((SCRATCH_PAGES - 1) * PAGE).cast(), PAGE, libc::PROT_NONE);
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            (0..3).for_each(|standard| {
                libc::dup3(null, standard, 0);
            });
            libc::pipe2([0i32; 2].as_mut_ptr(), libc::O_NONBLOCK);
            libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR);
            libc::open(c"/".as_ptr(), libc::O_RDONLY);
        }
        Ok(Self { random, scratch, own_pid: std::process::id().into() })
    }

    /// An address: good, at a page's end, unaligned, unmapped, the kernel's, or worse.
    pub(super) fn pointer(&mut self) -> u64 {
        let scratch = self.scratch.start() as u64;
        let page = scratch + self.random.below(SCRATCH_PAGES as u64) * PAGE as u64;
        match self.random.below(10) {
            0..=3 => page + self.random.below(64) * 8,
            4 => page + self.random.below(PAGE as u64),
            5 => page + PAGE as u64 - self.random.below(40),
            6 => self.random.pick(&[0, 1, 8, 0xfff, 0x1000, 0xdead_b000, (1 << 48) - 8, 1 << 48, (1 << 48) - 4096]),
            7 => 0xffff_0000_0000_0000 | self.random.next(),
            8 => self.random.pick(&[
                0xffff_8000_0000_0000,
                0xffff_ffff_ffff_f000,
                !0,
                !7,
                1 << 63,
                0xff00_0000_0000_1000,
            ]),
            _ => self.random.next(),
        }
    }

    /// An address that no call can use.
    pub(super) fn bad_pointer(&mut self) -> u64 {
        self.random.pick(&[1, 8, 0xfff, 1 << 48, 0xffff_8000_0000_0000, !0, 1 << 63])
    }

    /// A length or a count.
    pub(super) fn length(&mut self) -> u64 {
        match self.random.below(8) {
            0..=2 => self.random.below(100),
            3 => self.random.below(5 * PAGE as u64),
            4 => PAGE as u64 * self.random.below(9),
            5 => self.random.pick(&[0, 1, 8, 1024, 1025, 0x7fff_ffff, 0x7fff_f000, 0x8000_0000, 0xffff_ffff]),
            6 => self.random.pick(&[!0, !0 - 4095, 1 << 63, 1 << 47, 1 << 48, i64::MAX as u64]),
            _ => self.random.next() >> self.random.below(64),
        }
    }

    pub(super) fn descriptor(&mut self) -> u64 {
        match self.random.below(8) {
            0..=5 => self.random.below(12),
            6 => self.random.pick(&[63, 255, 256, 1023, 1024, 0x7fff_ffff, libc::AT_FDCWD as u64]),
            _ => self.random.pick(&[!0, 0xffff_ffff, 1 << 31, 1 << 32]),
        }
    }

    /// Flags and small numbers: few bits, many bits, or a count.
    pub(super) fn flags(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(16),
            1 => (1 << self.random.below(32)) | (1 << self.random.below(32)),
            2 => 0,
            _ => self.random.next() >> self.random.below(64),
        }
    }

    pub(super) fn path(&mut self) -> u64 {
        if self.random.one_in(4) { self.pointer() } else { self.random.pick(&PATHS).as_ptr() as u64 }
    }

    /// This process or none: others are not ours to harm.
    pub(super) fn process(&mut self) -> u64 {
        self.random.pick(&[self.own_pid, 0x3f_ffff, 0x7fff_ffff])
    }

    /// Any signal but those that stop: nobody would let the child go on.
    pub(super) fn signal(&mut self) -> u64 {
        let signal = self.random.pick(&[self.random_signal(), 0, 65, !0, 1 << 32]);
        if (libc::SIGSTOP as u64..=libc::SIGTTOU as u64).contains(&signal) { 0 } else { signal }
    }

    fn random_signal(&self) -> u64 {
        self.random.0 % 65
    }

    /// Anything at all.
    pub(super) fn any(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.pointer(),
            1 => self.length(),
            2 => self.descriptor(),
            _ => self.flags(),
        }
    }
}
