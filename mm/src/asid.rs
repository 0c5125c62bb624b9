//! ASIDs by generation: each `Mm` keeps its number until the numbers run out.
//!
//! An ASID context is one word, generation above bit 16 and number below. When no number is left,
//! the generation ends: each CPU's number in use is kept for its `Mm` (reserved), all others are
//! free again, and every CPU is marked to flush its own TLB before it next takes a number. Nobody
//! is interrupted. A number is never given back earlier, so a dead `Mm`'s entries are harmless.
//!
//! # A lazy CPU and the end of a generation
//!
//! 1. CPU 0 runs `A` (number 5), goes idle, and keeps `A`'s root loaded.
//! 2. CPU 1 ends the generation. If 5 were free now, `B` could be given 5 on CPU 1.
//! 3. CPU 0 wakes `A` without a TTBR0 write, as a lazy CPU may: it runs `A` under 5, and an
//!    invalidation of `A`, by then under another number, would miss it.
//!
//! So a rollover reserves what each CPU has *loaded*, lazy or not, and `A` keeps 5 on every CPU.
//! (Scheme of Linux `arch/arm64/mm/context.c`; its TLA+ model is Marinas' `asidalloc`.)

use alloc::vec;
use alloc::vec::Vec;

use crate::addr::Asid;
use crate::machine::{Machine, Point, note, point};
use crate::ops::Sequence;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::sync::{AtomicBool, AtomicU64, Ordering, SwitchLock};

const GENERATION: u64 = 1 << 16;
const NUMBER: u64 = GENERATION - 1;

/// The ASID context of one `Mm`: generation and number in one word, 0 for none yet.
pub struct Context(AtomicU64);

impl Context {
    /// No ASID yet.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The number that entries of this `Mm` may be used under, or `None` if it never ran or its
    /// number was retired.
    ///
    /// A flusher reads it *after* its [`Sequence::PublishEntries`], never before.
    pub fn asid(&self) -> Option<Asid> {
        // Relaxed: ordered by the barrier before it, which pairs with `Sequence::PublishAsid`.
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            context => Some(number(context)),
        }
    }

    /// The ASID is the `Mm`'s no more, and nobody's until the generation ends. The `Mm` has no users,
    /// and no CPU has it loaded.
    pub(crate) fn retire(&self) {
        // Relaxed: nobody takes or flushes it any more; who looks later was ordered by the last drop.
        self.0.store(0, Ordering::Relaxed);
    }
}

fn number(context: u64) -> Asid {
    Asid((context & NUMBER) as u16)
}

/// One CPU's part of the allocator.
pub struct CpuAsid {
    /// The context this CPU last took, 0 once a rollover has taken note of it.
    active: AtomicU64,
    /// The context a rollover found here; changes under the allocator's lock.
    reserved: AtomicU64,
    /// A generation ended and this CPU's TLB still holds its entries; under the lock.
    flush_pending: AtomicBool,
    /// `active` names the next context already, TTBR0 still holds the one before.
    switching: AtomicBool,
}

impl CpuAsid {
    pub(crate) fn new() -> Self {
        Self {
            active: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            flush_pending: AtomicBool::new(false),
            switching: AtomicBool::new(false),
        }
    }

    /// TTBR0 holds the active context: the barriers of the MSR are behind us.
    #[inline]
    pub(crate) fn switched(&self) {
        // Release: pairs with the Acquire in `roll_over`.
        self.switching.store(false, Ordering::Release);
    }
}

/// Gives out ASIDs.
pub struct AsidAllocator<M: Machine> {
    /// Generation of the numbers now being given, in the context word's upper bits.
    generation: AtomicU64,
    numbers: SwitchLock<Numbers, M>,
}

struct Numbers {
    /// One bit for each number: in use in this generation. 0 and numbers past the size always are.
    used: Vec<u64>,
    /// How many numbers there are, 0 included.
    size: usize,
    /// The last number given; the search goes on from here.
    cursor: usize,
}

impl Numbers {
    fn new(bits: u32) -> Self {
        let size = 1 << bits;
        let mut numbers = Self { used: vec![0; usize::div_ceil(size, 64)], size, cursor: 0 };
        numbers.clear();
        numbers
    }

