//! GICv3 and later: affinity routing, a redistributor per CPU, system registers as CPU interface.

use core::arch::asm;
use core::ptr::NonNull;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{
    GicCpuInterface, GicDistributor, GicRedistributor, GicRedistributorIterator, SgiTarget, SgiTargetGroup,
};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use mm::{CpuId, CpuSet};

use crate::arch::mmu;
use crate::percpu;
use crate::platform::{MPIDR_AFFINITY, Region, Table};
use crate::sync::IrqLock;

/// The least a redistributor takes: one frame for control, one for SGIs and PPIs.
const REDISTRIBUTOR_LEN: u64 = 0x2_0000;

pub(super) struct Gic {
    /// The distributor, and the redistributors while they are configured.
    shared: IrqLock<Shared>,
}

struct Shared {
    distributor: GicDistributor<'static>,
    /// Where each stretch of redistributors is mapped, and how many it can hold.
    redistributors: Table<Option<(NonNull<GicrSgi>, usize)>, 8>,
}

// SAFETY: the pointers are to device registers, mapped for every CPU and for ever.
unsafe impl Send for Shared {}

impl Gic {
    pub(super) fn new(distributor: Region, stretches: &[Region]) -> Self {
        let registers = map::<Gicd>(distributor);
        // SAFETY: the device tree says that the distributor is there, `map` made it device memory,
        // and this is the only pointer to it.
        let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(registers) });
        distributor.configure_default_settings();
        let mut redistributors = Table::new();
        for stretch in stretches {
            let room = (stretch.len / REDISTRIBUTOR_LEN) as usize;
            redistributors.push(Some((map(*stretch), room))).expect("as many as the platform lists");
        }
        Self { shared: IrqLock::new(Shared { distributor, redistributors }) }
    }

    pub(super) fn init_cpu(&self) {
        let affinity = own_affinity();
        assert!(
            affinity & 0xff < 16,
            "CPU {affinity:#x} cannot be sent SGIs: its Aff0 is above 15, which needs the range selector"
        );
        GicCpuInterface::enable_system_register_el1();
        // ICC_CTLR_EL1: the end of an interrupt also deactivates it (EOImode 0), whatever ran here before thought of that.
        // SAFETY: chooses how this CPU's interface ends interrupts, and `take` relies on this way.
        unsafe { asm!("msr S3_0_C12_C12_4, xzr", options(nomem, nostack, preserves_flags)) };
        self.with_own_redistributor(|redistributor| {
            // An error means that firmware woke it already.
            let _ = redistributor.mark_core_awake();
            redistributor.configure_default_settings();
            for sgi in 0..super::SGI_COUNT {
                redistributor.enable_interrupt(IntId::sgi(sgi), true).expect("SGIs 0 to 15 exist");
            }
        });
        GicCpuInterface::set_priority_mask(0xff);
        GicCpuInterface::enable_group1(true);
        barrier::isb(barrier::SY);
    }

    pub(super) fn enable(&self, intid: u32) {
        let id = IntId::try_from(intid).expect("an INTID from the device tree");
        if id.is_private() {
            self.with_own_redistributor(|own| own.enable_interrupt(id, true)).expect("a PPI of this CPU");
            return;
        }
        let distributor = &mut self.shared.lock().distributor;
        distributor.set_routing(id, Some(own_affinity())).expect("an SPI of this distributor");
        distributor.enable_interrupt(id, true).expect("an SPI of this distributor");
    }

    /// One register write per cluster of CPUs that share Aff3, Aff2 and Aff1.
    pub(super) fn send_sgi(&self, sgi: u32, targets: &CpuSet) {
        // The targets read what this CPU stored: Normal memory first, then the SGI. The register
        // write is no memory access, so only a DSB orders it (GIC specification IHI 0069, 12.1).
        barrier::dsb(barrier::ISHST);
        let mut pending: Option<(u64, u16)> = None;
        for cpu in targets.iter() {
            let (cluster, bit) = place_of(cpu);
            pending = match pending {
                Some((same, list)) if same == cluster => Some((cluster, list | bit)),
                other => {
                    other.inspect(|&(cluster, list)| send_to_cluster(sgi, cluster, list));
                    Some((cluster, bit))
                }
            };
        }
        pending.inspect(|&(cluster, list)| send_to_cluster(sgi, cluster, list));
        barrier::isb(barrier::SY);
    }

    pub(super) fn send_sgi_to(&self, sgi: u32, target: CpuId) {
        // As above.
        barrier::dsb(barrier::ISHST);
        let (cluster, bit) = place_of(target);
        send_to_cluster(sgi, cluster, bit);
        barrier::isb(barrier::SY);
    }

    pub(super) fn take(&self, dispatch: fn(u32)) {
        let Some(id) = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1) else {
            return;
        };
        // The handler must see what the sender of an SGI stored, and must not touch a device before
        // the acknowledgement is done.
        barrier::dsb(barrier::SY);
        dispatch(id.raw_value());
        barrier::dsb(barrier::SY);
        GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
        barrier::isb(barrier::SY);
    }

    fn with_own_redistributor<R>(&self, work: impl FnOnce(&mut GicRedistributor<'static>) -> R) -> R {
        let own = own_affinity();
        let shared = self.shared.lock();
        for &(base, room) in shared.redistributors.iter().flatten() {
            // SAFETY: the device tree says that redistributors are there, `map` made them device
            // memory, `take(room)` ends inside it, and the lock keeps other CPUs' iterators away.
            let stretch = unsafe { GicRedistributorIterator::new(base) };
            let stretch = stretch.expect("all redistributors of a stretch have the same size");
            for mut redistributor in stretch.take(room) {
                if redistributor.typer().core_mpidr() == own {
                    return work(&mut redistributor);
                }
            }
        }
        panic!(
            "no GICv3 redistributor for CPU {own:#x}; the device tree's reg of the interrupt controller is too short"
        )
    }
}

fn map<T>(region: Region) -> NonNull<T> {
    NonNull::new(mmu::map_device(region.base, region.len)).expect("mappings are not at 0").cast()
}

fn own_affinity() -> u64 {
    MPIDR_EL1.get() & MPIDR_AFFINITY
}

/// A CPU's cluster, and its bit in the cluster's list of targets.
fn place_of(cpu: CpuId) -> (u64, u16) {
    let affinity = percpu::of(cpu.index()).mpidr & MPIDR_AFFINITY;
    (affinity >> 8, 1 << (affinity & 0xf))
}

fn send_to_cluster(sgi: u32, cluster: u64, target_list: u16) {
    let target = SgiTarget::List {
        affinity3: (cluster >> 24) as u8,
        affinity2: (cluster >> 8) as u8,
        affinity1: cluster as u8,
        target_list,
    };
    let sent = GicCpuInterface::send_sgi(IntId::sgi(sgi), target, SgiTargetGroup::CurrentGroup1);
    sent.expect("SGIs 0 to 15 exist");
}
