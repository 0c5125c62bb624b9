//! All CPUs' worst TLBs, and the rule that is broken when one of them would have been hit.

use std::collections::{BTreeSet, HashMap};

use super::alarm::{Alarm, Wrong};
use super::cache::{Cache, Entry, GLOBAL, Key, RootId, Scope, State};
use super::descriptor::{self, Harm, Memory, Step, Walk, root};
use super::timeline::{Event, Timeline};
use super::watch::Watch;
use crate::decode::{Barrier, What};

const TCR_A1: u64 = 1 << 22;
const TCR_AS: u64 = 1 << 36;
const TCR_TBI0: u64 = 1 << 37;
const SCTLR_M: u64 = 1;

/// What governs a CPU's translations, and what it remembers of earlier ones.
#[derive(Default)]
struct Cpu {
    ttbr: [u64; 2],
    tcr: u64,
    mmu_on: bool,
    cache: Cache,
    /// Invalidations that no DSB has completed.
    issued: Vec<(Scope, bool)>,
    /// Roots it has left, with whether an ISB came since. Only a DSB after that ends the walks.
    left: Vec<(u64, bool)>,
}

impl Cpu {
    fn asid_mask(&self) -> u32 {
        if self.tcr & TCR_AS == 0 { 0xff } else { 0xffff }
    }

    fn asid(&self) -> u32 {
        (self.ttbr[usize::from(self.tcr & TCR_A1 != 0)] >> 48) as u32 & self.asid_mask()
    }

    fn root(&self, half: usize) -> u64 {
        root(self.ttbr[half])
    }

    fn address_bits(&self, half: usize) -> u32 {
        64 - (self.tcr >> (16 * half) & 63) as u32
    }
}

/// What is known of a root table.
struct Root {
    address: u64,
    /// The ASIDs that it was used under.
    tags: BTreeSet<u32>,
    /// What is stale of it: on which CPU, under which tag.
    stale: Vec<(usize, u32, Key)>,
}

/// What a frame that was walked as a table is for.
#[derive(Clone, Copy)]
struct Table {
    root: RootId,
    level: u8,
    /// The first address that it is for.
    va: u64,
    /// The descriptor that names it; 0 for a root.
    parent: u64,
}

/// How an access looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// Cached as the tables say: the frame.
    Cached(u64),
    /// Nothing to remember.
    Passed,
}

