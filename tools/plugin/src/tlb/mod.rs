//! The TLB sanitizer: gives every CPU the worst TLB that the architecture allows, and stops when it would have been used
//! wrongly.
//!
//! QEMU forgets what real TLBs remember: it drops everything when the ASID changes, and takes no notice of the ASID of a
//! TLBI. So each translation that a CPU uses is remembered here under its ASID, with the steps of the walk that led to it,
//! until a TLBI of the right scope and a DSB remove it. docs/sanitizer.md says what that shows, and what it cannot.

mod alarm;
mod cache;
mod descriptor;
mod known;
#[cfg(test)]
mod tests;
mod timeline;
mod watch;
mod world;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use self::alarm::Alarm;
use self::descriptor::Memory;
use self::known::Known;
use self::timeline::Totals;
use self::watch::Watch;
use self::world::{Lost, Seen, World};
use crate::api::{self, Access, Hooks, Instruction, Tool};
use crate::decode::{Operation, Register, System};
use crate::ram::Ram;

/// The exit status after an alarm.
const ALARM: i32 = 98;
/// The exit status of a QEMU that was not started as it should be.
const USAGE: i32 = 2;
/// The marks of the kernel: HINTs that no CPU knows, with a root table's address in x0.
const MADE: u8 = 96;
const PROMISED: u8 = 97;
const FREED: u8 = 98;
/// PSCI's CPU_OFF.
const CPU_OFF: u32 = 0x8400_0002;
/// More CPUs than QEMU's boards have.
const CPUS: usize = 512;

/// The sanitizer.
pub(crate) struct Sanitizer {
    world: Mutex<World>,
    watch: Watch,
    memory: Lazily,
    cpus: Vec<Known>,
}

/// The guest's memory, which QEMU makes after it has loaded the plugin.
struct Lazily {
    base: u64,
    ram: OnceLock<Ram>,
}

impl Memory for Lazily {
    fn read(&self, address: u64) -> Option<u64> {
        let find = || {
            Ram::find(self.base).unwrap_or_else(|error| {
                api::print(&format!("lazuli plugin: {error}"));
                api::stop(USAGE)
            })
        };
        self.ram.get_or_init(find).read(address)
    }
}

impl Sanitizer {
    /// With the physical address at which the board has its memory.
    pub(crate) fn new(base: u64) -> Self {
        Self {
            world: Mutex::new(World::new()),
            watch: Watch::new(),
            memory: Lazily { base, ram: OnceLock::new() },
            cpus: (0..CPUS).map(|_| Known::new()).collect(),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An access to an address, or a fetch from it. Gives the physical address if that is known.
    fn touch(&self, cpu: usize, pc: u64, va: u64) -> Option<u64> {
        let known = &self.cpus[cpu];
        if let Some(address) = known.find(va) {
            return Some(address);
        }
        let mut world = self.world();
        // Under the lock: what changes from now on changes the epoch.
        let epoch = known.epoch(va);
        match world.access(&self.memory, &self.watch, cpu, pc, va) {
            Ok(Seen::Cached(address)) => {
                known.insert(va, epoch, address);
                Some(address)
            }
            Ok(Seen::Passed) => None,
            Err(alarm) => raise(&alarm),
        }
    }

    fn forget(&self, cpu: usize, lost: Lost) {
        match lost {
            Lost::Nothing => {}
            Lost::Here => self.cpus[cpu].forget([0, 1]),
            Lost::Everywhere => self.cpus.iter().for_each(|known| known.forget([0, 1])),
        }
    }

    fn hint(&self, cpu: usize, pc: u64, number: u8) {
        let root = api::read(Register(0));
        let mut world = self.world();
        let result = match number {
            MADE => {
                world.made(cpu, pc, root);
                self.cpus.iter().for_each(|known| known.forget([0]));
                Ok(())
            }
            PROMISED => world.promised(cpu, pc, root),
            _ => world.freed(&self.watch, cpu, pc, root),
        };
        result.unwrap_or_else(|alarm| raise(&alarm));
    }

    fn write(&self, cpu: usize, pc: u64, system: System, value: u64) {
        let mut world = self.world();
        match system {
            System::Ttbr0 => world.load(cpu, pc, 0, value).unwrap_or_else(|alarm| raise(&alarm)),
            System::Ttbr1 => world.load(cpu, pc, 1, value).unwrap_or_else(|alarm| raise(&alarm)),
            System::Tcr => world.configure(cpu, value),
            System::Sctlr => world.switch_mmu(cpu, value),
            System::Sgi1r => {}
        }
        let kernel = matches!(system, System::Ttbr1 | System::Tcr | System::Sctlr).then_some(1);
        self.cpus[cpu].forget([0].into_iter().chain(kernel));
    }
}

impl Tool for Sanitizer {
    fn translate(&self, instruction: &Instruction) -> Hooks {
        let execute = match instruction.operation {
            Some(Operation::Hint(number)) => matches!(number, MADE | PROMISED | FREED),
            Some(Operation::Msr(System::Sgi1r, _) | Operation::Dmb | Operation::Atomic | Operation::StoreExclusive) => {
                false
            }
            Some(_) => true,
            None => false,
        };
        Hooks { execute, access: true, block: true, step: false }
    }

    fn block(&self, cpu: usize, pc: u64) {
        self.touch(cpu, pc, pc);
    }

    fn access(&self, cpu: usize, pc: u64, access: Access) {
        let known = self.touch(cpu, pc, access.va);
        // Programs cannot write to tables.
        if !access.store || pc >> 63 == 0 {
            return;
        }
        let address = known.or_else(|| access.memory());
        let Some(address) = address.filter(|&address| self.watch.contains(address)) else { return };
        let mut world = self.world();
        world.store(&self.memory, &self.watch, cpu, pc, address, access.len());
        // Only entries that are in no order any more would have to be forgotten; changes are rare enough.
        self.forget(cpu, Lost::Everywhere);
    }

    fn execute(&self, cpu: usize, instruction: &Instruction) {
        let pc = instruction.pc;
        match instruction.operation {
            Some(Operation::Tlbi(tlbi, register)) => {
                self.world().invalidate(cpu, pc, tlbi.what, tlbi.broadcast, api::read(register));
            }
            Some(Operation::Dsb(barrier)) => {
                let mut world = self.world();
                let lost = world.complete(cpu, pc, barrier);
                self.forget(cpu, lost);
            }
            Some(Operation::Isb | Operation::Eret) => self.world().synchronise(cpu),
            Some(Operation::Msr(system, register)) => self.write(cpu, pc, system, api::read(register)),
            Some(Operation::Hint(number)) => self.hint(cpu, pc, number),
            Some(Operation::FirmwareCall) if api::read(Register(0)) as u32 == CPU_OFF => {
                self.world().switch_off(cpu, pc);
                self.cpus[cpu].forget([0, 1]);
            }
            _ => {}
        }
    }

    fn end(&self) {
        api::print(&summary(&self.world()));
    }
}

/// Says what was seen, so that nobody takes a sanitizer that saw nothing for one that found nothing.
fn summary(world: &World) -> String {
    let Totals { cached, changed, invalidated, promised } = world.timeline.totals;
    format!(
        "tlb sanitizer: no alarm; {cached} translations cached, {changed} table entries changed, \
         {invalidated} TLBIs, {promised} promises"
    )
}

fn raise(alarm: &Alarm) -> ! {
    api::print(&alarm.to_string());
    api::stop(ALARM)
}
