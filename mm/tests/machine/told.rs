//! A machine that is told what happens next, so that somebody can try everything (`tests/worlds`).
//!
//! What the other machine leaves to chance is of two kinds. Whose turn it is, when an SGI is taken, when a TLBI lands and
//! when time passes are choices: [`World::choices`] lists them, [`World::perform`] makes one of them come true. What walkers
//! and store buffers do is no choice here: after each step every walker has read whatever it may have read, every value of
//! a word that is on its way included, and keeps it. A cached entry never hides a fault, so more of them is always worse,
//! and the oracle looks at each.
//!
//! A TLBI lands when it is issued, or when its DSB waits for it. What lands in between is no worse than one of the two: an
//! entry that was there before is used longest if it lands last, one that comes after it is kept surest if it lands first.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::{Event, Lies, Setup, State, World};
use crate::Op;
use crate::stats::Counters;

/// What whoever resumes a thread has decided for its next step.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) takes_sgi: bool,
    pub(super) lands_early: bool,
    /// How often time may still pass.
    naps: usize,
}

/// Something that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// A CPU makes its next step.
    Step(usize),
    /// A CPU makes its next step, a TLBI, which reaches everybody at once.
    StepAtOnce(usize),
    /// A CPU takes the SGI that is pending.
    Take(usize),
    /// Time passes until something that waits for it is due.
    Nap,
}

impl Setup {
    /// The same, to be told what to do: nothing happens by chance, and no time passes by itself.
    pub fn told(mut self) -> Self {
        self.lies = Lies::NONE;
        self.step = 0;
        self
    }
}

impl World {
    /// From now on the machine does what it is told. Time may pass so many times.
    pub fn obey(&self, naps: usize) {
        self.lock().told = Some(Told { naps, ..Told::default() });
    }

    /// The machine goes its own way again, and time passes with its steps.
    pub fn let_go(&self) {
        let mut state = self.lock();
        state.told = None;
        state.step = super::setup::FAST;
    }

    /// All that can happen next.
    pub fn choices(&self) -> Vec<Choice> {
        let state = self.lock();
        let mut choices = Vec::new();
        for cpu in (0..state.cores.len()).filter(|&cpu| state.can_go_on(cpu)) {
            let core = &state.cores[cpu];
            let called = !core.masked && !core.inbox.is_empty();
            if called {
                choices.push(Choice::Take(cpu));
            }
            if called && !state.may_be_late(cpu) {
                continue;
            }
            choices.push(Choice::Step(cpu));
            if matches!(state.threads[core.current].next, Some(Event::Op(op, _)) if invalidates(op)) {
                choices.push(Choice::StepAtOnce(cpu));
            }
        }
        if state.told.as_ref().is_some_and(|told| told.naps > 0) && state.next_due().is_some() {
            choices.push(Choice::Nap);
        }
        choices
    }

    /// Makes one of them come true. Tells why that was wrong, if it was.
    pub fn perform(&self, choice: Choice) -> Option<String> {
        let mut state = self.lock();
        let told = state.told.as_mut().expect("it obeys");
        (told.takes_sgi, told.lands_early) = (false, false);
        let cpu = match choice {
            Choice::Nap => {
                told.naps -= 1;
                drop(state);
                self.pass_time();
                return None;
            }
            Choice::Step(cpu) => cpu,
            Choice::StepAtOnce(cpu) => {
                told.lands_early = true;
                cpu
            }
            Choice::Take(cpu) => {
                told.takes_sgi = true;
                cpu
            }
        };
        let thread = state.cores[cpu].current;
        state.running = Some(thread);
        drop(state);
        self.resume(thread);
        self.lock().verdict.take()
    }

    /// What is no part of a state although it lies in memory: the machine's own state, of which [`State::digest`] tells what
    /// matters, and counters, by which nobody decides.
    pub fn ignored(&self) -> Vec<Range<usize>> {
        let range = |start: usize, bytes: usize| start..start + bytes;
        let counters = self.system().cpus().iter().map(|cpu| (&raw const cpu.counters).addr());
        let counters = counters.map(|start| range(start, size_of::<Counters>()));
        std::iter::once(range((&raw const self.state).addr(), size_of_val(&self.state))).chain(counters).collect()
    }