/// Every CPU, every table.
pub(crate) struct World {
    cpus: Vec<Cpu>,
    roots: Vec<Root>,
    current: HashMap<u64, RootId>,
    dead: BTreeSet<u64>,
    tables: HashMap<u64, Table>,
    pub(crate) timeline: Timeline,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            cpus: Vec::new(),
            roots: Vec::new(),
            current: HashMap::new(),
            dead: BTreeSet::new(),
            tables: HashMap::new(),
            timeline: Timeline::default(),
        }
    }

    fn cpu(&mut self, cpu: usize) -> &mut Cpu {
        if self.cpus.len() <= cpu {
            self.cpus.resize_with(cpu + 1, Cpu::default);
        }
        &mut self.cpus[cpu]
    }

    /// The root table at an address, in its present life.
    fn root_id(&mut self, address: u64) -> RootId {
        let next = RootId(self.roots.len() as u32);
        let id = *self.current.entry(address).or_insert(next);
        if id == next {
            self.roots.push(Root { address, tags: BTreeSet::new(), stale: Vec::new() });
        }
        id
    }

    /// An access that succeeded, or an instruction that was fetched.
    ///
    /// # Errors
    /// If the CPU may have used an entry that leads elsewhere than the tables, which allow the access.
    pub(crate) fn access(
        &mut self,
        memory: &dyn Memory,
        watch: &Watch,
        cpu: usize,
        pc: u64,
        va: u64,
    ) -> Result<Seen, Box<Alarm>> {
        let half = (va >> 55 & 1) as usize;
        let this = self.cpu(cpu);
        if !this.mmu_on {
            return Ok(Seen::Passed);
        }
        let va = if half == 0 && this.tcr & TCR_TBI0 != 0 { va << 8 >> 8 } else { va };
        let (address, asid, bits) = (this.root(half), this.asid(), this.address_bits(half));
        let hit = this.cache.leaf(asid, va);
        let id = self.root_id(address);
        if let Some(hit) = hit
            && hit.state == State::Fresh
            && hit.root == id
        {
            return Ok(Seen::Cached(hit.step.translate(va)));
        }
        let (way, leaf) = match descriptor::walk(memory, address, bits, va) {
            Walk::Found(way, leaf) => (way, leaf),
            // Somebody is taking the page away just now; until that is promised to be done it is no fault.
            Walk::Fault => return Ok(Seen::Passed),
        };
        if let Some(hit) = hit {
            if hit.step.translate(va) != leaf.translate(va) {
                return Err(self.alarm(cpu, pc, va, Wrong::Hit { entry: hit, tables: leaf, asid }));
            }
            if matches!(hit.state, State::Stale { .. }) && hit.root == id && hit.step.harm(leaf).is_some() {
                return Ok(Seen::Passed);
            }
        }
        let tag = if half == 1 || leaf.is_global() { GLOBAL } else { asid };
        self.cache_walk(cpu, pc, va, id, if half == 1 { GLOBAL } else { asid }, &way)?;
        let first = va & !(leaf.size() - 1);
        self.remember(cpu, pc, tag, Entry { va: first, step: leaf, root: id, state: State::Fresh });
        self.note_tables(watch, id, va, &way, leaf);
        Ok(Seen::Cached(leaf.translate(va)))
    }

    /// Caches the steps of a walk, unless one is cached that leads elsewhere.
    fn cache_walk(
        &mut self,
        cpu: usize,
        pc: u64,
        va: u64,
        root: RootId,
        tag: u32,
        way: &[Step],
    ) -> Result<(), Box<Alarm>> {
        for &step in way {
            let cached = self.cpus[cpu].cache.table(tag, va, step.level);
            match cached {
                Some(old) if old.step.output() != step.output() => {
                    let wrong = Wrong::Hit { entry: old, tables: step, asid: tag };
                    return Err(self.alarm(cpu, pc, va, wrong));
                }
                Some(old) if old.root == root && old.state == State::Fresh => {}
                _ => {
                    let entry = Entry { va: va & !(step.size() - 1), step, root, state: State::Fresh };
                    self.remember(cpu, pc, tag, entry);
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, cpu: usize, pc: u64, tag: u32, entry: Entry) {
        self.roots[entry.root.0 as usize].tags.insert(tag);
        self.timeline.add(cpu, pc, Event::Cached { entry, tag });
        self.cpus[cpu].cache.put(tag, entry);
    }

    /// Watches the tables of a walk.
    fn note_tables(&mut self, watch: &Watch, root: RootId, va: u64, way: &[Step], leaf: Step) {
        let mut parent = 0;
        for step in way.iter().chain([&leaf]) {
            let frame = step.place & !0xfff;
            let first = va & !((step.size() << 9) - 1);
            self.tables.insert(frame, Table { root, level: step.level, va: first, parent });
            watch.add(frame);
            parent = step.place;
        }
    }

    /// A store to memory that may be a table.
    pub(crate) fn store(&mut self, memory: &dyn Memory, watch: &Watch, cpu: usize, pc: u64, place: u64, len: u64) {
        for place in (place & !7..place + len).step_by(8) {
            let frame = place & !0xfff;
            let (Some(&table), Some(bits)) = (self.tables.get(&frame), memory.read(place)) else { continue };
            let step = Step { place, level: table.level, bits };
            if !self.changed(cpu, pc, table, step) {
                self.tables.remove(&frame);
                watch.remove(frame);
            }
        }
    }

    /// A descriptor was written. Says whether anything is cached that came from its table.
    fn changed(&mut self, cpu: usize, pc: u64, table: Table, new: Step) -> bool {
        let va = table.va + new.place % 4096 / 8 * new.size();
        let mut tags: Vec<u32> = self.roots[table.root.0 as usize].tags.iter().copied().collect();
        tags.extend(Some(GLOBAL).filter(|global| !tags.contains(global)));
        let (mut used, mut worst, mut stale) = (false, None, Vec::new());
        for (index, other) in self.cpus.iter_mut().enumerate() {
            for &tag in &tags {
                for entry in other.cache.within(tag, va, new.size()).filter(|entry| entry.root == table.root) {
                    let harm = match entry.step.place == new.place {
                        true if entry.step.bits == new.bits => {
                            entry.state = State::Fresh;
                            continue;
                        }
                        true => entry.step.harm(new),
                        false => match below(&self.tables, entry.step.place, new.place) {
                            Some(frame) if new.is_table() && new.output() == frame => None,
                            Some(_) if new.is_table() => Some(Harm::Moved),
                            Some(_) => Some(Harm::Unmapped),
                            None => continue,
                        },
                    };
                    let overdue = entry.is_overdue();
                    entry.state = harm.map_or(State::Narrow, |harm| State::Stale { harm, overdue });
                    worst = worst.or(harm);
                    stale.extend(harm.map(|_| (index, tag, entry.key())));
                }
                let size = new.size() << 9;
                used |= other.cache.within(tag, table.va, size).any(|entry| entry.root == table.root);
            }
        }
        self.roots[table.root.0 as usize].stale.append(&mut stale);
        if used {
            self.timeline.add(cpu, pc, Event::Changed { va, step: new, root: table.root, harm: worst });
        }
        used
    }

    /// A TLBI. It counts when a DSB has completed it.
    pub(crate) fn invalidate(&mut self, cpu: usize, pc: u64, what: What, broadcast: bool, operand: u64) {
        let this = self.cpu(cpu);
        let scope = Scope::new(what, operand, this.asid_mask());
        this.issued.push((scope, broadcast));
        self.timeline.add(cpu, pc, Event::Issued { scope, broadcast });
    }

    /// A DSB. Says which CPUs lost entries: none, this one, or all.
    pub(crate) fn complete(&mut self, cpu: usize, pc: u64, barrier: Barrier) -> Lost {
        let this = self.cpu(cpu);
        if !barrier.full {
            return Lost::Nothing;
        }
        this.left.retain(|(_, synchronised)| !synchronised);
        let done: Vec<_> = this.issued.extract_if(.., |(_, broadcast)| barrier.shared || !*broadcast).collect();
        let mut lost = Lost::Nothing;
        for (scope, broadcast) in &done {
            if *broadcast {
                self.cpus.iter_mut().for_each(|other| other.cache.invalidate(scope));
                lost = Lost::Everywhere;
            } else {
                self.cpus[cpu].cache.invalidate(scope);
                lost = if lost == Lost::Nothing { Lost::Here } else { lost };
            }
        }
        if !done.is_empty() {
            self.timeline.add(cpu, pc, Event::Completed);
        }
        lost
    }

    /// An ISB, or another event that synchronises the context.
    pub(crate) fn synchronise(&mut self, cpu: usize) {
        self.cpu(cpu).left.iter_mut().for_each(|(_, synchronised)| *synchronised = true);
    }

    /// MSR to TTBR0_EL1 or TTBR1_EL1.
    ///
    /// # Errors
    /// If that root is free, or something overdue is cached under the ASID that comes into force.
    pub(crate) fn load(&mut self, cpu: usize, pc: u64, half: usize, value: u64) -> Result<(), Box<Alarm>> {
        let this = self.cpu(cpu);
        let (old, new) = (this.root(half), root(value));
        this.ttbr[half] = value;
        if old != new && old != 0 {
            this.left.push((old, false));
        }
        let asid = this.asid();
        let overdue = this.cache.overdue(asid);
        self.timeline.add(cpu, pc, Event::Loaded { half, root: new, asid });
        if self.dead.contains(&new) {
            return Err(self.alarm(cpu, pc, 0, Wrong::FreedRootLoaded { root: new }));
        }
        match overdue {
            Some(entry) => Err(self.alarm(cpu, pc, entry.va, Wrong::Overdue { entry, asid, holder: cpu })),
            None => Ok(()),
        }
    }

    /// MSR to TCR_EL1.
    pub(crate) fn configure(&mut self, cpu: usize, tcr: u64) {
        self.cpu(cpu).tcr = tcr;
    }

    /// MSR to SCTLR_EL1.
    pub(crate) fn switch_mmu(&mut self, cpu: usize, sctlr: u64) {
        self.cpu(cpu).mmu_on = sctlr & SCTLR_M != 0;
    }

    /// The CPU is switched off. What it has cached stays: no reset is promised to clear a TLB.
    pub(crate) fn switch_off(&mut self, cpu: usize, pc: u64) {
        let this = self.cpu(cpu);
        this.mmu_on = false;
        this.ttbr = [0; 2];
        this.left.clear();
        self.timeline.add(cpu, pc, Event::Off);
    }

    /// The kernel says: a root table begins to live.
    pub(crate) fn made(&mut self, cpu: usize, pc: u64, address: u64) {
        self.dead.remove(&address);
        self.current.remove(&address);
        self.root_id(address);
        self.timeline.add(cpu, pc, Event::Made { root: address });
    }

    /// The kernel says: nothing can be used any more that the tables below this root do not say.
    ///
    /// # Errors
    /// If a CPU that has it loaded could.
    pub(crate) fn promised(&mut self, cpu: usize, pc: u64, address: u64) -> Result<(), Box<Alarm>> {
        let id = self.root_id(address);
        self.timeline.add(cpu, pc, Event::Promised { root: address });
        for (holder, tag, key) in std::mem::take(&mut self.roots[id.0 as usize].stale) {
            let other = &mut self.cpus[holder];
            let Some(mut entry) = other.cache.get(tag, key).filter(|entry| entry.root == id) else { continue };
            let State::Stale { harm, .. } = entry.state else { continue };
            if tag == GLOBAL || other.mmu_on && other.asid() == tag {
                return Err(self.alarm(cpu, pc, entry.va, Wrong::Overdue { entry, asid: tag, holder }));
            }
            // Out of reach; it must not come into reach again.
            entry.state = State::Stale { harm, overdue: true };
            other.cache.put(tag, entry);
        }
        Ok(())
    }

    /// The kernel says: this root table is freed.
    ///
    /// # Errors
    /// If a CPU has it loaded, or may still walk it.
    pub(crate) fn freed(&mut self, watch: &Watch, cpu: usize, pc: u64, address: u64) -> Result<(), Box<Alarm>> {
        self.timeline.add(cpu, pc, Event::Freed { root: address });
        self.dead.insert(address);
        self.bury(watch, address);
        let holds = |other: &Cpu| other.mmu_on && other.root(0) == address;
        let walks = |other: &Cpu| other.mmu_on && other.left.iter().any(|(left, _)| *left == address);
        if let Some(holder) = self.cpus.iter().position(holds) {
            return Err(self.alarm(cpu, pc, 0, Wrong::FreedRootInUse { root: address, holder }));
        }
        match self.cpus.iter().position(walks) {
            Some(holder) => Err(self.alarm(cpu, pc, 0, Wrong::FreedRootWalked { root: address, holder })),
            None => Ok(()),
        }
    }

    /// What is still cached of a freed root must not come into reach again, whatever its frames are used for now.
    fn bury(&mut self, watch: &Watch, address: u64) {
        let id = self.root_id(address);
        let gone = self.tables.extract_if(|_, table| table.root == id);
        gone.for_each(|(frame, _)| watch.remove(frame));
        for cpu in &mut self.cpus {
            for &tag in &self.roots[id.0 as usize].tags {
                for entry in cpu.cache.within(tag, 0, 1 << 55).filter(|entry| entry.root == id) {
                    entry.state = State::Stale { harm: Harm::Unmapped, overdue: true };
                }
            }
        }
    }

    fn alarm(&self, cpu: usize, pc: u64, va: u64, wrong: Wrong) -> Box<Alarm> {
        let (root, tag) = match wrong {
            Wrong::Hit { entry, asid, .. } | Wrong::Overdue { entry, asid, .. } => {
                (self.roots[entry.root.0 as usize].address, Some(asid))
            }
            Wrong::FreedRootLoaded { root }
            | Wrong::FreedRootInUse { root, .. }
            | Wrong::FreedRootWalked { root, .. } => (root, None),
        };
        let id = self.current.get(&root).copied();
        Box::new(Alarm { cpu, pc, va, wrong, root, lines: self.timeline.about(va, id, root, tag) })
    }
}

/// The table that lies just below the descriptor at `place` on the way down to the one at `leaf`; None if it is not on it.
fn below(tables: &HashMap<u64, Table>, leaf: u64, place: u64) -> Option<u64> {
    let mut frame = leaf & !0xfff;
    loop {
        let parent = tables.get(&frame)?.parent;
        match parent {
            0 => return None,
            _ if parent == place => return Some(frame),
            _ => frame = parent & !0xfff,
        }
    }
}

/// Whose entries were removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    Nothing,
    Here,
    Everywhere,
}
