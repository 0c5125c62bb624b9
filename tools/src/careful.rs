//! Boots that provoke what QEMU alone does not: a Non-secure GIC-400, dirty memory and registers, RAM in pieces.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

use crate::board::Board;
use crate::job::{Expect, Job};
use crate::qemu::Machine;
use crate::standin::{Handover, StandIn, World};
use crate::suite::Suite;
use crate::tree::cells;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Where `virt` has its RAM.
const VIRT_RAM: u64 = GIB;
/// Where a kernel goes that is not placed on purpose elsewhere: an odd multiple of 2 MiB.
const ODD: u64 = VIRT_RAM + 6 * MIB;

/// What these boots are made of.
pub(crate) struct Parts<'a> {
    pub(crate) standin: StandIn<'a>,
    pub(crate) suites: &'a [Suite],
    /// The real kernel, raw and as ELF, and its programs.
    pub(crate) kernel: &'a Path,
    pub(crate) elf: &'a Path,
    pub(crate) initrd: &'a Path,
}

impl Parts<'_> {
    /// All of them.
    pub(crate) fn jobs(&self) -> Result<Vec<Job>> {
        let mut jobs = self.nonsecure_gic()?;
        jobs.extend(self.placements()?);
        jobs.extend(self.pi_memories()?);
        jobs.push(self.armstub()?);
        jobs.push(self.mini_uart()?);
        Ok(jobs)
    }

    /// The Non-secure side of a GIC-400 with Security Extensions, whose distributor the firmware left on or off.
    fn nonsecure_gic(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (name, kernel, distributor_on) in [
            ("nonsecure-gic-ipi-off", "ipi", false),
            ("nonsecure-gic-ipi-on", "ipi", true),
            ("nonsecure-gic-uart-on", "uart", true),
        ] {
            let machine = Machine { gic: 2, virtualization: true, ..Machine::of(self.suite(kernel)?.kernel.clone()) };
            let handover = self.handover(name, kernel, machine, World::SecureGicV2 { distributor_on })?;
            jobs.push(self.standin.job(handover)?);
        }
        let machine = Machine { gic: 2, virtualization: true, ..self.program("/bin/hello") };
        let handover = Handover {
            name: "nonsecure-gic-hello",
            elf: self.elf,
            expect: Expect::End(0, vec!["4 of 4 CPUs".to_owned(), "hello".to_owned()]),
            ..self.handover("", "ipi", machine, World::SecureGicV2 { distributor_on: false })?
        };
        jobs.push(self.standin.job(handover)?);
        Ok(jobs)
    }

    /// Images at several places, entered at EL1 and EL2 with noise everywhere.
    fn placements(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (name, kernel, image_at, virtualization) in [
            ("careful-uart-el1", "uart", ODD, false),
            ("careful-boot-el2", "boot", VIRT_RAM + 26 * MIB, true),
            ("careful-lazy-el2", "lazy", VIRT_RAM + 2 * MIB, true),
        ] {
            let machine = Machine { virtualization, ..Machine::of(self.suite(kernel)?.kernel.clone()) };
            let handover = Handover { image_at, ..self.handover(name, kernel, machine, World::Psci)? };
            jobs.push(self.standin.job(handover)?);
        }
        let machine = Machine { virtualization: true, ..self.program("/bin/conform") };
        let handover = Handover {
            name: "careful-conform",
            elf: self.elf,
            image_at: VIRT_RAM + 18 * MIB,
            ..self.handover("", "boot", machine, World::Psci)?
        };
        jobs.push(self.standin.job(handover)?);
        Ok(jobs)
    }

    /// The memory maps of Pis with 1, 2, 4 and 8 GiB, 1 GiB higher: the VideoCore's hole and reserved memory.
    fn pi_memories(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for gib in [1, 2, 4, 8] {
            let name = format!("careful-memory-{gib}g");
            let machine = Machine {
                memory: format!("{}M", gib * 1024),
                virtualization: true,
                ..Machine::of(self.suite("careful")?.kernel.clone())
            };
            let handover = Handover {
                name: &name,
                ram: pi_ram(gib),
                definitions: reserved_memory(),
                ..self.handover("", "careful", machine, World::Psci)?
            };
            jobs.push(self.standin.job(handover)?);
        }
        Ok(jobs)
    }

    /// `raspi4b` from EL3 on, where our firmware does what the Pi's armstub8 does.
    fn armstub(&self) -> Result<Job> {
        let machine = Machine { board: Board::Rpi4, ..Machine::of(self.suite("careful")?.kernel.clone()) };
        let handover = Handover { definitions: reserved_memory(), ..self.on_pi("careful-rpi4", machine)? };
        self.standin.job(handover)
    }

    /// The Pi whose firmware has connected the pins to the mini UART, as it does unless told otherwise, and hands over a tree
    /// that says which port, but nothing of pins: the first words, too, must go there.
    fn mini_uart(&self) -> Result<Job> {
        const GPFSEL1: u64 = 0xfe20_0004;
        const PINS_14_AND_15_ALT5: u64 = 2 << 12 | 2 << 15;
        let machine = Machine { board: Board::Rpi4, second_port: true, ..self.program("/bin/hello") };
        let definitions = "/ { chosen { stdout-path = \"serial1:115200n8\"; };\n\
                           soc { serial@7e215040 { /delete-property/ pinctrl-0; }; }; };\n";
        let says = ["Lazuli: entered at EL2", "4 of 4 CPUs", "hello"];
        let handover = Handover {
            elf: self.elf,
            expect: Expect::End(0, says.map(str::to_owned).to_vec()),
            device: Some((GPFSEL1, PINS_14_AND_15_ALT5)),
            definitions: definitions.to_owned(),
            ..self.on_pi("careful-rpi4-mini-uart", machine)?
        };
        self.standin.job(handover)
    }

    fn on_pi<'a>(&'a self, name: &'a str, machine: Machine) -> Result<Handover<'a>> {
        let ram = std::iter::once(0..0x3b40_0000).chain(std::iter::once(GIB..2 * GIB)).collect();
        Ok(Handover { image_at: 10 * MIB, ram, ..self.handover(name, "careful", machine, World::Secure)? })
    }

    fn handover<'a>(&'a self, name: &'a str, suite: &str, machine: Machine, world: World) -> Result<Handover<'a>> {
        Ok(Handover {
            name,
            machine,
            elf: &self.suite(suite)?.elf,
            expect: Expect::Report,
            world,
            image_at: ODD,
            device: None,
            ram: std::iter::once(VIRT_RAM..VIRT_RAM + 512 * MIB).collect(),
            definitions: String::new(),
        })
    }

    fn suite(&self, name: &str) -> Result<&Suite> {
        let found = self.suites.iter().find(|suite| suite.name == name);
        found.with_context(|| format!("there is no test kernel `{name}`"))
    }

    fn program(&self, init: &str) -> Machine {
        Machine {
            initrd: Some(self.initrd.to_owned()),
            init: Some(init.to_owned()),
            ..Machine::of(self.kernel.to_owned())
        }
    }
}

