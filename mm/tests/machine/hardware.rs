//! One CPU's translation hardware: TTBR0, walks in flight, TLB and walk caches, TLBIs under way.
//!
//! Nothing is ever evicted but by a TLBI, and two entries for one page may stand side by side: the
//! architecture lets a CPU use either.

use std::hash::{Hash, Hasher};

use crate::pte::{ENTRIES, LEAF_LEVEL};
use crate::{Asid, Frame, Op, Page, PageRange, Ttbr};

use super::State;
use super::memory::Memory;
use super::oracle::MmNumber;
use super::told;

/// A value of TTBR0, and which use of the root's frame it means.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
pub struct Loaded {
    pub(super) ttbr: Ttbr,
    pub(super) generation: u32,
}

/// What a walker remembers: at leaf level a TLB entry, above it a walk-cache entry that gives the
/// table of the next level.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
pub struct Cached {
    pub(super) asid: Asid,
    /// A page it was found for. A walk-cache entry serves all pages with the same indices.
    pub(super) page: Page,
    pub(super) level: u8,
    pub(super) descriptor: Bits,
    /// Which use of the frame behind the descriptor it means.
    pub(super) generation: u32,
    /// Whose tables it was read from.
    pub(super) origin: Option<MmNumber>,
}

/// The bits of a valid descriptor.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
pub struct Bits(pub(super) u64);

impl Bits {
    /// Bit 0: a walk goes on or ends in a page (Arm ARM D8.3).
    pub(super) fn is_valid(self) -> bool {
        self.0 & 1 != 0
    }

    /// Bits 47:12, the next table or the page.
    pub(super) fn frame(self) -> Frame {
        Frame::containing(crate::PhysAddr(self.0 & 0x0000_ffff_ffff_f000))
    }

    /// AP\[2\] clear: stores are allowed.
    pub(super) fn writable(self) -> bool {
        self.0 & 1 << 7 == 0
    }

    /// AF: an entry without it faults, and is not cached.
    fn accessed(self) -> bool {
        self.0 & 1 << 10 != 0
    }

    /// UXN clear: user code may execute it.
    fn executable(self) -> bool {
        self.0 & 1 << 54 == 0
    }

    /// Whether `self` allows nothing that `other` does not, and leads to the same frame.
    pub(super) fn within(self, other: Bits) -> bool {
        other.is_valid()
            && self.frame() == other.frame()
            && (!self.writable() || other.writable())
            && (!self.executable() || other.executable())
    }
}

/// The index of the page's entry in a table of this level.
pub(super) fn index(page: Page, level: u8) -> usize {
    (page.number() >> (9 * (LEAF_LEVEL - level))) as usize % ENTRIES
}

/// Whether an entry of this level for one page serves the other.
fn covers(level: u8, one: Page, other: Page) -> bool {
    let shift = 9 * (LEAF_LEVEL - level);
    one.number() >> shift == other.number() >> shift
}

/// Whether some of the pages are served by the entry.
fn reaches(entry: &Cached, pages: &PageRange) -> bool {
    let shift = 9 * (LEAF_LEVEL - entry.level);
    let first = entry.page.number() >> shift << shift;
    first < pages.end.number() && pages.start.number() < first + (1 << shift)
}

/// The pages that the operand of a TLBI by address names. The fields are those of Arm ARM C5.5.
fn named(op: Op, operand: u64) -> PageRange {
    let field = |high: u32, low: u32| operand << (63 - high) >> (63 - high + low);
    let leaf_only = matches!(op, Op::TlbiVale1is | Op::TlbiVale1 | Op::TlbiRvale1is | Op::TlbiRvale1);
    let (start, count) = match op {
        Op::TlbiRvale1is | Op::TlbiRvae1is | Op::TlbiRvale1 | Op::TlbiRvae1 => {
            assert_eq!(field(47, 46), 1, "{op:?} {operand:#x}: TG is not 4 KiB");
            assert!(matches!((field(38, 37), leaf_only), (0, _) | (3, true)), "{op:?} {operand:#x}: the TTL lies");
            (field(36, 0), (field(43, 39) + 1) << (5 * field(45, 44) + 1))
        }
        _ => {
            assert!(matches!((field(47, 44), leaf_only), (0, _) | (7, true)), "{op:?} {operand:#x}: the TTL lies");
            (field(43, 0), 1)
        }
    };
    Page::from_number(start)..Page::from_number(start + count)
}

