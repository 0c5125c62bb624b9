//! The kernel's half of the address space: what lies where, and who may do what to it.
//!
//! | from                    | what                                                             |
//! |-------------------------|------------------------------------------------------------------|
//! | `0xffff_0000_0000_0000` | all RAM, linear; read-write, but read-only where it is our image |
//! | `0xffff_fff0_0000_0000` | kernel stacks, each above an unmapped hole of its own size       |
//! | `0xffff_ffff_8000_0000` | the image: text, rodata, data by 4 KiB pages (built by boot.s)   |
//! | `0xffff_ffff_bfc0_0000` | the device tree, read-only (built by boot.s)                     |
//! | `0xffff_ffff_c000_0000` | device registers                                                 |
//!
//! Nothing is both writable and executable, at any address, once boot has written the [`jumps`](super::jumps).
//! Entries are added, and but for [`seal_image`] never changed.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{page, tlbi};
use crate::memory;
use crate::sync::SpinLock;

/// Where the linear map of RAM begins.
pub const LINEAR_BASE: u64 = 0xffff_0000_0000_0000;
/// Where the image runs, wherever it was loaded.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// The bytes of a frame, a page and a table.
pub const PAGE: u64 = 4096;

/// Where kernel stacks lie; see `stack`.
pub(super) const STACKS: Range<u64> = 0xffff_fff0_0000_0000..0xffff_fff8_0000_0000;
const DEVICES: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_fff0_0000;

/// MAIR_EL1: attribute 0 is Normal write-back memory, attribute 1 is Device-nGnRE.
pub const MAIR: u64 = 0x04 << 8 | 0xff;
/// The low bits of an entry that points to a table, and of a page.
pub const TABLE: u64 = 0b11;

const BLOCK: u64 = 0b01;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Attributes and access rights of a mapping, as descriptor bits; global, accessed, not for EL0.
#[derive(Clone, Copy, Debug)]
pub struct Rights(u64);

impl Rights {
    const DEVICE_INDEX: u64 = 1 << 2;
    const READ_ONLY: u64 = 1 << 7;
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    const ACCESSED: u64 = 1 << 10;
    const NEVER_AT_EL1: u64 = 1 << 53;
    const NEVER_AT_EL0: u64 = 1 << 54;

    /// Executed and read by the kernel.
    pub const TEXT: Self = Self(Self::INNER_SHAREABLE | Self::ACCESSED | Self::READ_ONLY | Self::NEVER_AT_EL0);
    /// Read by the kernel.
    pub const RODATA: Self = Self(Self::TEXT.0 | Self::NEVER_AT_EL1);
    /// Read and written by the kernel.
    pub const DATA: Self = Self(Self::RODATA.0 & !Self::READ_ONLY);
    /// Device registers.
    pub const DEVICE: Self = Self(Self::DATA.0 & !Self::INNER_SHAREABLE | Self::DEVICE_INDEX);

    /// The descriptor bits of a page.
    pub const fn page(self) -> u64 {
        self.0 | TABLE
    }

    /// The descriptor bits of a block.
    pub const fn block(self) -> u64 {
        self.0 | BLOCK
    }
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }
}

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    /// The root that boot.s made; it stays the root.
    static KERNEL_ROOT: Table;
}

/// Tables for what is mapped before there is a linear map to reach other frames by.
#[unsafe(link_section = ".tables")]
static EARLY_TABLES: [Table; 24] = [const { Table::empty() }; 24];

/// Where the image was loaded, minus where it runs. Written once by CPU 0 before any other CPU starts; relaxed,
/// because starting a CPU orders it.
static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

/// Held while the map grows. Frames for it are taken inside, so it comes before the frame allocator's lock.
static MAP: SpinLock<Map> = SpinLock::new(Map { early_tables: 0, next_device: DEVICES.start });

/// Remembers where the image was loaded. First of all, on CPU 0.
pub(crate) fn init(image_pa: u64) {
    // Pairs with nothing: still one CPU.
    IMAGE_OFFSET.store(image_pa.wrapping_sub(IMAGE_BASE), Ordering::Relaxed);
}

