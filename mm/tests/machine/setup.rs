//! What kind of machine it is, and which liberties it takes.

use crate::{Config, FlushMode, Hardware, Scheme};

/// What kind of machine, and how badly it behaves.
#[derive(Clone)]
pub struct Setup {
    /// How many CPUs.
    pub cpus: usize,
    /// How many frames of memory.
    pub frames: usize,
    /// What all that happens by chance comes from.
    pub seed: u64,
    /// The options of the mm layer.
    pub config: Config,
    /// What the CPUs can do.
    pub hardware: Hardware,
    /// How badly it behaves.
    pub lies: Lies,
    /// How long a step takes, in nanoseconds.
    pub step: u64,
}

/// A clock so slow that nothing the mm layer waits for comes while a scenario lasts.
const SLOW: u64 = 100;
/// A clock so fast that all of it does.
pub(super) const FAST: u64 = 100_000;

/// The liberties the machine takes. Each is a chance of one in so many; 0 is never.
#[derive(Clone, Copy)]
pub struct Lies {
    /// Another CPU goes on instead of this one.
    pub switch: u32,
    /// Some walker reads ahead, from some root or cached table it may use, for some page.
    pub walk: u32,
    /// Every walker reads ahead whatever it can.
    pub walk_all: u32,
    /// A TLBI reaches one of its CPUs before the DSB that waits for it.
    pub land: u32,
    /// A table store leaves its CPU's store buffer before a DSB makes it.
    pub drain: u32,
    /// A pending SGI is not taken yet.
    pub late_sgi: u32,
    /// An SGI gets lost: who sent it asks again.
    pub lost: u32,
    /// An SGI is taken twice.
    pub twice: u32,
    /// The timer preempts a task.
    pub preempt: u32,
    /// A preempted task goes on on some other CPU.
    pub balance: u32,
}

impl Lies {
    /// None at all.
    pub const NONE: Self = Self {
        switch: 0,
        walk: 0,
        walk_all: 0,
        land: 0,
        drain: 0,
        late_sgi: 0,
        lost: 0,
        twice: 0,
        preempt: 0,
        balance: 0,
    };
}

impl Default for Lies {
    fn default() -> Self {
        Self {
            switch: 2,
            walk: 2,
            walk_all: 16,
            land: 8,
            drain: 8,
            late_sgi: 2,
            lost: 0,
            twice: 16,
            preempt: 8,
            balance: 0,
        }
    }
}

impl Setup {
    /// A machine of so many CPUs under a scheme, with all its lies.
    pub fn new(cpus: usize, scheme: Scheme, seed: u64) -> Self {
        Self::with(cpus, Config { scheme, ..Config::default() }, seed)
    }

    /// The same with all its options.
    pub fn with(cpus: usize, config: Config, seed: u64) -> Self {
        let hardware = Hardware::plain(16);
        Self { cpus, frames: 96, seed, config, hardware, lies: Lies::default(), step: SLOW }
    }

    /// The same with a way to flush, if that means something with what is chosen already.
    pub fn flushing(mut self, [flush, piggyback, retire]: [usize; 3]) -> Self {
        let flush = [FlushMode::Broadcast, FlushMode::Ipi, FlushMode::Auto][flush];
        let config = Config { flush, piggyback: piggyback != 0, retire: retire != 0, ..self.config };
        if config.check().is_ok() {
            self.config = config;
        }
        self
    }

    /// The same with these words on the command line, and with a clock on which time passes.
    pub fn options(mut self, words: &'static str) -> Self {
        for (option, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            self.config.set(option, value).expect("a test names valid options");
        }
        self.step = FAST;
        self
    }

    /// The same, but no time passes.
    pub fn slow(mut self) -> Self {
        self.step = SLOW;
        self
    }

    /// The same with so many bits of ASID.
    pub fn asid_bits(mut self, bits: u32) -> Self {
        self.config.asid_bits = Some(bits);
        self
    }

    /// The same with `lazy_tlb.debug=1`.
    pub fn check(mut self) -> Self {
        self.config.check = true;
        self
    }
}
