//! What must hold once the boot code is done.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;

use aarch64_cpu::registers::{CurrentEL, DAIF, Readable, SCTLR_EL1, TCR_EL1, TTBR0_EL1};
use lazuli::arch::stack::{KernelStack, STACK_SIZE};
use lazuli::arch::{cpu, mmu};
use lazuli::machine::Kernel;
use lazuli::{heap, kernel_tests, percpu};
use mm::Machine;

kernel_tests! {
    runs_at_el1_with_mmu_and_caches,
    serrors_are_taken,
    user_half_is_empty,
    translation_is_what_mm_relies_on,
    linear_map_reaches_the_image,
    bytes_are_copied_moved_and_set_at_every_length,
    heap_gives_and_takes,
    stacks_are_used_again,
    cpu_knows_its_number,
    a_stack_that_lacks_frames_is_refused,
}

fn runs_at_el1_with_mmu_and_caches() {
    assert_eq!(CurrentEL.read(CurrentEL::EL), 1);
    assert!(SCTLR_EL1.is_set(SCTLR_EL1::M));
    assert!(SCTLR_EL1.is_set(SCTLR_EL1::C));
    assert!(SCTLR_EL1.is_set(SCTLR_EL1::I));
}

fn serrors_are_taken() {
    assert!(!DAIF.is_set(DAIF::A), "an SError would wait for ever");
}

fn user_half_is_empty() {
    assert_eq!(
        TTBR0_EL1.get(),
        Kernel::system().init_mm().root().address().0,
        "TTBR0 holds init_mm's root under ASID 0"
    );
    for va in [0, 0x1000, 0x4020_0000] {
        assert!(!mmu::is_readable(va), "{va:#x} is mapped: the identity map is still there");
    }
}

fn translation_is_what_mm_relies_on() {
    assert_eq!(TCR_EL1.read(TCR_EL1::T0SZ), 16);
    assert_eq!(TCR_EL1.read(TCR_EL1::T1SZ), 16);
    assert!(!TCR_EL1.is_set(TCR_EL1::A1), "ASID and root change in one write, to TTBR0");
}

static MARK: u32 = 0x6c61_7a75;

fn linear_map_reaches_the_image() {
    let pa = mmu::virt_to_phys(&raw const MARK as u64);
    // SAFETY: the linear map has all RAM, and the image's rodata never changes.
    let seen = unsafe { mmu::phys_to_virt(pa).cast::<u32>().read_volatile() };
    assert_eq!(seen, MARK);
}

/// `memcpy`, `memmove` and `memset` are ours: they touch what they are to touch, and not a byte more.
fn bytes_are_copied_moved_and_set_at_every_length() {
    let source: [u8; 256] = core::array::from_fn(|index| index as u8);
    for len in 0..200 {
        for start in 0..9 {
            let mut target = [0xa5; 256];
            target[start..][..black_box(len)].copy_from_slice(&source[3..][..black_box(len)]);
            let copied = |index: usize| (start..start + len).contains(&index);
            let expected = |index: usize| if copied(index) { source[3 + index - start] } else { 0xa5 };
            assert!((0..256).all(|index| target[index] == expected(index)), "{len} bytes copied to {start}");
            let mut moved = source;
            moved.copy_within(black_box(3..3 + len), black_box(start));
            let expected = |index: usize| if copied(index) { source[3 + index - start] } else { source[index] };
            assert!((0..256).all(|index| moved[index] == expected(index)), "{len} bytes moved to {start}");
            target[start..][..black_box(len)].fill(black_box(0x5c));
            let expected = |index: usize| if copied(index) { 0x5c } else { 0xa5 };
            assert!((0..256).all(|index| target[index] == expected(index)), "{len} bytes set at {start}");
        }
    }
}

fn heap_gives_and_takes() {
    let before = heap::used();
    let numbers: Vec<u64> = (0..10_000).collect();
    assert_eq!(numbers.iter().sum::<u64>(), 49_995_000);
    assert_eq!(heap::used() - before, numbers.capacity() * 8);
    drop(numbers);
    assert_eq!(heap::used(), before);
}

fn stacks_are_used_again() {
    let first = KernelStack::new().expect("memory for a stack");
    let top = first.top();
    assert!(mmu::is_readable(top - STACK_SIZE), "the stack's lowest word");
    assert!(!mmu::is_readable(top - STACK_SIZE - 8), "the guard below it");
    drop(first);
    let again = KernelStack::new().expect("memory for a stack");
    assert_eq!(again.top(), top);
}

fn cpu_knows_its_number() {
    assert_eq!(percpu::cpu_id(), 0);
    assert_eq!(percpu::of(0).mpidr, cpu::mpidr());
    for cpu in 0..percpu::count() {
        assert_eq!(percpu::of(cpu).id, cpu);
    }
}

/// Wherever the frames run out: at a page of the stack, or at a table for it. The last test, because it keeps the RAM.
fn a_stack_that_lacks_frames_is_refused() {
    /// Stacks that one table of pages maps, with the holes between them; and more tables than came with the image.
    const IN_A_TABLE: usize = (512 * mmu::PAGE / (2 * STACK_SIZE)) as usize;
    const TABLES: usize = 30;
    let frames = &Kernel::system().frames;
    let mut taken: Vec<_> = core::iter::from_fn(|| frames.alloc()).collect();
    let mut stacks = Vec::new();
    let mut refused = 0;
    while stacks.len() < TABLES * IN_A_TABLE {
        match KernelStack::new() {
            Some(stack) => stacks.push(stack),
            None => {
                refused += 1;
                frames.put(taken.pop().expect("frames that the test took"));
            }
        }
    }
    assert!(refused > stacks.len(), "a new stack of four pages is refused four times, and most of these were new");
}
