//! The interrupt controller: GICv3 or GICv2, whichever the device tree names.
//!
//! This folder is the only place that names the `arm_gic` crate.

mod v2;
mod v3;

use mm::{CpuId, CpuSet};
use spin::once::Once;

use super::interrupt;
use crate::platform::{self, Gic as Description};
use crate::sync::Relax;

/// SGIs 0 to 15; above are the interrupts of devices.
pub const SGI_COUNT: u32 = 16;

enum Gic {
    V2(v2::Gic),
    V3(v3::Gic),
}

/// Set by CPU 0 before it starts another; read by all.
static GIC: Once<Gic, Relax> = Once::new();

fn gic() -> &'static Gic {
    GIC.get().expect("the interrupt controller is set up before the first interrupt")
}

/// What kind of controller it is.
pub fn name() -> &'static str {
    match gic() {
        Gic::V2(_) => "GICv2",
        Gic::V3(_) => "GICv3",
    }
}

/// Sets up the controller and this CPU's part of it. CPU 0 calls it once.
pub fn init() {
    GIC.call_once(|| match &platform::get().gic {
        Description::V2 { distributor, cpu_interface } => Gic::V2(v2::Gic::new(*distributor, *cpu_interface)),
        Description::V3 { distributor, redistributors } => Gic::V3(v3::Gic::new(*distributor, redistributors)),
    });
    init_cpu();
}

/// Sets up this CPU's part: its SGIs are enabled afterwards, its PPIs are not.
pub fn init_cpu() {
    match gic() {
        Gic::V2(gic) => gic.init_cpu(),
        Gic::V3(gic) => gic.init_cpu(),
    }
}

/// Enables an interrupt: a PPI on this CPU, an SPI for this CPU.
///
/// Its handler must be [registered](interrupt::register).
pub fn enable(intid: u32) {
    match gic() {
        Gic::V2(gic) => gic.enable(intid),
        Gic::V3(gic) => gic.enable(intid),
    }
}

/// Interrupts the CPUs of a set with an SGI, this one too if it is in the set.
///
/// Whatever this CPU stored before is visible to their handlers. Takes no lock.
pub fn send_sgi(sgi: u32, targets: &CpuSet) {
    debug_assert!(sgi < SGI_COUNT);
    match gic() {
        Gic::V2(gic) => gic.send_sgi(sgi, targets),
        Gic::V3(gic) => gic.send_sgi(sgi, targets),
    }
}

/// Interrupts one CPU with an SGI, as [`send_sgi`] interrupts several.
#[inline]
pub fn send_sgi_to(sgi: u32, target: CpuId) {
    debug_assert!(sgi < SGI_COUNT);
    match gic() {
        Gic::V2(gic) => gic.send_sgi_to(sgi, target),
        Gic::V3(gic) => gic.send_sgi_to(sgi, target),
    }
}

/// Takes one pending interrupt, if there still is one, and calls its handler.
///
/// The handler runs before the interrupt is ended, so it is not interrupted by itself; an SGI sent
/// meanwhile becomes pending again and is taken next.
pub fn handle_irq() {
    match gic() {
        Gic::V2(gic) => gic.take(interrupt::dispatch),
        Gic::V3(gic) => gic.take(interrupt::dispatch),
    }
}