/// Maps the RAM in `ranges`, which holds the image, at the linear map.
pub(crate) fn map_ram(ranges: impl Iterator<Item = Range<u64>>) {
    let fixed = fixed_pages();
    let mut map = MAP.lock();
    for ram in ranges {
        map.map_linear(ram.start..fixed.start.clamp(ram.start, ram.end), Rights::DATA);
        map.map_linear(fixed.end.clamp(ram.start, ram.end)..ram.end, Rights::DATA);
    }
    // By pages, whose rights `seal_image` can change.
    for page in fixed.step_by(PAGE as usize) {
        map.map_linear(page..page + PAGE, Rights::DATA);
    }
    tlbi::publish_kernel_entries();
}

/// Makes the frames of text and rodata read-only in the linear map, too: else that would be the way around it. CPU 0,
/// before it leaves the identity map, which also makes its TLB forget the old rights.
pub(crate) fn seal_image() {
    let mut map = MAP.lock();
    for page in fixed_pages().step_by(PAGE as usize) {
        let entry = map.entry(LINEAR_BASE + page, 3).expect("`map_ram` made the tables");
        // Pairs with the walker, by the DSB that comes with the invalidation.
        entry.store(page | Rights::RODATA.page(), Ordering::Relaxed);
    }
}

/// Text and rodata, where they lie in RAM.
fn fixed_pages() -> Range<u64> {
    virt_to_phys(&raw const __image_start as u64)..virt_to_phys(&raw const __rodata_end as u64)
}

/// The kernel's address of a byte of RAM.
pub fn phys_to_virt(pa: u64) -> *mut u8 {
    (LINEAR_BASE + pa) as *mut u8
}

/// The bytes of a range of RAM, through the linear map.
///
/// # Safety
///
/// The range is RAM, in the linear map by now, and nobody ever writes to it: no allocator has it.
pub unsafe fn ram(range: Range<u64>) -> &'static [u8] {
    // SAFETY: our caller promises mapped memory that does not change.
    unsafe { core::slice::from_raw_parts(phys_to_virt(range.start), (range.end - range.start) as usize) }
}

/// The physical address behind an address of the linear map or of the image.
pub fn virt_to_phys(va: u64) -> u64 {
    if va >= IMAGE_BASE {
        // Pairs with nothing: written before any other CPU started.
        va.wrapping_add(IMAGE_OFFSET.load(Ordering::Relaxed))
    } else {
        debug_assert!(
            (LINEAR_BASE..STACKS.start).contains(&va),
            "{va:#x} is neither in the linear map nor in the image"
        );
        va - LINEAR_BASE
    }
}

/// Maps `len` bytes of device registers from `pa` and returns their address. They stay mapped.
pub fn map_device(pa: u64, len: u64) -> *mut u8 {
    let first = pa & !(PAGE - 1);
    let len = (pa + len).next_multiple_of(PAGE) - first;
    let mut map = MAP.lock();
    // The same offset within 2 MiB on both sides lets a large window use blocks.
    let stride = if len >= 2 << 20 { 2 << 20 } else { PAGE };
    let va = map.next_device.next_multiple_of(stride) + first % stride;
    assert!(va + len <= DEVICES.end, "no room to map {len:#x} bytes of device registers");
    map.next_device = va + len;
    map.map(va, first, len, Rights::DEVICE);
    tlbi::publish_kernel_entries();
    (va + (pa - first)) as *mut u8
}

/// Maps a fresh frame at a page of the window for stacks, unless one is there. None if there is no frame left.
pub(super) fn fill_page(va: u64) -> Option<()> {
    debug_assert!(STACKS.contains(&va));
    let mut map = MAP.lock();
    if !is_readable(va) {
        // The tables first: if no frame is left for the page, the next attempt finds them.
        let entry = map.entry(va, 3)?;
        // Pairs with the walker, by the DSB below: on this CPU, so before the lock lets another thread in.
        entry.store(memory::take_frame()? | Rights::DATA.page(), Ordering::Relaxed);
        tlbi::publish_kernel_entries();
    }
    Some(())
}

