//! Boots by the stand-in firmware of `tests/firmware`, which leaves a machine as real hardware leaves it.
//!
//! QEMU starts it instead of a kernel and loads the real kernel, its tree and archive to where it expects them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::job::{Expect, Job};
use crate::qemu::{self, Machine};
use crate::tree::{self, cells};

/// Where things lie; `tests/firmware` knows the first two. RAM on every board.
const FIRMWARE: u64 = 0x4400_0000;
const PARAMETERS: u64 = 0x4410_0000;
const RELEASE: u64 = 0x4411_0000;
const FIRMWARE_END: u64 = 0x4420_0000;
const TREE: u64 = FIRMWARE_END;
const INITRD: u64 = 0x4500_0000;
const SOURCE: u64 = 0x4800_0000;
/// What RAM is full of. `tests/careful.rs` looks for it.
const PATTERN: u64 = 0x5ca1_ab1e_00dd_ba11;
const MIB: u64 = 1 << 20;

/// The parts that all these boots share.
pub(crate) struct StandIn<'a> {
    /// The firmware's ELF file.
    pub(crate) firmware: &'a Path,
    /// Where trees and parameters are written.
    pub(crate) folder: &'a Path,
}

/// One machine as the firmware hands it over.
pub(crate) struct Handover<'a> {
    pub(crate) name: &'a str,
    pub(crate) machine: Machine,
    /// The kernel's ELF file, for symbols.
    pub(crate) elf: &'a Path,
    pub(crate) expect: Expect,
    pub(crate) world: World,
    /// Where the image is put.
    pub(crate) image_at: u64,
    /// A device register that the firmware sets, and its value.
    pub(crate) device: Option<(u64, u64)>,
    /// The RAM that the tree names.
    pub(crate) ram: Vec<Range<u64>>,
    /// More of the tree.
    pub(crate) definitions: String,
}

/// What starts the machine, and so what the firmware has to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// QEMU plays the firmware at EL3, and answers PSCI calls.
    Psci,
    /// Ours is at EL3, with a GICv2 that has the Security Extensions; it leaves the distributor on, or off.
    SecureGicV2 { distributor_on: bool },
    /// Ours is at EL3, without such a GIC: `raspi4b`.
    Secure,
}

impl StandIn<'_> {
    /// The boot of `handover.machine` by way of the firmware.
    pub(crate) fn job(&self, handover: Handover<'_>) -> Result<Job> {
        let Handover { name, machine, elf, expect, world, .. } = &handover;
        let image =
            std::fs::read(&machine.kernel).with_context(|| format!("cannot read {}", machine.kernel.display()))?;
        let initrd_len = machine.initrd.as_ref().map_or(Ok(0), |file| std::fs::metadata(file).map(|data| data.len()));
        let initrd = INITRD..INITRD + initrd_len.context("cannot look at the archive")?;
        let tree = tree::compile(&handover.tree_source(&initrd)?)?;
        let image_len = (image.len() as u64).next_multiple_of(16);
        let claimed = [
            FIRMWARE..FIRMWARE_END,
            TREE..TREE + (tree.len() as u64).next_multiple_of(16),
            initrd.start..initrd.end.next_multiple_of(16),
            handover.image_at..handover.image_at + image_len,
        ];
        let parameters = parameters(&handover, image_len, &unclaimed(&handover.ram, &claimed));
        let mut loaded = vec![(machine.kernel.clone(), SOURCE)];
        loaded.extend(machine.initrd.clone().map(|file| (file, INITRD)));
        loaded.push((self.save(&format!("{name}.dtb"), &tree)?, TREE));
        loaded.push((self.save(&format!("{name}.parameters"), &parameters)?, PARAMETERS));
        let mut machine =
            Machine { kernel: self.firmware.to_owned(), initrd: None, tree: Some("".into()), ..machine.clone() };
        if matches!(world, World::SecureGicV2 { .. }) {
            machine.extra.extend(["-machine".to_owned(), "secure=on".to_owned()]);
        }
        for (file, address) in loaded {
            let device = format!("loader,file={},addr={address:#x},force-raw=on", file.display());
            machine.extra.extend(["-device".to_owned(), device]);
        }
        let job =
            Job { name: (*name).to_owned(), machine, elf: (*elf).to_owned(), timeout_s: 60, expect: expect.clone() };
        Ok(job)
    }

    fn save(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Handover<'_> {
    fn tree_source(&self, initrd: &Range<u64>) -> Result<String> {
        let (base, size_cells) = match self.machine.board {
            Board::Virt => (tree::decompile(&self.machine.device_tree()?)?, 2),
            Board::Rpi4 => (tree::read(Path::new(qemu::RPI4_SOURCE))?, 1),
        };
        let mut more = format!(
            "/ {{ chosen {{ bootargs = {:?}; linux,initrd-start = <{}>; linux,initrd-end = <{}>; }}; }};\n",
            self.machine.append(),
            cells(initrd.start),
            cells(initrd.end)
        );
        let number = |number: u64| if size_cells == 1 { format!("{number:#x}") } else { cells(number) };
        let pieces =
            self.ram.iter().map(|piece| format!("<{} {}>", cells(piece.start), number(piece.end - piece.start)));
        let reg = pieces.collect::<Vec<_>>().join(", ");
        let memory = if self.machine.board == Board::Virt { "memory@40000000" } else { "memory@0" };
        more += &format!("/ {{ {memory} {{ reg = {reg}; }}; }};\n");
        if self.world != World::Psci {
            let method = |cpu: u64| {
                let release = cells(RELEASE + 8 * cpu);
                format!("cpu@{cpu} {{ enable-method = \"spin-table\"; cpu-release-addr = <{release}>; }};")
            };
            let cpus = if self.machine.board == Board::Virt { self.machine.smp } else { 4 };
            let methods: String = (0..u64::from(cpus)).map(method).collect();
            more += &format!("/ {{ cpus {{ {methods} }}; }};\n");
        }
        tree::extend(&base, (FIRMWARE, FIRMWARE_END - FIRMWARE), &(more + &self.definitions))
    }
}

