//! The steps of a life: memory mapped, changed, shared with children and read by threads, on whatever CPU.

use std::io;
use std::thread;

use crate::{
    probe,
    sys::{
        check, cpu,
        memory::{Mapping, PAGE},
        process::{self, Ended},
    },
};

/// Pages of the private area, and of the one that children share.
const PRIVATE: u64 = 24;
const SHARED: u64 = 8;
/// Children of children of children have no children.
const MOST_GENERATIONS: u32 = 2;
const RIGHTS: [i32; 3] = [libc::PROT_NONE, libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE];

/// Numbers from a seed (splitmix64: Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What was observed so far, as one number (FNV-1a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Nothing was observed.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, observed: u64) {
        for byte in observed.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What fits into an exit status.
    pub fn status(self) -> i32 {
        (self.0 % 100) as i32
    }
}

/// One process's life.
pub struct Life {
    rng: Rng,
    digest: Digest,
    private: Mapping,
    shared: Mapping,
    cpus: Vec<usize>,
    generation: u32,
    program: String,
}

impl Life {
    /// A life from a seed. `program` is the path of this program, for those children that execute it.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(seed: u64, program: &str) -> io::Result<Self> {
        probe::catch_faults();
        Ok(Self {
            rng: Rng(seed),
            digest: Digest::EMPTY,
            private: Mapping::private(PRIVATE as usize * PAGE)?,
            shared: Mapping::shared(SHARED as usize * PAGE)?,
            cpus: cpu::allowed()?,
            generation: 0,
            program: program.to_owned(),
        })
    }

    /// Lives for so many steps; gives what was observed.
    ///
    /// # Errors
    /// If a call fails that must not.
    pub fn live(&mut self, steps: u32) -> io::Result<Digest> {
        for _ in 0..steps {
            self.step()?;
        }
        Ok(self.digest)
    }

    fn step(&mut self) -> io::Result<()> {
        match self.rng.below(32) {
            0..=9 => self.store(),
            10..=17 => self.load(),
            18..=20 => self.protect()?,
            21..=22 => self.remap()?,
            23 => self.unmap()?,
            24 => self.forget()?,
            25..=26 => self.migrate()?,
            27 => self.read_by_threads(),
            28..=30 if self.generation < MOST_GENERATIONS => self.fork()?,
            31 if self.generation < MOST_GENERATIONS => self.execute()?,
            _ => self.load(),
        }
        Ok(())
    }

    /// The address of some byte of some page, mapped or not.
    fn somewhere(&mut self) -> u64 {
        let page = self.rng.below(PRIVATE + SHARED);
        let (area, page) = if page < PRIVATE { (&self.private, page) } else { (&self.shared, page - PRIVATE) };
        area.start().expose_provenance() as u64 + page * PAGE as u64 + self.rng.below(8) * 8
    }

    fn load(&mut self) {
        let address = self.somewhere();
        self.observe(probe::load_value(address).map(u64::from));
    }

    fn store(&mut self) {
        let (address, value) = (self.somewhere(), self.rng.next() as u8);
        self.observe(probe::store_value(address, value).map(|()| 0));
    }

    fn observe(&mut self, outcome: Result<u64, probe::Fault>) {
        match outcome {
            Ok(value) => self.digest.add(value),
            Err(fault) => self.digest.add(1 << 32 | (fault.signal as u64) << 16 | fault.code as u64 & 0xffff),
        }
    }

    /// A run of pages of the private area.
    fn run(&mut self) -> (*mut libc::c_void, usize) {
        let first = self.rng.below(PRIVATE);
        let pages = 1 + self.rng.below((PRIVATE - first).min(6));
        (self.private.start().wrapping_add(first as usize * PAGE).cast(), pages as usize * PAGE)
    }

    fn protect(&mut self) -> io::Result<()> {
        let ((start, length), rights) = (self.run(), RIGHTS[self.rng.below(3) as usize]);
        // SAFETY: the pages are of the private area, which is read and written by `probe` only.
        let result = check(unsafe { libc::mprotect(start, length, rights) }.into());
        // Of pages that are not mapped it tells.
        self.digest.add(u64::from(result.is_ok()));
        Ok(())
    }

    fn remap(&mut self) -> io::Result<()> {
        let (start, length) = self.run();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: as in `protect`; what is replaced is of the private area.
        let at = unsafe { libc::mmap(start, length, rights, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn unmap(&mut self) -> io::Result<()> {
        let (start, length) = self.run();
        // SAFETY: as in `protect`. Nobody else maps in the hole: lives have no other thread that maps.
        check(unsafe { libc::munmap(start, length) }.into()).map(drop)
    }

    fn forget(&mut self) -> io::Result<()> {
        let (start, length) = self.run();
        // SAFETY: as in `protect`.
        let result = check(unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) }.into());
        self.digest.add(u64::from(result.is_ok()));
        Ok(())
    }

    fn migrate(&mut self) -> io::Result<()> {
        let draw = self.rng.next();
        cpu::pin(self.cpus[draw as usize % self.cpus.len()])
    }

    /// Two threads, on CPUs of their own, read what this one sees.
    fn read_by_threads(&mut self) {
        let draw = self.rng.next() as usize;
        let area = self.shared.start().expose_provenance() as u64;
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let cpu = self.cpus[(draw + reader) % self.cpus.len()];
                thread::spawn(move || {
                    // Where it reads does not matter; that it may be elsewhere does.
                    let _ = cpu::pin(cpu);
                    (0..SHARED).fold(0, |sum, page| {
                        sum * 31 + probe::load_value(area + page * PAGE as u64).map_or(7, u64::from)
                    })
                })
            })
            .collect();
        readers.into_iter().for_each(|reader| self.digest.add(reader.join().unwrap_or(u64::MAX)));
    }

    /// A child goes on with this memory, and a seed of its own, until its end.
    fn fork(&mut self) -> io::Result<()> {
        let (seed, steps) = (self.rng.next(), 5 + self.rng.below(20) as u32);
        let child = process::spawn(|| {
            self.rng = Rng(seed);
            self.generation += 1;
            self.live(steps).map_or(126, Digest::status)
        })?;
        self.bury(child)
    }

    /// A child that leaves this memory for a life of its own.
    fn execute(&mut self) -> io::Result<()> {
        let (seed, program) = (self.rng.next().to_string(), self.program.clone());
        let child = process::spawn_program(&program, &[&program, "--child", &seed, "20"])?;
        self.bury(child)
    }

    fn bury(&mut self, child: i32) -> io::Result<()> {
        match process::wait(child)?.1 {
            Ended::Exited(status) => self.digest.add(status as u64),
            ended => self.digest.add(1 << 40 | format!("{ended:?}").len() as u64),
        }
        Ok(())
    }

    /// The life of a program that a life has executed: it has no children.
    ///
    /// # Errors
    /// As for [`Life::live`].
    pub fn of_child(seed: u64, steps: u32) -> io::Result<i32> {
        let mut life = Self::new(seed, "")?;
        life.generation = MOST_GENERATIONS;
        life.live(steps).map(Digest::status)
    }
}
