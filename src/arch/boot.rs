//! From the loader's hands to Rust: the constants of `boot.s`, and what it found.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ops::Range;

use super::mmu;
use crate::percpu::PerCpu;

/// SCTLR_EL1 with the MMU off: the bits that must be 1 on a CPU without the features that redefine them.
const SCTLR_OFF: u64 = bits(&[7, 8, 11, 20, 22, 23, 28, 29]);

/// SCTLR_EL1 of the running kernel: MMU and caches on, stack alignment checked, and for EL0: DC ZVA, CTR_EL0,
/// cache maintenance, WFI and WFE untrapped.
const SCTLR_ON: u64 = SCTLR_OFF | bits(&[0, 2, 3, 4, 12, 14, 15, 16, 18, 26]);

/// TCR_EL1 before the fields that depend on the CPU (IPS, AS): both halves 48 bits, 4 KiB granule, tables walked
/// as inner-shareable write-back memory, the ASID taken from TTBR0 (A1 = 0).
const TCR: u64 = {
    let half = 16 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
    half | half << 16 | 0b10 << 30
};

/// CNTKCTL_EL1: EL0 may read the virtual counter, and nothing else of the timers.
const CNTKCTL: u64 = bits(&[1]);

const IMAGE_L3_TABLES: usize = 4;
const IMAGE_L1_INDEX: usize = (mmu::IMAGE_BASE >> 30) as usize & 511;
const DEVICE_TREE_L2_INDEX: usize = 510;

/// Where boot.s maps the 4 MiB that begin at or before the device tree.
const DEVICE_TREE_BASE: u64 = mmu::IMAGE_BASE + ((DEVICE_TREE_L2_INDEX as u64) << 21);

global_asm!(
    include_str!("boot.s"),
    start_primary = sym crate::start::start_primary,
    start_secondary = sym crate::start::start_secondary,
    percpu_table = sym crate::percpu::TABLE,
    percpu_mpidr = const offset_of!(PerCpu, mpidr),
    percpu_stack = const offset_of!(PerCpu, stack_top),
    affinity_mask = const super::cpu::AFFINITY_MASK,
    sctlr_off = const SCTLR_OFF,
    sctlr_on = const SCTLR_ON,
    tcr = const TCR,
    mair = const mmu::MAIR,
    cntkctl = const CNTKCTL,
    text_page = const mmu::Rights::TEXT.page(),
    rodata_page = const mmu::Rights::RODATA.page(),
    data_page = const mmu::Rights::DATA.page(),
    text_block = const mmu::Rights::TEXT.block(),
    rodata_block = const mmu::Rights::RODATA.block(),
    table = const mmu::TABLE,
    image_l3_tables = const IMAGE_L3_TABLES,
    image_l1_index = const IMAGE_L1_INDEX,
    device_tree_l2_index = const DEVICE_TREE_L2_INDEX,
    bundle = sym DESCRIPTOR,
    bundle_tree = const offset_of!(Descriptor, tree_offset),
);

unsafe extern "C" {
    /// Where a secondary CPU enters, by its physical address; see [`secondary_entry`].
    fn secondary_start();
    static __image_size: u8;
}

/// What the loader handed over.
#[derive(Debug)]
pub struct BootInfo {
    /// The device tree blob, cut to its size; mapped for good: the loader's, or else the one inside the image.
    pub device_tree: Option<&'static [u8]>,
    /// Where the device tree lies in RAM.
    pub device_tree_pa: Range<u64>,
    /// The image in RAM: code, data, .bss and, behind them, what was bundled with it.
    pub image_pa: Range<u64>,
    /// The program and command line that travel inside the image, if it is a bundle.
    pub bundle: Option<Bundle>,
    /// The exception level the loader entered at: 1 or 2.
    pub entry_level: u8,
    /// The affinity fields of this CPU's MPIDR_EL1.
    pub mpidr: u64,
}

/// What `make image` put behind the image, as physical ranges.
#[derive(Clone, Debug)]
pub struct Bundle {
    archive_pa: Range<u64>,
    command_line_pa: Range<u64>,
    tree_pa: Range<u64>,
}

