//! Physical memory: the frames, and what table walkers see of them.
//!
//! The mm layer stores into real atomics, so its own CPUs see each store at once. Walkers see it
//! later: a store stays in its CPU's buffer until that CPU's next DSB, or until chance lets it out.
//! Which CPU stored what is found by comparing with what was there at the step before; only one
//! CPU ran since. Frames that nobody looked at as a table are not compared.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

use crate::Frame;
use crate::pte::{Descriptor, ENTRIES, Table};

use super::Rng;

/// The number of the first frame: RAM starts at 1 GiB, as on QEMU's `virt`.
pub const BASE: usize = 0x4_0000;

/// What the frame allocator fills free frames with, in debug builds. `contract.rs` checks that it does.
pub const POISON: u64 = 0xdead_f4ee_dead_f4ee;

/// A valid descriptor that leads nowhere: whoever reads it as one has gone wrong.
const TRAP: u64 = 0x0000_0dea_dead_d003;

/// Frames of machines that ended: the mm layer wants them for ever, the host has not so many.
static SPARE: Mutex<Vec<&'static [Table]>> = Mutex::new(Vec::new());

pub(super) fn take_frames(count: usize) -> &'static [Table] {
    let mut spare = SPARE.lock().expect("nobody panics with this lock");
    let fitting = spare.iter().position(|frames| frames.len() == count);
    let frames = fitting.map(|index| spare.swap_remove(index));
    drop(spare);
    // The same seed finds the same memory.
    let words = frames.iter().flat_map(|frames| frames.iter().flat_map(Table::entries));
    words.for_each(|word| word.set(Descriptor::EMPTY));
    frames.unwrap_or_else(|| Box::leak((0..count).map(|_| Table::new()).collect()))
}

pub(super) fn give_frames_back(frames: &'static [Table]) {
    SPARE.lock().expect("nobody panics with this lock").push(frames);
}

/// A store that walkers do not see yet.
#[derive(Hash)]
struct Store {
    /// The CPU that made it, and those that have observed it since: a DSB of any of them covers it.
    cpus: u64,
    frame: usize,
    word: usize,
    value: u64,
}

/// A frame that was looked at as a table.
struct Watched {
    /// What the CPUs see, as of the last step.
    stored: [u64; ENTRIES],
    /// What walkers see.
    visible: [u64; ENTRIES],
}

/// All frames.
pub struct Memory {
    frames: &'static [Table],
    /// Counts the uses of each frame.
    generations: Vec<u32>,
    watched: BTreeMap<usize, Box<Watched>>,
    buffered: Vec<Store>,
    /// Tables that somebody got hold of since the last step.
    looked_at: Vec<usize>,
}

impl Hash for Memory {
    /// Beside what the frames hold: what walkers see instead, and what is on its way. What follows its neighbour as it
    /// mostly does, every word of a frame that was filled, is told by the neighbour.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.generations, &self.looked_at, self.buffered.len()).hash(hasher);
        let mut last = None;
        for (at, store) in self.buffered.iter().enumerate() {
            let Store { cpus, frame, word, value } = *store;
            if last != Some((cpus, frame, word, value)) {
                (at, store).hash(hasher);
            }
            last = Some((cpus, frame, word + 1, value));
        }
        for (index, watched) in &self.watched {
            let table = &self.frames[*index];
            if watched.stored == watched.visible && (0..ENTRIES).all(|word| watched.stored[word] == table.word(word)) {
                continue;
            }
            let mut last = None;
            for (word, seen) in watched.stored.iter().zip(&watched.visible).enumerate() {
                if last.replace(seen) != Some(seen) {
                    (index, word, seen).hash(hasher);
                }
            }
        }
    }
}

impl Memory {
    pub(super) fn new(frames: &'static [Table]) -> Self {
        let generations = vec![0; frames.len()];
        Self { frames, generations, watched: BTreeMap::new(), buffered: Vec::new(), looked_at: Vec::new() }
    }

