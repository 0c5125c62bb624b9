//! What must hold after every step, whoever made it.
//!
//! The names I1 to I16 are those of the project's list of invariants; each is written out where it
//! is checked.

#![expect(unsafe_code, reason = "it looks at each `Mm` from its making to its free, whatever handles there are")]

use std::hash::{Hash, Hasher};
use std::ptr;

use crate::pte::LEAF_LEVEL;
use crate::{Asid, CpuId, CpuSet, FlushMode, Frame, Mm, PageRange, System};

use super::hardware::{Cached, Cpu, Loaded, look_up};
use super::memory::Memory;
use super::user::Promised;
use super::{Lying, State, World};
use crate::Page;

/// An address space, by order of creation.
pub type MmNumber = usize;

/// What the oracle knows of one address space.
struct Record {
    /// Exposed address of the `Mm`; to be followed only while it lives.
    address: usize,
    root: Frame,
    generation: u32,
    /// The number its entries may be cached under: the last one it had.
    asid: Option<Asid>,
    had_no_users: bool,
    holders: CpuSet,
    freed: bool,
    promised: Promised,
}

impl Record {
    fn pointer(&self) -> *const Mm<Lying> {
        ptr::with_exposed_provenance(self.address)
    }

    /// The `Mm`, if it is not freed.
    fn mm(&self, memory: &Memory) -> Option<&'static Mm<Lying>> {
        let alive = !self.freed && memory.is_still(self.root, self.generation);
        // SAFETY: the mm layer frees an `Mm`'s root before the struct, and nobody runs between that
        // and this look: while the root is not freed, the struct lives.
        alive.then(|| unsafe { &*self.pointer() })
    }
}

/// What the machine remembers to judge by.
#[derive(Default)]
pub struct Oracle {
    records: Vec<Record>,
    /// Pages whose entries are being changed: both what was and what comes may be seen.
    changing: Vec<(MmNumber, PageRange)>,
    /// Pages that walkers are interested in.
    pages: Vec<Page>,
    reported: Option<String>,
    looks_away: bool,
}

impl Hash for Oracle {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for record in &self.records {
            (record.freed, record.had_no_users, record.asid, record.holders.words()).hash(hasher);
            record.promised.hash(hasher);
        }
        (&self.changing, &self.pages, &self.reported).hash(hasher);
    }
}

impl Oracle {
    /// A new address space is to be watched.
    pub fn watch(&mut self, memory: &Memory, mm: &Mm<Lying>) -> MmNumber {
        self.records.push(Record {
            address: ptr::from_ref(mm).expose_provenance(),
            root: mm.root(),
            generation: memory.generation(mm.root()),
            asid: None,
            had_no_users: false,
            holders: CpuSet::EMPTY,
            freed: false,
            promised: Promised::default(),
        });
        self.records.len() - 1
    }

    /// Walkers may look these pages up, whatever is there.
    pub fn attend_to(&mut self, pages: impl Iterator<Item = Page>) {
        for page in pages {
            if !self.pages.contains(&page) {
                self.pages.push(page);
            }
        }
    }

    pub fn pages(&self) -> Vec<Page> {
        self.pages.clone()
    }

    /// The living address space with this root.
    pub fn number_of(&self, root: Frame) -> Option<MmNumber> {
        self.records.iter().position(|record| !record.freed && record.root == root)
    }

    /// What the program in this address space was promised.
    pub(super) fn promised(&mut self, number: MmNumber) -> &mut Promised {
        &mut self.records[number].promised
    }

    /// How many address spaces live.
    pub fn living(&self) -> usize {
        self.records.iter().filter(|record| !record.freed).count()
    }