/// True if `va` is mapped readable for the kernel now. For the panic path: asks the MMU, never faults.
pub fn is_readable(va: u64) -> bool {
    let par: u64;
    // SAFETY: an address translation instruction reads tables and writes PAR_EL1, nothing else.
    unsafe {
        core::arch::asm!(
            "at s1e1r, {va}",
            "isb",
            "mrs {par}, par_el1",
            va = in(reg) va,
            par = out(reg) par,
            options(nostack, preserves_flags),
        );
    }
    par & 1 == 0
}

/// What changes under the lock: which early tables and device addresses are taken.
struct Map {
    early_tables: usize,
    next_device: u64,
}

impl Map {
    fn map_linear(&mut self, pa: Range<u64>, rights: Rights) {
        self.map(LINEAR_BASE + pa.start, pa.start, pa.end - pa.start, rights);
    }

    /// Maps `len` bytes at `va`, all multiples of a page, by the largest blocks that fit.
    fn map(&mut self, mut va: u64, mut pa: u64, len: u64, rights: Rights) {
        let end = va + len;
        while va < end {
            let fits = |size: u64| va.is_multiple_of(size) && pa.is_multiple_of(size) && end - va >= size;
            let (level, size) = match () {
                () if fits(1 << 30) => (1, 1 << 30),
                () if fits(2 << 20) => (2, 2 << 20),
                () => (3, PAGE),
            };
            let bits = if level == 3 { rights.page() } else { rights.block() };
            let entry = self.entry(va, level).expect("no frame left for a table of the kernel");
            debug_assert_eq!(entry.load(Ordering::Relaxed), 0, "{va:#x} is mapped already");
            // Pairs with the walker, by the DSB of `publish_kernel_entries`.
            entry.store(pa | bits, Ordering::Relaxed);
            va += size;
            pa += size;
        }
    }

    /// The entry for `va` in the table of `level`, making the tables above it. None if there is no frame for one.
    fn entry(&mut self, va: u64, level: u32) -> Option<&'static AtomicU64> {
        // SAFETY: boot.s zeroed and filled it before Rust ran; it is only ever touched as atomics.
        let mut table = unsafe { &KERNEL_ROOT };
        for above in 0..level {
            let entry = &table.0[index(va, above)];
            // Pairs with nothing: tables change under the lock of `MAP`.
            let mut bits = entry.load(Ordering::Relaxed);
            if bits == 0 {
                bits = self.new_table()? | TABLE;
                // A walker that follows the link must find zeroes, not what a program left in the frame.
                tlbi::publish_kernel_entries();
                // Pairs with the walker, by the DSB of `publish_kernel_entries`.
                entry.store(bits, Ordering::Relaxed);
            }
            assert!(bits & TABLE == TABLE, "{va:#x} lies in a block that is mapped already");
            table = table_at(bits & ADDRESS);
        }
        Some(&table.0[index(va, level)])
    }

    /// The address of an empty table.
    fn new_table(&mut self) -> Option<u64> {
        if let Some(table) = EARLY_TABLES.get(self.early_tables) {
            self.early_tables += 1;
            return Some(virt_to_phys(core::ptr::from_ref(table) as u64));
        }
        let pa = memory::take_frame()?;
        // SAFETY: a frame of our own, in the linear map, which stands before the early tables run out.
        unsafe { page::zero(phys_to_virt(pa) as u64) };
        Some(pa)
    }
}

fn index(va: u64, level: u32) -> usize {
    (va >> (39 - 9 * level)) as usize & 511
}

/// The table at `pa`: in the image, where the first ones are, or in the linear map.
fn table_at(pa: u64) -> &'static Table {
    // Pairs with nothing: written before any other CPU started.
    let in_image = pa.wrapping_sub(IMAGE_OFFSET.load(Ordering::Relaxed));
    let va = if (IMAGE_BASE..&raw const __image_end as u64).contains(&in_image) {
        in_image
    } else {
        phys_to_virt(pa) as u64
    };
    // SAFETY: the address comes from a table entry that boot.s or `entry` wrote, so a table is there; kernel
    // tables are never freed and only touched as atomics.
    unsafe { &*(va as *const Table) }
}
