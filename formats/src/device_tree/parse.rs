//! From the device tree to [`Platform`]: one function for each thing the kernel wants to know.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property, ToCellInt};
use mm::MAX_CPUS;

use super::found::Found;
use super::{Conduit, Cpu, Enable, Error, Gic, MPIDR_AFFINITY, Platform, Region, Table, devices, memory, tree};

impl<'t> Platform<'t> {
    /// Reads a whole tree.
    pub fn parse(tree: Fdt<'t>) -> Result<Self, Error> {
        let found = Found::look(tree);
        let psci = found.psci.map(|node| conduit(&node)).transpose()?;
        let (gic, interrupt_cells) = gic(&found)?;
        let mut platform = Self {
            tree,
            model: tree.root().model().ok().flatten().unwrap_or("an unnamed board"),
            ram: Table::new(),
            reserved: Table::new(),
            initrd: initrd(tree)?,
            gic,
            uart: devices::uart(tree, &found, interrupt_cells),
            timer_interrupt: timer_interrupt(&found, 2, interrupt_cells)?,
            watchdog_interrupt: timer_interrupt(&found, 1, interrupt_cells)?,
            power_manager: found.power_manager,
            gpio: found.gpio,
            mailbox: found.mailbox,
            led: devices::led(tree, &found),
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
fn conduit(psci: &FdtNode<'_>) -> Result<Conduit, Error> {
    match tree::string(psci, "method") {
        Some("hvc") => Ok(Conduit::Hvc),
        Some("smc") => Ok(Conduit::Smc),
        _ => Err(Error::bad("/psci", "method")),
    }
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
fn gic(found: &Found<'_>) -> Result<(Gic, usize), Error> {
    let missing = Error::Missing("an interrupt controller (arm,gic-v3, arm,gic-400 or arm,cortex-a15-gic)");
    let (node, gic) = found.gic.clone().ok_or(missing)?;
    // Type, number and flags; GICv3 may add a fourth cell and reserves room for more.
    let cells = tree::number(&node, "#interrupt-cells").filter(|cells| (3..=8).contains(cells));
    Ok((gic?, cells.ok_or(Error::bad("the interrupt controller", "#interrupt-cells"))? as usize))
}

/// An interrupt of the timer node, in its order: secure and other physical, virtual, hypervisor.
fn timer_interrupt(found: &Found<'_>, index: usize, interrupt_cells: usize) -> Result<u32, Error> {
    let timer = found.timer.ok_or(Error::Missing("a timer (arm,armv8-timer)"))?;
    tree::interrupt(&timer, index, interrupt_cells).ok_or(Error::bad("the timer", "interrupts"))
}