    /// Every living address space.
    pub fn each_living(&self, memory: &Memory) -> Vec<&'static Mm<Lying>> {
        self.records.iter().filter_map(|record| record.mm(memory)).collect()
    }

    /// From now on these entries change, until [`Oracle::changed`].
    pub fn change(&mut self, mm: MmNumber, pages: PageRange) {
        self.changing.push((mm, pages));
    }

    /// The call that changed them has returned: what was there before is gone everywhere.
    pub fn changed(&mut self, mm: MmNumber, pages: &PageRange) {
        let index = self.changing.iter().position(|change| *change == (mm, pages.clone()));
        self.changing.swap_remove(index.expect("a change ends once"));
    }

    pub fn is_changing(&self, mm: MmNumber, page: Page) -> bool {
        self.changing.iter().any(|(whose, pages)| *whose == mm && pages.contains(&page))
    }

    /// The test breaks the rules on purpose.
    pub fn look_away(&mut self) {
        self.looks_away = true;
    }

    /// A walker met something impossible.
    pub(super) fn report(&mut self, what: String) {
        self.reported.get_or_insert(what);
    }
}

/// Looks at everything.
pub(super) fn judge(state: &mut State, world: &World) -> Result<(), String> {
    if state.oracle.looks_away {
        return Ok(());
    }
    if let Some(report) = state.oracle.reported.take() {
        return Err(report);
    }
    let (Some(system), Some(running)) = (world.system.get(), state.running) else { return Ok(()) };
    let actor = state.threads[running].cpu;
    let asks_holders = system.config.flush != FlushMode::Broadcast;
    (0..state.oracle.records.len()).try_for_each(|number| lifetime(state, number, actor, asks_holders))?;
    for cpu in 0..state.cpus.len() {
        roots(state, system, cpu)?;
        state.cpus[cpu].cached.iter().try_for_each(|entry| cached(state, cpu, entry))?;
    }
    asids(&state.cpus, system.init_mm().root())
}

fn lifetime(state: &mut State, number: MmNumber, actor: usize, asks_holders: bool) -> Result<(), String> {
    let record = &mut state.oracle.records[number];
    if record.freed {
        return Ok(());
    }
    let Some(mm) = record.mm(&state.memory) else {
        record.freed = true;
        return Ok(());
    };
    record.asid = mm.context().asid();
    let users = mm.users();
    if record.had_no_users && users != 0 {
        return Err(format!("I4: mm {number} had no users and now has {users}"));
    }
    record.had_no_users = users == 0;
    if users > 0 && mm.count() == 0 {
        return Err(format!("I3: mm {number} has {users} users but no count"));
    }
    let holders = mm.holders().snapshot();
    for cpu in record.holders.iter().filter(|&cpu| !holders.contains(cpu)) {
        if cpu.index() != actor {
            return Err(format!("I7: CPU {actor} cleared CPU {}'s bit in the mask of mm {number}", cpu.index()));
        }
        let roots = state.cpus[actor].roots();
        if roots.iter().any(|loaded| loaded.ttbr.root() == record.root) {
            return Err(format!("I7: CPU {actor} cleared its bit of mm {number} and may still walk its tables"));
        }
        let has = |entry: &Cached| entry.origin == Some(number) && Some(entry.asid) == record.asid;
        if asks_holders && state.cpus[actor].cached.iter().any(has) {
            return Err(format!("rule 2: CPU {actor} cleared its bit of mm {number} and has entries of it"));
        }
    }
    record.holders = holders;
    Ok(())
}

/// TTBR0, what lingers of it, and the slot.
fn roots(state: &State, system: &System<Lying>, cpu: usize) -> Result<(), String> {
    let hardware = &state.cpus[cpu];
    for loaded in hardware.roots() {
        let root = loaded.ttbr.root();
        if !state.memory.is_still(root, loaded.generation) {
            return Err(format!("I1: CPU {cpu} may walk the freed root {root:?} ({})", kind(hardware, loaded)));
        }
    }
    let slot = &system.cpus()[cpu];
    let named = |loaded: Loaded| match state.oracle.number_of(loaded.ttbr.root()) {
        Some(number) => slot.has_loaded(state.oracle.records[number].pointer()),
        None => slot.has_loaded(system.init_mm()),
    };
    if let Some(left) = hardware.lingering().find(|&left| left != hardware.loaded() && !named(left)) {
        return Err(format!("I2: CPU {cpu}'s slot does not name {:?}, whose walks are not over", left.ttbr.root()));
    }
    if !state.cores[cpu].masked && !named(hardware.loaded()) {
        return Err(format!("P3: CPU {cpu} takes interrupts while slot and TTBR0 disagree"));
    }
    for loaded in hardware.roots() {
        let Some(number) = state.oracle.number_of(loaded.ttbr.root()) else { continue };
        if !state.oracle.records[number].holders.contains(CpuId(cpu as u16)) {
            return Err(format!("I6: CPU {cpu} may walk mm {number} but is not in its mask"));
        }
    }
    Ok(())
}