/// A TLBI that was issued and is not complete.
#[derive(Hash)]
struct Issued {
    op: Op,
    asid: Asid,
    /// The pages it names; none where it goes by ASID or takes everything.
    pages: PageRange,
    /// The CPUs it has not reached yet.
    missing: Vec<usize>,
}

impl Issued {
    fn hits(&self, entry: &Cached) -> bool {
        use Op::*;
        match self.op {
            TlbiVale1is | TlbiVale1 | TlbiRvale1is | TlbiRvale1 => {
                entry.level == LEAF_LEVEL && entry.asid == self.asid && self.pages.contains(&entry.page)
            }
            TlbiVae1is | TlbiVae1 | TlbiRvae1is | TlbiRvae1 => entry.asid == self.asid && reaches(entry, &self.pages),
            TlbiAside1is | TlbiAside1 => entry.asid == self.asid,
            TlbiVmalle1 => true,
            _ => unreachable!("{:?} invalidates nothing", self.op),
        }
    }
}

/// One CPU's translation hardware.
#[derive(Default)]
pub struct Cpu {
    loaded: Option<Loaded>,
    /// Values that were overwritten without an ISB since: new walks may still use them.
    unsynced: Vec<Loaded>,
    /// Values that were overwritten without a DSB since: walks that began under them may go on.
    latched: Vec<Loaded>,
    pub(super) cached: Vec<Cached>,
    issued: Vec<Issued>,
}

impl Hash for Cpu {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.loaded, &self.unsynced, &self.latched, &self.issued).hash(hasher);
        // In whatever order they were found.
        let sum = self.cached.iter().map(told::digest).fold(0_u128, u128::wrapping_add);
        (self.cached.len(), sum).hash(hasher);
    }
}

impl Cpu {
    /// The architectural value of TTBR0.
    pub fn ttbr(&self) -> Ttbr {
        self.loaded().ttbr
    }

    pub(super) fn loaded(&self) -> Loaded {
        self.loaded.expect("TTBR0 is loaded before the CPU starts")
    }

    /// Roots left behind that a walk may still read.
    pub(super) fn lingering(&self) -> impl Iterator<Item = Loaded> {
        self.unsynced.iter().chain(&self.latched).copied()
    }

    /// Every root that a walk may read now.
    pub(super) fn roots(&self) -> Vec<Loaded> {
        let mut roots = vec![self.loaded()];
        roots.extend(self.lingering());
        roots.dedup();
        roots
    }

    /// Whether an entry under this ASID may be used by this CPU now.
    pub(super) fn can_use(&self, asid: Asid) -> bool {
        self.roots().iter().any(|loaded| loaded.ttbr.asid() == asid)
    }

    /// An exception entry or return: a context synchronisation event, as an ISB is.
    pub fn synchronise(&mut self) {
        self.unsynced.clear();
    }

    fn remember(&mut self, entry: Cached) {
        if !self.cached.contains(&entry) {
            self.cached.push(entry);
        }
    }
}

impl State {
    /// All CPUs start with this root under ASID 0, and with what boot stored visible.
    pub(super) fn load_everywhere(&mut self, root: Frame) {
        self.memory.drain(0);
        let generation = self.memory.generation(root);
        let loaded = Loaded { ttbr: Ttbr::new(root, Asid::INIT), generation };
        self.cpus.iter_mut().for_each(|cpu| cpu.loaded = Some(loaded));
    }

