//! The system of address spaces: what all CPUs share.

use alloc::vec::Vec;

use crate::addr::CpuId;
use crate::asid::AsidAllocator;
use crate::config::{Config, ConfigError};
use crate::frame::FrameAllocator;
use crate::lazy::{Reaper, Waiting, waiting_limit};
use crate::machine::{Hardware, Machine};
use crate::mm::Mm;
use crate::stats::{Counter, Gauge};
use crate::switch::CpuState;
use crate::sync::AtomicU64;

/// Everything the mm layer keeps, made once at boot, before the second CPU starts.
pub struct System<M: Machine> {
    /// The boot-time choices.
    pub config: Config,
    /// What the CPUs can do.
    pub hardware: Hardware,
    /// The frames that user memory and tables come from.
    pub frames: FrameAllocator<M>,
    /// `Mm`s without references that are not freed yet.
    pub dead: Gauge,
    pub(crate) asids: AsidAllocator<M>,
    /// Dead, and somebody may still have them loaded.
    pub(crate) reaper: Reaper<M>,
    /// Dead, and the last CPU has left them.
    pub(crate) left: Reaper<M>,
    /// Dead, and waiting for others (`lazy_tlb.batch=`) or for every CPU (`qsbr`).
    pub(crate) waiting: Waiting<M>,
    /// How many `Mm`s have died, under `qsbr`: what CPUs note.
    pub(crate) epoch: AtomicU64,
    init_mm: &'static Mm<M>,
    cpus: Vec<CpuState<M>>,
}

impl<M: Machine> System<M> {
    /// A system for `cpus` CPUs that can do what `hardware` says. Each CPU starts lazy on `init_mm`:
    /// its TTBR0 must hold [`System::init_mm`]'s root under ASID 0 before it first switches.
    ///
    /// # Errors
    /// If two options mean nothing together, or the ASIDs would not go round.
    ///
    /// # Panics
    /// If there is not one free frame for the reserved root.
    pub fn new(
        config: Config,
        cpus: usize,
        hardware: Hardware,
        frames: FrameAllocator<M>,
    ) -> Result<Self, ConfigError<'static>> {
        config.check()?;
        let asid_bits = config.usable_asid_bits(hardware.asid_bits, cpus)?;
        let root = frames.alloc_root().expect("no frame for init_mm's root");
        let init_mm = Mm::init(root);
        Ok(Self {
            config,
            hardware,
            frames,
            dead: Gauge::new(),
            asids: AsidAllocator::new(asid_bits),
            reaper: Reaper::new(),
            left: Reaper::new(),
            waiting: Waiting::new(waiting_limit(&config)),
            epoch: AtomicU64::new(0),
            init_mm,
            cpus: (0..cpus).map(|cpu| CpuState::new(CpuId(cpu as u16), init_mm)).collect(),
        })
    }

    /// The kernel-only address space. Never freed, never a task's own.
    pub fn init_mm(&self) -> &'static Mm<M> {
        self.init_mm
    }

    /// Every CPU's part, by number.
    pub fn cpus(&self) -> &[CpuState<M>] {
        &self.cpus
    }

    /// Dead `Mm`s that wait for others or for every CPU: how many now, the most ever, and the bound.
    pub fn waiting(&self) -> (usize, usize, usize) {
        (self.waiting.number(), self.waiting.most(), self.waiting.limit())
    }

    /// A counter, summed over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        self.cpus.iter().map(|cpu| cpu.counters.get(counter)).sum()
    }
}