fn kind(cpu: &Cpu, loaded: Loaded) -> &'static str {
    if cpu.loaded() == loaded { "in TTBR0" } else { "left, but no DSB yet" }
}

/// An entry of a TLB or walk cache.
fn cached(state: &State, cpu: usize, entry: &Cached) -> Result<(), String> {
    let hardware = &state.cpus[cpu];
    let owner = entry.origin.map(|number| &state.oracle.records[number]);
    let frame = entry.descriptor.frame();
    // An `Mm` that got another number in a later generation may leave entries under its old one.
    // Its flushes miss them; they are out of reach until this CPU flushes itself, before it next
    // takes a number of the new generation.
    // So are all entries of a CPU that is not online, under whatever ASID it does not run: it must forget them before
    // it comes back.
    let current = state.cores[cpu].online && owner.is_some_and(|owner| owner.asid == Some(entry.asid));
    let reachable = hardware.can_use(entry.asid) || current;
    if reachable && !state.memory.is_still(frame, entry.generation) {
        return Err(format!("I16: CPU {cpu} caches the freed {frame:?}: {}", name(entry)));
    }
    if hardware.ttbr().asid() != entry.asid {
        return Ok(());
    }
    let root = hardware.ttbr().root();
    if entry.origin != state.oracle.number_of(root) {
        return Err(format!("CPU {cpu} runs {root:?} under an ASID with another's entries: {}", name(entry)));
    }
    let changing = |number| {
        let mut changes = state.oracle.changing.iter().filter(|(whose, _)| *whose == number);
        // A table may go although the page that it was found for is not among those unmapped.
        changes.any(|(_, pages)| entry.level < LEAF_LEVEL || pages.contains(&entry.page))
    };
    let now = look_up(&state.memory, root, entry.page, entry.level);
    if !entry.descriptor.within(now) && !entry.origin.is_some_and(changing) {
        return Err(format!("CPU {cpu} can use a stale entry: {}; the table now says {now:x?}", name(entry)));
    }
    Ok(())
}

fn name(entry: &Cached) -> String {
    let owner = entry.origin.map_or_else(|| "init_mm".to_string(), |number| format!("mm {number}"));
    let (asid, page, level, bits) = (entry.asid.0, entry.page, entry.level, entry.descriptor);
    format!("{owner}'s {page:?} under ASID {asid}, level {level}, {bits:x?}")
}

/// Invalidation by ASID reaches all CPUs only if they all have the `Mm` under one number, and only
/// that `Mm` (I15: SameASIDActiveTask, UniqueASIDActiveTask).
fn asids(cpus: &[Cpu], init_root: Frame) -> Result<(), String> {
    for (a, one) in cpus.iter().enumerate() {
        for (b, other) in cpus.iter().enumerate().skip(a + 1) {
            let (x, y) = (one.ttbr(), other.ttbr());
            let same_root = x.root() == y.root();
            if same_root != (x.asid() == y.asid()) {
                return Err(format!(
                    "I15: CPU {a} runs {:?} under {:?}, CPU {b} {:?} under {:?}",
                    x.root(),
                    x.asid(),
                    y.root(),
                    y.asid()
                ));
            }
            if same_root && (x.root() == init_root) != (x.asid() == Asid::INIT) {
                return Err(format!("I15: CPUs {a} and {b} run {:?} under {:?}", x.root(), x.asid()));
            }
        }
    }
    Ok(())
}