    /// What one operation does at once. What it may do later is left to [`State::land_one`].
    pub(super) fn execute(&mut self, cpu: usize, op: Op, operand: u64) {
        match op {
            Op::MsrTtbr0 => {
                let ttbr = Ttbr(operand);
                let generation = self.memory.generation(ttbr.root());
                let this = &mut self.cpus[cpu];
                let old = this.loaded.replace(Loaded { ttbr, generation });
                this.unsynced.extend(old);
                this.latched.extend(old);
            }
            Op::Isb => self.cpus[cpu].synchronise(),
            Op::DsbIshst | Op::DsbNshst => self.memory.drain(cpu),
            Op::DsbNsh => {
                self.cpus[cpu].latched.clear();
                self.land_all(cpu, &[cpu]);
            }
            Op::DsbIsh => {
                self.cpus[cpu].latched.clear();
                self.memory.drain(cpu);
                let everybody: Vec<usize> = (0..self.cpus.len()).collect();
                self.land_all(cpu, &everybody);
            }
            Op::TlbiVale1is | Op::TlbiVae1is | Op::TlbiRvale1is | Op::TlbiRvae1is | Op::TlbiAside1is => {
                self.issue(cpu, op, operand, 0..self.cpus.len());
            }
            Op::TlbiVale1 | Op::TlbiVae1 | Op::TlbiRvale1 | Op::TlbiRvae1 | Op::TlbiAside1 | Op::TlbiVmalle1 => {
                self.issue(cpu, op, operand, cpu..cpu + 1);
            }
        }
    }

    fn issue(&mut self, cpu: usize, op: Op, operand: u64, targets: std::ops::Range<usize>) {
        let asid = Asid((operand >> 48) as u16);
        let pages = match op {
            Op::TlbiAside1is | Op::TlbiAside1 | Op::TlbiVmalle1 => Page::END..Page::END,
            _ => named(op, operand),
        };
        let missing = targets.filter(|&target| self.has_power(target)).collect();
        self.cpus[cpu].issued.push(Issued { op, asid, pages, missing });
        if self.told.as_mut().is_some_and(|told| std::mem::take(&mut told.lands_early)) {
            let everybody: Vec<usize> = (0..self.cpus.len()).collect();
            self.land_all(cpu, &everybody);
        }
    }

    /// The TLBIs that this CPU issued take effect on the targets.
    fn land_all(&mut self, cpu: usize, targets: &[usize]) {
        let mut issued = std::mem::take(&mut self.cpus[cpu].issued);
        for tlbi in &mut issued {
            for target in tlbi.missing.extract_if(.., |target| targets.contains(target)).collect::<Vec<_>>() {
                self.cpus[target].cached.retain(|entry| !tlbi.hits(entry));
            }
        }
        issued.retain(|tlbi| !tlbi.missing.is_empty());
        self.cpus[cpu].issued = issued;
    }

    /// A CPU goes: TLBIs that have not reached it never will, and nobody waits for that. What its TLB
    /// holds stays there.
    pub(super) fn lose_power(&mut self, cpu: usize) {
        for from in &mut self.cpus {
            from.issued.iter_mut().for_each(|tlbi| tlbi.missing.retain(|&target| target != cpu));
        }
    }

    /// Some TLBI takes effect on some CPU before anybody waited for it.
    pub(super) fn land_one(&mut self) {
        let (from, to) = (self.rng.below(self.cpus.len()), self.rng.below(self.cpus.len()));
        self.land_all(from, &[to]);
    }

    /// Some walker reads ahead for some page, from where it likes and as far as it likes.
    pub(super) fn walk_somewhere(&mut self) {
        let cpu = self.rng.below(self.cpus.len());
        let roots = self.cpus[cpu].roots();
        let pages = self.oracle.pages();
        let (Some(&loaded), Some(&page)) = (self.rng.pick(&roots), self.rng.pick(&pages)) else { return };
        let starts = self.starts(cpu, loaded, page);
        let start = *self.rng.pick(&starts).expect("the root is always one");
        let levels = 1 + self.rng.below(4);
        self.walk(cpu, loaded, page, start, levels);
    }