/// The RAM that the firmware of a Pi 4 with so many GiB leaves to the ARM cores, if `gpu_mem` is 76 MiB: the first GiB
/// less the VideoCore's part, then up to the peripherals, then what is above 4 GiB. On `virt`, 1 GiB higher.
fn pi_ram(gib: u64) -> Vec<Range<u64>> {
    let pieces = [0..0x3b40_0000, GIB..0xfc00_0000, 4 * GIB..8 * GIB];
    let within = pieces.into_iter().map(|piece| piece.start..piece.end.min(gib * GIB));
    within.filter(|piece| !piece.is_empty()).map(|piece| piece.start + VIRT_RAM..piece.end + VIRT_RAM).collect()
}

/// A range that must not be mapped, and one that must be left alone, as `tests/careful.rs` expects them.
fn reserved_memory() -> String {
    let (secret, kept) = (cells(0x5000_0000), cells(0x5101_3000));
    format!(
        "/ {{ reserved-memory {{ #address-cells = <2>; #size-cells = <2>; ranges;\n\
         secret@50000000 {{ reg = <{secret} 0x0 0x800000>; no-map; }};\n\
         kept@51013000 {{ reg = <{kept} 0x0 0x80d000>; }}; }}; }};\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pis_have_the_memory_they_are_sold_with() {
        let sum = |gib| pi_ram(gib).iter().map(|piece| piece.end - piece.start).sum::<u64>() / MIB;
        let videocore = 1024 - 0x3b4;
        assert_eq!([1, 2, 4, 8].map(sum), [948, 2048 - videocore, 4096 - videocore - 64, 8192 - videocore - 64]);
    }
}