/// The table that the firmware reads; `firmware.s` names its words.
fn parameters(handover: &Handover<'_>, image_len: u64, fill: &[Range<u64>]) -> Vec<u8> {
    let (gicd, gicc, control) = match handover.world {
        World::SecureGicV2 { distributor_on } => (0x800_0000, 0x801_0000, if distributor_on { 3 } else { 0 }),
        World::Psci | World::Secure => (0, 0, 0),
    };
    let mut words = vec![handover.image_at, SOURCE, image_len, TREE, RELEASE, gicd, gicc, control, PATTERN];
    let (device, value) = handover.device.unwrap_or_default();
    words.extend([device, value]);
    words.push(fill.len() as u64);
    // A multiplicative sequence: every bit is one somewhere, and the same in each run.
    words.extend((1..=32u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    words.extend(fill.iter().flat_map(|range| [range.start, range.end]));
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The RAM that nothing claims. Of much RAM only both ends of each piece: the host must provide what is filled.
fn unclaimed(ram: &[Range<u64>], claimed: &[Range<u64>]) -> Vec<Range<u64>> {
    let total: u64 = ram.iter().map(|piece| piece.end - piece.start).sum();
    let mut free = Vec::new();
    for piece in ram {
        if total <= 1024 * MIB {
            free.push(piece.clone());
        } else {
            free.extend([piece.start..piece.start + 288 * MIB, piece.end - 32 * MIB..piece.end]);
        }
    }
    for taken in claimed {
        let parts = |range: Range<u64>| {
            let below = range.start..range.end.min(taken.start.max(range.start));
            let above = range.start.max(taken.end.min(range.end))..range.end;
            [below, above].into_iter().filter(|part| !part.is_empty())
        };
        free = free.into_iter().flat_map(parts).collect();
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_not_filled() {
        let free = unclaimed(&[0..100, 200..300], &[10..20, 90..210, 250..250, 299..400]);
        assert_eq!(free, [0..10, 20..90, 210..250, 250..299]);
    }

    #[test]
    fn of_much_ram_the_ends_are_filled() {
        let free = unclaimed(std::slice::from_ref(&(0..4096 * MIB)), std::slice::from_ref(&(0..MIB)));
        assert_eq!(free, [MIB..288 * MIB, 4064 * MIB..4096 * MIB]);
    }
}