    /// Every walker reads ahead for every page, from everywhere.
    pub(super) fn walk_everything(&mut self) {
        for cpu in 0..self.cpus.len() {
            for page in self.oracle.pages() {
                self.walk_page(cpu, page);
            }
        }
    }

    /// This CPU's walker looks the page up in all ways it may.
    pub(super) fn walk_page(&mut self, cpu: usize, page: Page) {
        for loaded in self.cpus[cpu].roots() {
            for start in self.starts(cpu, loaded, page) {
                self.walk(cpu, loaded, page, start, 4);
            }
        }
    }

    /// Tables at which a walk for the page may begin: the root, and what walk caches hold under its ASID.
    fn starts(&self, cpu: usize, loaded: Loaded, page: Page) -> Vec<(Frame, u8)> {
        let root = (loaded.ttbr.root(), 0);
        let usable = |entry: &&Cached| {
            entry.level < LEAF_LEVEL && entry.asid == loaded.ttbr.asid() && covers(entry.level, entry.page, page)
        };
        let cached = self.cpus[cpu].cached.iter().filter(usable);
        std::iter::once(root).chain(cached.map(|entry| (entry.descriptor.frame(), entry.level + 1))).collect()
    }

    fn walk(&mut self, cpu: usize, loaded: Loaded, page: Page, start: (Frame, u8), levels: usize) {
        let (table, level) = start;
        if level > LEAF_LEVEL || levels == 0 {
            return;
        }
        // Whoever decides wants to see all that can be: a store that no DSB covers is seen by one walk and not by another.
        let all = self.told.is_some();
        for descriptor in self.memory.seen(table, index(page, level), all) {
            if let Some(entry) = self.read(cpu, loaded, page, start, Bits(descriptor)) {
                self.cpus[cpu].remember(entry);
                self.walk(cpu, loaded, page, (entry.descriptor.frame(), level + 1), levels - 1);
            }
        }
    }

    /// What a walker makes of a descriptor that it read in this table, of this level.
    fn read(&mut self, cpu: usize, loaded: Loaded, page: Page, from: (Frame, u8), descriptor: Bits) -> Option<Cached> {
        let (table, level) = from;
        if !descriptor.is_valid() {
            return None;
        }
        if !self.memory.has(descriptor.frame()) {
            let read = format!("{descriptor:x?} in {table:?} at level {level} for {page:?}");
            self.oracle.report(format!("CPU {cpu}'s walker read {read}, which is no descriptor of ours"));
            return None;
        }
        if level == LEAF_LEVEL && !descriptor.accessed() {
            return None;
        }
        let generation = self.memory.generation(descriptor.frame());
        let origin = self.oracle.number_of(loaded.ttbr.root());
        Some(Cached { asid: loaded.ttbr.asid(), page, level, descriptor, generation, origin })
    }

    /// The entries that a user access to the page may use on this CPU now.
    pub(super) fn translations(&mut self, cpu: usize, page: Page) -> Vec<Bits> {
        self.cpus[cpu].synchronise();
        let asid = self.cpus[cpu].ttbr().asid();
        let hit = |entry: &&Cached| entry.level == LEAF_LEVEL && entry.asid == asid && entry.page == page;
        if !self.cpus[cpu].cached.iter().any(|entry| hit(&entry)) {
            self.walk_page(cpu, page);
        }
        self.cpus[cpu].cached.iter().filter(hit).map(|entry| entry.descriptor).collect()
    }
}

/// What the tables say now, as the CPUs see them: the descriptor of this level for the page.
pub(super) fn look_up(memory: &Memory, root: Frame, page: Page, level: u8) -> Bits {
    let mut table = root;
    for above in 0..level {
        let descriptor = Bits(memory.peek(table).word(index(page, above)));
        if !descriptor.is_valid() || !memory.has(descriptor.frame()) {
            return Bits(0);
        }
        table = descriptor.frame();
    }
    Bits(memory.peek(table).word(index(page, level)))
}
