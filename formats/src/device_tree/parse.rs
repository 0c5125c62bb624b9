//! From the device tree to [`Platform`]: one function for each thing the kernel wants to know.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property, ToCellInt};
use mm::MAX_CPUS;

use super::memory::push;
use super::tree::{self, Place};
use super::{Conduit, Cpu, Enable, Error, Gic, MPIDR_AFFINITY, Platform, Region, Table, devices, memory};

impl<'t> Platform<'t> {
    /// Reads a whole tree.
    pub fn parse(tree: Fdt<'t>) -> Result<Self, Error> {
        let psci = psci(tree)?;
        let (gic, interrupt_cells) = gic(tree)?;
        let mut platform = Self {
            tree,
            model: tree.root().model().ok().flatten().unwrap_or("an unnamed board"),
            ram: Table::new(),
            reserved: Table::new(),
            initrd: initrd(tree)?,
            gic,
            uart: devices::uart(tree, interrupt_cells),
            timer_interrupt: timer_interrupt(tree, 2, interrupt_cells)?,
            watchdog_interrupt: timer_interrupt(tree, 1, interrupt_cells)?,
            power_manager: devices::registers(tree, &["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"]),
            gpio: devices::registers(tree, &["brcm,bcm2711-gpio"]),
            mailbox: devices::registers(tree, &["brcm,bcm2835-mbox"]),
            led: devices::led(tree),
            psci,
            cpu_count: 0,
        };
        memory::read(tree, &mut platform)?;
        for node in cpu_nodes(tree) {
            cpu(&node, psci)?;
            platform.cpu_count += 1;
        }
        match platform.cpu_count {
            0 => Err(Error::Missing("a node /cpus/cpu@N")),
            1..=MAX_CPUS => Ok(platform),
            _ => Err(Error::TooMany { what: "CPUs", most: MAX_CPUS }),
        }
    }

    /// The CPUs, in the order of the tree. Read from it anew at each call: no table of 512.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + use<'t> {
        let psci = self.psci;
        // `parse` has seen each of them succeed.
        cpu_nodes(self.tree).filter_map(move |node| cpu(&node, psci).ok())
    }
}

/// `/chosen/bootargs`.
pub fn bootargs(tree: Fdt<'_>) -> Option<&str> {
    tree::string(&tree.find_node("/chosen")?, "bootargs")
}

/// `/chosen/rng-seed`.
pub fn random_seed(tree: Fdt<'_>) -> Option<&[u8]> {
    tree.find_node("/chosen")?.property("rng-seed")?.value_as().ok()
}

/// `linux,initrd-start` and `linux,initrd-end`: one or two cells each, the end exclusive.
fn initrd(tree: Fdt<'_>) -> Result<Option<Region>, Error> {
    let Some(chosen) = tree.find_node("/chosen") else { return Ok(None) };
    if chosen.property("linux,initrd-start").is_none() {
        return Ok(None);
    }
    let start = tree::number(&chosen, "linux,initrd-start");
    let start = start.ok_or(Error::bad("/chosen", "linux,initrd-start"))?;
    let end = tree::number(&chosen, "linux,initrd-end");
    let len = end.and_then(|end| end.checked_sub(start));
    let region = len.and_then(|len| Region::new(start, len));
    region.map(Some).ok_or(Error::bad("/chosen", "linux,initrd-end"))
}

/// The conduit of PSCI 0.2 or later, whose function numbers are fixed.
fn psci(tree: Fdt<'_>) -> Result<Option<Conduit>, Error> {
    let node = tree::search(tree, &mut |place| {
        tree::is_any_of(&place.node, &["arm,psci-1.0", "arm,psci-0.2"]).then_some(place.node)
    });
    node.map(|node| match tree::string(&node, "method") {
        Some("hvc") => Ok(Conduit::Hvc),
        Some("smc") => Ok(Conduit::Smc),
        _ => Err(Error::bad("/psci", "method")),
    })
    .transpose()
}

fn cpu_nodes(tree: Fdt<'_>) -> impl Iterator<Item = FdtNode<'_>> {
    let cpus = tree.find_node("/cpus");
    cpus.into_iter().flat_map(|cpus| cpus.children()).filter(|node| {
        node.name_without_address() == "cpu"
            && !tree::string(node, "status").is_some_and(|status| status.starts_with("fail"))
    })
}

fn cpu(node: &FdtNode<'_>, psci: Option<Conduit>) -> Result<Cpu, Error> {
    const ROLE: &str = "/cpus/cpu@N";
    let reg = node.reg().ok().flatten().and_then(|mut reg| reg.next());
    let mpidr = reg.and_then(|reg| reg.address.to_int::<u64>().ok()).ok_or(Error::bad(ROLE, "reg"))?;
    let enable = match tree::string(node, "enable-method") {
        None => Enable::None,
        Some("psci") => Enable::Psci(psci.ok_or(Error::Missing("a /psci node for the CPUs"))?),
        Some("spin-table") => Enable::SpinTable {
            release: tree::number(node, "cpu-release-addr").ok_or(Error::bad(ROLE, "cpu-release-addr"))?,
        },
        Some(_) => return Err(Error::bad(ROLE, "enable-method")),
    };
    Ok(Cpu { mpidr: mpidr & MPIDR_AFFINITY, enable })
}

/// The interrupt controller, and how many cells name one of its interrupts.
fn gic(tree: Fdt<'_>) -> Result<(Gic, usize), Error> {
    tree::search(tree, &mut |place| {
        let gic = if tree::is_any_of(&place.node, &["arm,gic-v3"]) {
            gic_v3(place)
        } else if tree::is_any_of(&place.node, &["arm,gic-400", "arm,cortex-a15-gic"]) {
            gic_v2(place)
        } else {
            return None;
        };
        Some(gic.and_then(|gic| Ok((gic, interrupt_cells(place)?))))
    })
    .ok_or(Error::Missing("an interrupt controller (arm,gic-v3, arm,gic-400 or arm,cortex-a15-gic)"))?
}

/// Type, number and flags; GICv3 may add a fourth cell and reserves room for more.
fn interrupt_cells(place: &Place<'_, '_>) -> Result<usize, Error> {
    let cells = tree::number(&place.node, "#interrupt-cells").filter(|cells| (3..=8).contains(cells));
    cells.map(|cells| cells as usize).ok_or(Error::bad("the interrupt controller", "#interrupt-cells"))
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

/// An interrupt of the timer node, in its order: secure and other physical, virtual, hypervisor.
fn timer_interrupt(tree: Fdt<'_>, index: usize, interrupt_cells: usize) -> Result<u32, Error> {
    tree::search(tree, &mut |place| {
        let is_timer = tree::is_any_of(&place.node, &["arm,armv8-timer", "arm,armv7-timer"]);
        let interrupt = || place.interrupt(index, interrupt_cells);
        is_timer.then(|| interrupt().ok_or(Error::bad("the timer", "interrupts")))
    })
    .ok_or(Error::Missing("a timer (arm,armv8-timer)"))?
}
