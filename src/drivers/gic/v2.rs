//! GICv2 (GIC-400): a memory-mapped CPU interface, at most eight CPUs.
//!
//! `arm_gic` names the registers; what is done with them is ours, because on SMP its driver acts
//! on interrupt numbers that still carry the sender, shares one `&mut` among CPUs, and programs
//! priorities and groups in a way that a GIC with Security Extensions does not bear.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use aarch64_cpu::asm::barrier;
use arm_gic::UniqueMmioPointer;
use arm_gic::gicv2::registers::{Gicc, Gicd, GicdCtlr};
use mm::{CpuId, CpuSet};
use safe_mmio::{field, field_shared};

use crate::arch::mmu;
use crate::percpu;
use crate::platform::Region;
use crate::sync::{IrqGuard, IrqLock};

const MAX_CPUS: usize = 8;
/// Above every priority that a Non-secure write can set (IHI 0048, 3.8.3), below the mask 0xff.
const PRIORITY: u8 = 0xa0;
/// INTIDs below are banked per CPU.
const FIRST_SHARED: u32 = 32;
/// IAR: the INTID is in bits 9:0; for an SGI, bits 12:10 are the CPU interface that sent it.
const INTID_MASK: u32 = 0x3ff;
/// INTIDs from here on mean that nothing was acknowledged.
const FIRST_SPECIAL: u32 = 1020;

pub(super) struct Gic {
    distributor: IrqLock<Distributor>,
    /// SGIR. Apart from the lock: one store sends an SGI, and there is nothing to read and modify.
    sgir: NonNull<u32>,
    /// The CPU interface. Each CPU reaches its own at this address.
    interface: NonNull<Gicc>,
    /// The interface of each CPU, as the bit that SGIR and ITARGETSR want. 0: not online yet.
    interface_bits: [AtomicU8; MAX_CPUS],
}

// SAFETY: the pointers are to device registers, mapped for every CPU and for ever.
unsafe impl Send for Gic {}
// SAFETY: the distributor is behind its lock, SGIR is only stored to, and the interface is banked.
unsafe impl Sync for Gic {}

impl Gic {
    pub(super) fn new(distributor: Region, cpu_interface: Region) -> Self {
        let registers = map::<Gicd>(distributor);
        // SAFETY: the device tree says that a distributor is there and `map` made it device memory.
        let sgir = unsafe { &raw mut (*registers.as_ptr()).sgir };
        // SAFETY: as above. This is the only pointer to the registers but SGIR's, and SGIR is not
        // reached through this one.
        let mut distributor = Distributor(unsafe { UniqueMmioPointer::new(registers) });
        distributor.turn_on();
        Self {
            distributor: IrqLock::new(distributor),
            sgir: NonNull::new(sgir.cast()).expect("a field of a mapped device"),
            interface: map(cpu_interface),
            interface_bits: [const { AtomicU8::new(0) }; MAX_CPUS],
        }
    }

    pub(super) fn init_cpu(&self) {
        let cpu = percpu::cpu_id();
        assert!(
            cpu < MAX_CPUS,
            "GICv2 has no CPU {cpu}: it serves at most {MAX_CPUS}; boot with fewer, or with a GICv3"
        );
        let mut distributor = self.distributor.lock();
        distributor.forget(0);
        (0..FIRST_SHARED).for_each(|intid| distributor.set_priority(intid, PRIORITY));
        (0..super::SGI_COUNT).for_each(|sgi| distributor.enable(sgi));
        // The target of a private interrupt reads as this CPU's interface; on a uniprocessor as 0.
        let own = (0..FIRST_SHARED).map(|intid| distributor.target(intid)).find(|&bit| bit != 0);
        drop(distributor);
        self.with_interface(|mut interface| {
            field!(interface, pmr).write(0xff);
            field!(interface, ctlr).write(1);
        });
        // Release: pairs with the Acquire in `interface_bit`; the interface is ready when its bit shows.
        self.interface_bits[cpu].store(own.unwrap_or(1), Ordering::Release);
    }

    pub(super) fn enable(&self, intid: u32) {
        let mut distributor = self.distributor.lock();
        if intid >= FIRST_SHARED {
            // Relaxed: this CPU stored it.
            let own = self.interface_bits[percpu::cpu_id()].load(Ordering::Relaxed);
            distributor.set_target(intid, own);
            distributor.set_priority(intid, PRIORITY);
        }
        distributor.enable(intid);
    }