impl Bundle {
    /// The cpio archive that becomes the root file system.
    pub fn archive(&self) -> &'static [u8] {
        // SAFETY: within the image's frames, see `BootInfo::image_pa`.
        unsafe { mmu::ram(self.archive_pa.clone()) }
    }

    /// The command line that goes before the loader's; None if it is no text.
    pub fn command_line(&self) -> Option<&'static str> {
        // SAFETY: within the image's frames, see `BootInfo::image_pa`.
        str::from_utf8(unsafe { mmu::ram(self.command_line_pa.clone()) }).ok()
    }
}

impl BootInfo {
    /// Collects the facts from what `boot.s` passes on.
    ///
    /// # Safety
    ///
    /// The three values must be those of boot.s: `device_tree_pa` 0 or the address of a blob that boot.s mapped.
    pub(crate) unsafe fn new(device_tree_pa: u64, image_pa: u64, entry_level: u64) -> Self {
        // SAFETY: our caller passes on boot.s's address, whose blob is mapped at the fixed place.
        let device_tree = unsafe { device_tree(device_tree_pa) };
        let device_tree_len = device_tree.map_or(0, <[u8]>::len) as u64;
        let bundle = bundle(image_pa);
        let size = &raw const __image_size as u64;
        let end = bundle
            .iter()
            .flat_map(|bundle| [bundle.archive_pa.end, bundle.command_line_pa.end, bundle.tree_pa.end])
            .fold(image_pa + size, u64::max);
        Self {
            device_tree,
            device_tree_pa: device_tree_pa..device_tree_pa + device_tree_len,
            image_pa: image_pa..end,
            bundle,
            entry_level: entry_level as u8,
            mpidr: super::cpu::mpidr(),
        }
    }
}

/// The physical address at which PSCI or a spin-table release starts a secondary CPU.
pub fn secondary_entry() -> u64 {
    mmu::virt_to_phys(secondary_start as *const () as u64)
}

/// The device tree as boot.s mapped it.
///
/// # Safety
///
/// `pa` is 0, or boot.s saw the magic of a device tree there.
unsafe fn device_tree(pa: u64) -> Option<&'static [u8]> {
    if pa == 0 {
        return None;
    }
    let start = (DEVICE_TREE_BASE + pa % (2 << 20)) as *const u8;
    // SAFETY: boot.s read the magic at `pa` and mapped it here; the size stands in the word after it.
    let size = unsafe { start.cast::<[u8; 4]>().add(1).read() };
    let size = (u32::from_be_bytes(size) as usize).min(2 << 20);
    // SAFETY: at most 2 MiB that start in the first of two mapped 2 MiB blocks, and nobody writes to them:
    // `memory` keeps the blob out of the free ranges.
    Some(unsafe { core::slice::from_raw_parts(start, size) })
}

/// The descriptor that the image builder fills in; all numbers count from the start of the image.
#[repr(C, align(32))]
struct Descriptor {
    magic: [u8; 16],
    archive_offset: u64,
    archive_len: u64,
    command_line_offset: u64,
    command_line_len: u64,
    /// 0 if there is none. boot.s looks here if the loader handed over no tree.
    tree_offset: u64,
    tree_len: u64,
}

#[used]
#[unsafe(link_section = ".rodata.bundle")]
static DESCRIPTOR: Descriptor = Descriptor {
    magic: *b"LAZULI-BUNDLE\0\0\0",
    archive_offset: 0,
    archive_len: 0,
    command_line_offset: 0,
    command_line_len: 0,
    tree_offset: 0,
    tree_len: 0,
};

fn bundle(image_pa: u64) -> Option<Bundle> {
    // SAFETY: a static of ours. Volatile, because the builder changes it behind the compiler's back.
    let descriptor = unsafe { (&raw const DESCRIPTOR).read_volatile() };
    let range = |offset: u64, len: u64| image_pa + offset..image_pa + offset + len;
    (descriptor.archive_len != 0).then(|| Bundle {
        archive_pa: range(descriptor.archive_offset, descriptor.archive_len),
        command_line_pa: range(descriptor.command_line_offset, descriptor.command_line_len),
        tree_pa: range(descriptor.tree_offset, descriptor.tree_len),
    })
}

const fn bits(positions: &[u32]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < positions.len() {
        word |= 1 << positions[i];
        i += 1;
    }
    word
}