    fn clear(&mut self) {
        self.used.fill(0);
        self.used[0] = 1;
        if self.size < 64 {
            self.used[0] |= !0 << self.size;
        }
        self.cursor = 0;
    }

    /// Marks a number as used; says whether it was free.
    fn take(&mut self, asid: Asid) -> bool {
        let (word, bit) = (asid.0 as usize / 64, 1 << (asid.0 % 64));
        let free = self.used[word] & bit == 0;
        self.used[word] |= bit;
        free
    }

    /// Takes the first free number above the cursor.
    fn take_next(&mut self) -> Option<Asid> {
        let mut above = (!0 << (self.cursor % 64)) << 1;
        for word in self.cursor / 64..self.used.len() {
            let free = !self.used[word] & above;
            if free != 0 {
                self.cursor = word * 64 + free.trailing_zeros() as usize;
                self.used[word] |= free & free.wrapping_neg();
                return Some(Asid(self.cursor as u16));
            }
            above = !0;
        }
        None
    }
}

impl<M: Machine> AsidAllocator<M> {
    /// An allocator of 2^`bits` - 1 numbers. [`Config::usable_asid_bits`] has checked the size.
    ///
    /// [`Config::usable_asid_bits`]: crate::config::Config::usable_asid_bits
    pub(crate) fn new(bits: u32) -> Self {
        Self { generation: AtomicU64::new(GENERATION), numbers: SwitchLock::new(Numbers::new(bits)) }
    }

    /// The ASID to load `context`'s `Mm` under on this CPU, given anew if its generation ended.
    ///
    /// Interrupts are masked. Part of the switch: nothing else may call it.
    #[inline]
    pub(crate) fn activate(&self, context: &Context, cpu: &CpuState<M>) -> Asid {
        // Against a rollover on another CPU the two read-modify-writes of `active` decide: if its
        // swap comes first, the exchange here fails on the 0 it left and the slow path's lock shows
        // the new generation; if the exchange comes first, the swap takes note of the context that
        // we now load, and reserves it. Relaxed loads: the exchange confirms them.
        let wanted = context.0.load(Ordering::Relaxed);
        let active = cpu.asid.active.load(Ordering::Relaxed);
        let current = wanted & !NUMBER == self.generation.load(Ordering::Relaxed);
        if active != 0 && current {
            cpu.asid.switching.store(true, Ordering::Relaxed);
            // Release: pairs with the Acquire of the swap in `roll_over`, which then sees the flag.
            if cpu.asid.active.compare_exchange(active, wanted, Ordering::Release, Ordering::Relaxed).is_ok() {
                return number(wanted);
            }
            // Before the lock: its holder may be waiting for this.
            cpu.asid.switched();
        }
        self.activate_slowly(context, cpu)
    }

    /// This CPU has left what it took a number for and runs no user any more until it has
    /// forgotten its TLB: the number is not kept for it at the end of a generation. Interrupts are
    /// masked.
    pub(crate) fn release(&self, cpu: &CpuState<M>) {
        // A rollover reads and writes both under the lock. With no context active, the next
        // `activate` takes the slow path and sees whether a flush is pending.
        let _numbers = self.numbers.lock();
        cpu.asid.active.store(0, Ordering::Relaxed);
        cpu.asid.reserved.store(0, Ordering::Relaxed);
    }

    #[cold]
    fn activate_slowly(&self, context: &Context, cpu: &CpuState<M>) -> Asid {
        let mut numbers = self.numbers.lock();
        point::<M>(Point::AsidSlowPath);
        // Relaxed: contexts and the generation change only under the lock held here.
        let mut wanted = context.0.load(Ordering::Relaxed);
        if wanted & !NUMBER != self.generation.load(Ordering::Relaxed) {
            wanted = self.renew(&mut numbers, wanted, cpu);
            note(cpu, Counter::AsidsGiven, || wanted & NUMBER);
            context.0.store(wanted, Ordering::Relaxed);
            // A flusher that reads the old word from now on has its stores ahead of our walks:
            // pairs with `Sequence::PublishEntries` in `flush`.
            M::run(Sequence::PublishAsid, 0);
        }
        if cpu.asid.flush_pending.load(Ordering::Relaxed) {
            cpu.asid.flush_pending.store(false, Ordering::Relaxed);
            M::run(Sequence::FlushLocal, 0);
            note(cpu, Counter::TlbiAllLocal, || 0);
        }
        // Under the lock, as `roll_over` is.
        cpu.asid.switching.store(true, Ordering::Relaxed);
        cpu.asid.active.store(wanted, Ordering::Relaxed);
        number(wanted)
    }