    /// One register write reaches all targets.
    pub(super) fn send_sgi(&self, sgi: u32, targets: &CpuSet) {
        self.send(sgi, targets.iter().fold(0, |list, cpu| list | self.interface_bit(cpu)));
    }

    pub(super) fn send_sgi_to(&self, sgi: u32, target: CpuId) {
        self.send(sgi, self.interface_bit(target));
    }

    fn interface_bit(&self, cpu: CpuId) -> u8 {
        // Acquire: pairs with the Release in `init_cpu`.
        self.interface_bits[cpu.index()].load(Ordering::Acquire)
    }

    fn send(&self, sgi: u32, list: u8) {
        // What this CPU stored is visible before the SGI arrives.
        barrier::dsb(barrier::ISHST);
        // SAFETY: SGIR is a mapped device register that one 32-bit store writes whole; stores of
        // several CPUs do not disturb each other (IHI 0048, 4.3.15).
        unsafe { self.sgir.write_volatile(u32::from(list) << 16 | sgi) };
    }

    pub(super) fn take(&self, dispatch: fn(u32)) {
        let acknowledged = self.with_interface(|mut interface| field!(interface, iar).read());
        let intid = acknowledged & INTID_MASK;
        if intid >= FIRST_SPECIAL {
            return;
        }
        // The handler must see what the sender of an SGI stored.
        barrier::dsb(barrier::SY);
        dispatch(intid);
        barrier::dsb(barrier::SY);
        // EOIR wants the value that IAR gave, the sender's bits included.
        self.with_interface(|mut interface| field!(interface, eoir).write(acknowledged));
    }

    fn with_interface<R>(&self, work: impl FnOnce(UniqueMmioPointer<'_, Gicc>) -> R) -> R {
        let _irqs_masked = IrqGuard::new();
        // SAFETY: mapped device registers, banked: at this address a CPU finds its own interface,
        // and with interrupts masked nothing else on this CPU reaches for it meanwhile.
        work(unsafe { UniqueMmioPointer::new(self.interface) })
    }
}

fn map<T>(region: Region) -> NonNull<T> {
    NonNull::new(mmu::map_device(region.base, region.len)).expect("mappings are not at 0").cast()
}

/// The registers that all CPUs share, and those that are banked per CPU at the same addresses.
struct Distributor(UniqueMmioPointer<'static, Gicd>);

impl Distributor {
    fn turn_on(&mut self) {
        // Word 0 is each CPU's own.
        let words = field_shared!(self.0, typer).read().num_irqs() as usize / 32;
        (1..words).for_each(|word| self.forget(word));
        // Bit 0 enables forwarding in the only view there is, and in the Non-secure view of a GIC
        // with Security Extensions, where bit 1 would be ignored (IHI 0048, 4.3.1).
        field!(self.0, ctlr).write(GicdCtlr::EnableGrp0);
    }

    fn enable(&mut self, intid: u32) {
        let mut words = field!(self.0, isenabler);
        words.get(intid as usize / 32).expect("an INTID below 1020").write(1 << (intid % 32));
    }

    /// Disables 32 interrupts and drops what firmware or an earlier kernel left enabled, pending or active: an active
    /// one would keep out all others of its priority.
    fn forget(&mut self, word: usize) {
        field!(self.0, icenabler).get(word).expect("the distributor has so many").write(u32::MAX);
        field!(self.0, icpendr).get(word).expect("as above").write(u32::MAX);
        field!(self.0, icactiver).get(word).expect("as above").write(u32::MAX);
    }

    /// IPRIORITYR is byte-accessible (IHI 0048, 4.3.11); a word write would reset three neighbours.
    fn set_priority(&mut self, intid: u32, priority: u8) {
        let bytes = field!(self.0, ipriorityr).ptr_mut().cast::<u8>();
        // SAFETY: one byte of the mapped register array, which has one for each INTID below 1024.
        unsafe { bytes.add(intid as usize).write_volatile(priority) };
    }

    /// ITARGETSR is byte-accessible (IHI 0048, 4.3.12).
    fn set_target(&mut self, intid: u32, interface_bits: u8) {
        let bytes = field!(self.0, itargetsr).ptr_mut().cast::<u8>();
        // SAFETY: as in `set_priority`.
        unsafe { bytes.add(intid as usize).write_volatile(interface_bits) };
    }

    fn target(&mut self, intid: u32) -> u8 {
        let bytes = field!(self.0, itargetsr).ptr_mut().cast::<u8>();
        // SAFETY: as in `set_priority`; reading has no effect.
        unsafe { bytes.add(intid as usize).read_volatile() }
    }
}
