//! The nodes that the kernel has a use for, found in one walk: walking is what reading a tree costs.

use dtoolkit::fdt::{Fdt, FdtNode};

use super::memory::push;
use super::tree::{self, Place};
use super::{Error, Gic, Region, Table, UartKind};

/// Of each kind the first enabled node; where the kernel wants its registers, the first that has some.
#[derive(Default)]
pub(super) struct Found<'t> {
    pub(super) psci: Option<FdtNode<'t>>,
    pub(super) gic: Option<(FdtNode<'t>, Result<Gic, Error>)>,
    pub(super) timer: Option<FdtNode<'t>>,
    pub(super) port: Option<Port<'t>>,
    pub(super) leds: Option<FdtNode<'t>>,
    pub(super) power_manager: Option<Region>,
    pub(super) gpio: Option<Region>,
    pub(super) mailbox: Option<Region>,
}

/// A serial port that we have a driver for.
#[derive(Clone, Copy)]
pub(super) struct Port<'t> {
    pub(super) node: FdtNode<'t>,
    pub(super) kind: UartKind,
    pub(super) registers: Region,
}

impl<'t> Found<'t> {
    /// Walks the whole tree.
    pub(super) fn look(tree: Fdt<'t>) -> Self {
        let mut found = Self::default();
        tree::walk(tree, &mut |place| {
            place.node.compatible().into_iter().flatten().for_each(|name| found.note(place, name));
        });
        found
    }

    fn note(&mut self, place: &Place<'_, 't>, compatible: &str) {
        match compatible {
            "arm,psci-1.0" | "arm,psci-0.2" => self.psci = self.psci.or(Some(place.node)),
            "arm,gic-v3" if self.gic.is_none() => self.gic = Some((place.node, gic_v3(place))),
            "arm,gic-400" | "arm,cortex-a15-gic" if self.gic.is_none() => {
                self.gic = Some((place.node, gic_v2(place)));
            }
            "arm,armv8-timer" | "arm,armv7-timer" => self.timer = self.timer.or(Some(place.node)),
            "arm,pl011" | "brcm,bcm2835-aux-uart" => self.port = self.port.or_else(|| Port::at(place)),
            "gpio-leds" => self.leds = self.leds.or(Some(place.node)),
            "brcm,bcm2711-pm" | "brcm,bcm2835-pm-wdt" => {
                self.power_manager = self.power_manager.or_else(|| place.region(0));
            }
            "brcm,bcm2711-gpio" => self.gpio = self.gpio.or_else(|| place.region(0)),
            "brcm,bcm2835-mbox" => self.mailbox = self.mailbox.or_else(|| place.region(0)),
            _ => {}
        }
    }
}

impl<'t> Port<'t> {
    /// The port that is this node, if it is one.
    pub(super) fn at(place: &Place<'_, 't>) -> Option<Self> {
        let kind = place.node.compatible()?.find_map(|name| match name {
            "arm,pl011" => Some(UartKind::Pl011),
            "brcm,bcm2835-aux-uart" => Some(UartKind::Mini),
            _ => None,
        })?;
        Some(Self { node: place.node, kind, registers: place.region(0)? })
    }
}

fn gic_v3(place: &Place<'_, '_>) -> Result<Gic, Error> {
    let region = |index| place.region(index).ok_or(Error::bad("the interrupt controller", "reg"));
    let mut redistributors = Table::new();
    let count = tree::number(&place.node, "#redistributor-regions").unwrap_or(1);
    for index in 0..count as usize {
        push(&mut redistributors, region(1 + index)?, "redistributor regions")?;
    }
    Ok(Gic::V3 { distributor: region(0)?, redistributors })
}

fn gic_v2(place: &Place<'_, '_>) -> Result<Gic, Error> {
    let region = |index| place.region(index).ok_or(Error::bad("the interrupt controller", "reg"));
    Ok(Gic::V2 { distributor: region(0)?, cpu_interface: region(1)? })
}
