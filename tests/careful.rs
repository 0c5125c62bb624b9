//! Memory as real firmware leaves it: dirty, in pieces, with holes. Booted by `tools/src/careful.rs` only.
//@ board: standin
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTP_CTL_EL0, CNTPCT_EL0, CNTVCT_EL0, MIDR_EL1, Readable, Writeable};
use lazuli::arch::mmu::{self, PAGE};
use lazuli::ipi::{self, Reason};
use lazuli::machine::Kernel;
use lazuli::platform::{self, Region};
use lazuli::{kernel_tests, percpu, smp};
use mm::Machine;

kernel_tests! {
    bss_is_zero,
    all_cpus_came,
    noise_in_registers_is_gone,
    what_is_no_ram_is_not_mapped,
    free_memory_was_dirty_and_is_outside_of_what_is_taken,
    reserved_memory_is_left_alone,
}

/// What the firmware has filled RAM with.
const PATTERN: u64 = 0x5ca1_ab1e_00dd_ba11;
/// The range of the tree's that must not be mapped, and the one that must be left alone.
const SECRET: Region = Region { base: 0x5000_0000, len: 0x80_0000 };
const KEPT: Region = Region { base: 0x5101_3000, len: 0x80_d000 };

static ZEROES: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

fn bss_is_zero() {
    assert!(ZEROES.iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

fn all_cpus_came() {
    assert_eq!(smp::online().count(), percpu::count());
}

/// What shows at EL1 of what the firmware left at EL2, on every CPU: which CPU it seems to be, how far the virtual counter
/// is off the physical one (no more than the time between two looks), whether the physical timer can be reached, and how
/// many event counters there are for EL1, of the six that the CPU has (Cortex-A72 TRM, chapter 11).
fn noise_in_registers_is_gone() {
    const CORTEX_A72: u64 = 0x41 << 24 | 0xd08 << 4;
    const COUNTERS: u64 = 6;
    fn look(_: usize) {
        CNTP_CTL_EL0.set(0);
        let (virtual_now, physical) = (CNTVCT_EL0.get(), CNTPCT_EL0.get());
        let is_near = physical.wrapping_sub(virtual_now) < CNTFRQ_EL0.get();
        if MIDR_EL1.get() & 0xff00_fff0 == CORTEX_A72 && is_near && event_counters() == COUNTERS {
            CLEAN.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// Relaxed: the call waits until all CPUs have looked.
    static CLEAN: AtomicUsize = AtomicUsize::new(0);
    ipi::on_each_cpu_mask(Reason::Call, &ipi::online(), look, 0, true);
    assert_eq!(CLEAN.load(Ordering::Relaxed), percpu::count());
}

/// PMCR_EL0.N: how many event counters this exception level may use.
fn event_counters() -> u64 {
    let control: u64;
    // SAFETY: a Cortex-A72 has the register, and reading it has no effect.
    unsafe { asm!("mrs {}, pmcr_el0", out(reg) control, options(nomem, nostack, preserves_flags)) };
    control >> 11 & 0x1f
}

fn word(pa: u64) -> u64 {
    // SAFETY: the callers name RAM, all of which is in the linear map; nobody else writes there.
    unsafe { mmu::phys_to_virt(pa).cast::<u64>().read_volatile() }
}

fn what_is_no_ram_is_not_mapped() {
    let ram = &platform::get().ram;
    for hole in ram.windows(2).map(|pair| pair[0].end()..pair[1].base) {
        assert!(hole.start < hole.end, "pieces that touch are one piece");
        for pa in [hole.start, hole.end - PAGE] {
            assert!(!mmu::is_readable(mmu::phys_to_virt(pa) as u64), "{pa:#x} is mapped and no RAM");
        }
        assert!(mmu::is_readable(mmu::phys_to_virt(hole.start - PAGE) as u64));
        assert!(mmu::is_readable(mmu::phys_to_virt(hole.end) as u64));
    }
    assert!(!mmu::is_readable(mmu::phys_to_virt(SECRET.base) as u64));
    assert!(!mmu::is_readable(mmu::phys_to_virt(SECRET.end() - PAGE) as u64));
}

/// Takes every frame. Touches few of them: the host need not have the memory that the guest does not use.
fn free_memory_was_dirty_and_is_outside_of_what_is_taken() -> Result<(), String> {
    let platform = platform::get();
    let taken: Vec<Region> = platform.reserved.iter().copied().collect();
    let frames = &Kernel::system().frames;
    let (mut count, mut dirty, mut looked) = (0u64, 0u64, 0u64);
    while let Some(frame) = frames.alloc() {
        let pa = frame.address().0;
        count += 1;
        if !platform.ram.iter().any(|ram| (ram.base..ram.end()).contains(&pa)) {
            return Err(format!("frame {pa:#x} is no RAM"));
        }
        if let Some(of) = taken.iter().find(|region| (region.base..region.end()).contains(&pa)) {
            return Err(format!("frame {pa:#x} belongs to {of:x?}"));
        }
        if count.is_multiple_of(64) {
            looked += 1;
            dirty += u64::from(word(pa + 8) == PATTERN);
            // SAFETY: a frame of this test's, in the linear map.
            unsafe { mmu::phys_to_virt(pa).cast::<u64>().write_volatile(pa) };
        }
    }
    let total: u64 = platform.ram.iter().map(|ram| ram.len).sum();
    if count * PAGE < total / 10 * 8 {
        return Err(format!("{count} frames of {total:#x} bytes of RAM"));
    }
    // All of it where it was filled whole; of much RAM the ends of each piece.
    let filled = if total <= 1 << 30 { looked / 100 * 95 } else { (256 << 20) / PAGE / 64 };
    if dirty < filled { Err(format!("{dirty} of {looked} frames had the pattern")) } else { Ok(()) }
}

fn reserved_memory_is_left_alone() {
    assert!(platform::get().reserved.contains(&KEPT), "the tree reserves it");
    for pa in (KEPT.base..KEPT.end()).step_by(8) {
        assert_eq!(word(pa), PATTERN, "{pa:#x}");
    }
}