    /// The frame as the CPUs see it, to be changed by the caller.
    pub fn table(&mut self, frame: Frame) -> &'static Table {
        let index = frame.number() - BASE;
        let table = &self.frames[index];
        if !self.looked_at.contains(&index) {
            self.looked_at.push(index);
        }
        self.watched.entry(index).or_insert_with(|| {
            let stored: [u64; ENTRIES] = std::array::from_fn(|word| table.word(word));
            Box::new(Watched { stored, visible: stored })
        });
        table
    }

    /// The frame as the CPUs see it, not to be changed.
    pub fn peek(&self, frame: Frame) -> &'static Table {
        &self.frames[frame.number() - BASE]
    }

    /// A word of the frame as table walkers see it now.
    pub(super) fn visible(&self, frame: Frame, word: usize) -> u64 {
        let index = frame.number() - BASE;
        self.watched.get(&index).map_or_else(|| self.frames[index].word(word), |watched| watched.visible[word])
    }

    /// The values that a walk may find in a word: what is visible, and with `all` what waits in store buffers, too.
    pub(super) fn seen(&self, frame: Frame, word: usize, all: bool) -> Vec<u64> {
        let index = frame.number() - BASE;
        let here = |store: &&Store| all && store.frame == index && store.word == word;
        let waiting = self.buffered.iter().filter(here).map(|store| store.value);
        std::iter::once(self.visible(frame, word)).chain(waiting).collect()
    }

    /// Begins a new use of a frame. Until what is stored there now becomes visible, walkers find
    /// what a program may have left: descriptors of its own making.
    pub(super) fn reuse(&mut self, frame: Frame, word: impl Fn(usize) -> u64) {
        self.generations[frame.number() - BASE] += 1;
        let table = self.table(frame);
        let left = Watched { stored: [TRAP; ENTRIES], visible: [TRAP; ENTRIES] };
        self.watched.insert(frame.number() - BASE, Box::new(left));
        (0..ENTRIES).for_each(|index| table.set_word(index, word(index)));
    }

    /// Which use of the frame this is.
    pub(super) fn generation(&self, frame: Frame) -> u32 {
        self.generations[frame.number() - BASE]
    }

    /// Whether the frame's present use is this one, and it is not free.
    pub(super) fn is_still(&self, frame: Frame, generation: u32) -> bool {
        self.generation(frame) == generation && !self.is_freed(frame)
    }

    fn is_freed(&self, frame: Frame) -> bool {
        let table = self.peek(frame);
        table.word(0) == POISON && table.word(ENTRIES - 1) == POISON
    }

    /// Whether a frame of that number exists.
    pub(super) fn has(&self, frame: Frame) -> bool {
        frame.number().checked_sub(BASE).is_some_and(|index| index < self.frames.len())
    }

    /// Puts what this CPU changed since its last step into its store buffer, in the tables that it
    /// looked up meanwhile. What it stores later, by a reference it kept, is found at the next DSB.
    pub(super) fn collect_stores(&mut self, cpu: usize) {
        for frame in std::mem::take(&mut self.looked_at) {
            self.compare(cpu, frame);
        }
    }

    /// The frames that were ever used, as bytes; what walkers see of them is [`Memory::hash`]'s to tell.
    pub fn touched(&self) -> impl Iterator<Item = &'static Table> {
        (0..self.frames.len()).filter(|&index| self.generations[index] != 0).map(|index| &self.frames[index])
    }

    fn compare(&mut self, cpu: usize, frame: usize) {
        let Some(watched) = self.watched.get_mut(&frame) else { return };
        let table = &self.frames[frame];
        for word in 0..ENTRIES {
            let value = table.word(word);
            if value != watched.stored[word] {
                watched.stored[word] = value;
                self.buffered.push(Store { cpus: 1 << cpu, frame, word, value });
            }
        }
    }

    /// A DSB of this CPU: all it stored is visible. So is another's store that was not found before.
    pub(super) fn drain(&mut self, cpu: usize) {
        let all: Vec<usize> = self.watched.keys().copied().collect();
        all.into_iter().for_each(|frame| self.compare(cpu, frame));
        self.let_out(|store| store.cpus & 1 << cpu != 0);
    }

    /// A thread moves from one CPU to another. What the first stored before, the second observes: the
    /// run queue's lock is a release and an acquire (Arm ARM B2.3, barriers are cumulative).
    pub(super) fn hand_over(&mut self, from: usize, to: usize) {
        for store in self.buffered.iter_mut().filter(|store| store.cpus & 1 << from != 0) {
            store.cpus |= 1 << to;
        }
    }

    /// Some stores become visible of their own accord, in any order but that of one place.
    pub(super) fn drain_some(&mut self, rng: &mut Rng) {
        self.let_out(|_| rng.one_in(2));
    }

    fn let_out(&mut self, mut chosen: impl FnMut(&Store) -> bool) {
        // From the youngest to the oldest: a place whose younger store is out lets the older out too.
        let mut kept = Vec::new();
        let mut last: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for store in std::mem::take(&mut self.buffered).into_iter().rev() {
            let place = (store.frame, store.word);
            if last.contains_key(&place) {
                continue;
            }
            if chosen(&store) {
                last.insert(place, store.value);
            } else {
                kept.push(store);
            }
        }
        kept.reverse();
        self.buffered = kept;
        for ((frame, word), value) in last {
            if let Some(watched) = self.watched.get_mut(&frame) {
                watched.visible[word] = value;
            }
        }
    }
}