    /// Nothing can happen any more. Tells why that is wrong, if it is.
    pub fn stuck(&self) -> Option<String> {
        self.deadlock(&self.lock())
    }

    /// Time passes until something that waits for it is due. Says whether anything does.
    pub fn pass_time(&self) -> bool {
        let mut state = self.lock();
        let Some(due) = state.next_due() else { return false };
        let now = state.now_ns();
        state.waited += due.saturating_sub(now);
        let wake = state.reaper_due.take_if(|time| *time <= due).and(state.reaper);
        drop(state);
        if let Some(reaper) = wake {
            super::kernel::wake(self, reaper, 0);
        }
        true
    }

    /// What went wrong, with the timeline that led there.
    pub fn tell(&self, why: &str) -> String {
        self.report(&self.lock(), why)
    }
}

fn invalidates(op: Op) -> bool {
    !matches!(op, Op::DsbIshst | Op::DsbIsh | Op::DsbNshst | Op::DsbNsh | Op::Isb | Op::MsrTtbr0)
}

impl State {
    /// When the first of those is due that wait for time.
    fn next_due(&self) -> Option<u64> {
        let asleep = self.cores.iter().filter(|core| core.asleep);
        asleep.filter_map(|core| core.alarm).chain(self.reaper_due).min()
    }

    /// All that the machine itself remembers, to tell one state from another. What threads and the mm layer remember lies
    /// in their memory.
    pub fn digest(&self) -> u128 {
        let mut hasher = Digest::default();
        self.cpus.hash(&mut hasher);
        for core in &self.cores {
            (core.current, &core.queue, core.masked, core.asleep, core.alarm).hash(&mut hasher);
            (core.power, core.online, core.unfinished).hash(&mut hasher);
            core.inbox.iter().for_each(|call| Arc::as_ptr(call).hash(&mut hasher));
        }
        for thread in &self.threads {
            (thread.cpu, thread.status, thread.departing, thread.woken, thread.pins).hash(&mut hasher);
            (thread.stack.start, thread.waits_for.as_ref().map(Arc::as_ptr)).hash(&mut hasher);
        }
        self.memory.hash(&mut hasher);
        self.oracle.hash(&mut hasher);
        (self.waited, self.senders, self.reaper_due, self.told.map(|told| told.naps)).hash(&mut hasher);
        hasher.value()
    }

    /// The bytes of their stacks that threads use.
    pub fn stacks(&self) -> impl Iterator<Item = Range<usize>> {
        self.threads.iter().filter(|thread| thread.has_stack()).map(|thread| thread.stack.clone())
    }
}

/// A digest of something.
pub(super) fn digest(of: &impl Hash) -> u128 {
    let mut hasher = Digest::default();
    of.hash(&mut hasher);
    hasher.value()
}

/// 128 bits that two different things have in common by no more than chance.
#[derive(Clone, Copy)]
pub struct Digest(u64, u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0x6c61_7a75_6c69, 0x9e37_79b9_7f4a_7c15)
    }
}

impl Digest {
    /// Adds a word.
    #[inline]
    pub fn add(&mut self, word: u64) {
        let (low, high) = (self.0 ^ word, self.1.rotate_left(23) ^ word);
        let a = u128::from(low) * 0x2d35_8dcc_aa6c_78a5;
        let b = u128::from(high) * 0x8bb8_4b93_962e_acc9;
        (self.0, self.1) = ((a as u64) ^ (b >> 64) as u64, (b as u64).wrapping_add((a >> 64) as u64) ^ word);
    }

    /// The 128 bits.
    pub fn value(mut self) -> u128 {
        self.add(0x51);
        self.add(0x52);
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.value() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.add(u64::from_le_bytes(padded));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }
}