    /// A context of the current generation for an `Mm` whose context is `old`.
    fn renew(&self, numbers: &mut Numbers, old: u64, cpu: &CpuState<M>) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed);
        if old != 0 {
            let renewed = generation | old & NUMBER;
            // Some CPU has it loaded, perhaps lazily: the number must not change under it.
            if self.renew_reserved(old, renewed) || numbers.take(number(old)) {
                return renewed;
            }
        }
        match numbers.take_next() {
            Some(asid) => generation | u64::from(asid.0),
            None => {
                let generation = self.roll_over(numbers, cpu);
                let asid = numbers.take_next().expect("usable ASIDs >= CPUs + 1 was checked at boot");
                generation | u64::from(asid.0)
            }
        }
    }

    /// Moves every CPU's reservation of `old` into the new generation; says whether there was one.
    /// All of them: two CPUs may be lazy on one `Mm`.
    fn renew_reserved(&self, old: u64, renewed: u64) -> bool {
        let mut found = false;
        for cpu in M::system().cpus() {
            if cpu.asid.reserved.load(Ordering::Relaxed) == old {
                cpu.asid.reserved.store(renewed, Ordering::Relaxed);
                found = true;
            }
        }
        found
    }

    /// Ends the generation. Whoever runs or is lazy now keeps its number.
    fn roll_over(&self, numbers: &mut Numbers, this_cpu: &CpuState<M>) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed) + GENERATION;
        note(this_cpu, Counter::AsidRollovers, || generation / GENERATION);
        self.generation.store(generation, Ordering::Relaxed);
        numbers.clear();
        for cpu in M::system().cpus() {
            // Acquire: pairs with the Release exchange in `activate`, of the same word.
            let mut kept = cpu.asid.active.swap(0, Ordering::Acquire);
            // Its TTBR0 may still hold the context before, which is reserved for nobody: were its
            // number given away now, the former owner would go on under another, flush by that, and
            // free what this CPU's walker still reaches. It is a few instructions from its MSR,
            // with interrupts masked, and needs no lock. Acquire: pairs with `switched`.
            while cpu.asid.switching.load(Ordering::Acquire) {
                M::relax();
            }
            if kept == 0 {
                // It took no number since the rollover before: it still has that one loaded.
                kept = cpu.asid.reserved.load(Ordering::Relaxed);
            }
            numbers.take(number(kept));
            cpu.asid.reserved.store(kept, Ordering::Relaxed);
            cpu.asid.flush_pending.store(true, Ordering::Relaxed);
            point::<M>(Point::RolloverStep);
        }
        generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_give_three_numbers() {
        let mut numbers = Numbers::new(2);
        let given = core::array::from_fn(|_| numbers.take_next().map(|asid| asid.0));
        assert_eq!(given, [Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn sixteen_bits_give_all_but_zero() {
        let mut numbers = Numbers::new(16);
        assert!(!numbers.take(Asid(0)) && numbers.take(Asid(64)) && !numbers.take(Asid(64)));
        let given = core::iter::from_fn(|| numbers.take_next()).map(|asid| asid.0);
        assert!(given.eq((1..=u16::MAX).filter(|number| *number != 64)));
    }

    /// As many as a word has bits: none of them is past the size.
    #[test]
    fn six_bits_give_a_word_of_numbers() {
        let mut numbers = Numbers::new(6);
        assert_eq!(core::iter::from_fn(|| numbers.take_next()).count(), 63);
    }
}
