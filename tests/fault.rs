//! Faults of the kernel: each must be caught, and called by its name.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::AtomicU64;

use lazuli::arch::fault_decode::Kind;
use lazuli::arch::jumps::UNANSWERED;
use lazuli::arch::mmu;
use lazuli::arch::stack::{KernelStack, STACK_SIZE};
use lazuli::arch::user_copy::{BadAddress, copy_from_user, copy_to_user};
use lazuli::kernel_tests;
use lazuli::testing::must_fault;

kernel_tests! {
    null_read_faults,
    null_call_faults,
    user_address_faults,
    unmapped_address_faults,
    write_to_rodata_faults,
    write_to_text_faults,
    write_to_rodata_by_the_linear_map_faults,
    write_to_text_by_the_linear_map_faults,
    execution_of_data_faults,
    execution_of_rodata_faults,
    execution_by_the_linear_map_faults,
    stack_guard_faults,
    stack_overflow_is_reported,
    stack_overflow_is_reported_again,
    undefined_instruction_faults,
    a_jump_that_boot_did_not_write_is_noticed,
    user_copies_refuse_what_is_not_the_users,
}

type Verdict = Result<(), String>;

fn read(va: u64) {
    // SAFETY: it faults: that is the test.
    unsafe { asm!("ldr {value}, [{va}]", va = in(reg) va, value = out(reg) _, options(nostack)) };
}

fn write(va: u64) {
    // SAFETY: it faults: that is the test.
    unsafe { asm!("str xzr, [{va}]", va = in(reg) va, options(nostack)) };
}

fn call(va: u64) {
    // SAFETY: it faults: that is the test.
    unsafe { asm!("blr {va}", va = in(reg) va, clobber_abi("C")) };
}

/// Two RET instructions, where data is written and where it is not.
static WRITABLE: AtomicU64 = AtomicU64::new(0xd65f_03c0_d65f_03c0);
static READ_ONLY: u64 = 0xd65f_03c0_d65f_03c0;

fn read_only_va() -> u64 {
    &raw const READ_ONLY as u64
}

fn linear_alias(va: u64) -> u64 {
    mmu::phys_to_virt(mmu::virt_to_phys(va)) as u64
}

fn null_read_faults() -> Verdict {
    extern "C" fn fault() {
        read(8);
    }
    must_fault(Kind::NullDereference, fault)
}

fn null_call_faults() -> Verdict {
    extern "C" fn fault() {
        call(0);
    }
    must_fault(Kind::NullDereference, fault)
}

fn user_address_faults() -> Verdict {
    extern "C" fn fault() {
        read(0x4020_0000);
    }
    must_fault(Kind::UserAddress, fault)
}

fn unmapped_address_faults() -> Verdict {
    extern "C" fn fault() {
        read(0xffff_ff00_0000_0000);
    }
    must_fault(Kind::Unmapped, fault)
}

fn write_to_rodata_faults() -> Verdict {
    extern "C" fn fault() {
        write(read_only_va());
    }
    must_fault(Kind::WriteToReadOnly, fault)
}

fn write_to_text_faults() -> Verdict {
    extern "C" fn fault() {
        write(write as *const () as u64);
    }
    must_fault(Kind::WriteToReadOnly, fault)
}

fn write_to_rodata_by_the_linear_map_faults() -> Verdict {
    extern "C" fn fault() {
        write(linear_alias(read_only_va()));
    }
    must_fault(Kind::WriteToReadOnly, fault)
}

fn write_to_text_by_the_linear_map_faults() -> Verdict {
    extern "C" fn fault() {
        write(linear_alias(write as *const () as u64));
    }
    must_fault(Kind::WriteToReadOnly, fault)
}

fn execution_of_data_faults() -> Verdict {
    extern "C" fn fault() {
        call(WRITABLE.as_ptr() as u64);
    }
    must_fault(Kind::ExecuteOfNonExecutable, fault)
}

fn execution_of_rodata_faults() -> Verdict {
    extern "C" fn fault() {
        call(read_only_va());
    }
    must_fault(Kind::ExecuteOfNonExecutable, fault)
}

fn execution_by_the_linear_map_faults() -> Verdict {
    extern "C" fn fault() {
        call(linear_alias(call as *const () as u64));
    }
    must_fault(Kind::ExecuteOfNonExecutable, fault)
}

fn stack_guard_faults() -> Verdict {
    extern "C" fn fault() {
        let stack = KernelStack::new().expect("memory for a stack");
        let below = stack.top() - STACK_SIZE - 8;
        drop(stack);
        read(below);
    }
    must_fault(Kind::StackGuard, fault)
}

fn stack_overflow_is_reported() -> Verdict {
    #[expect(unconditional_recursion, reason = "the stack must run out")]
    extern "C" fn fault() {
        let frame = black_box([0_u64; 32]);
        fault();
        black_box(frame);
    }
    must_fault(Kind::StackOverflow, fault)
}

/// The stack that reports an overflow must be good for the next one.
fn stack_overflow_is_reported_again() -> Verdict {
    stack_overflow_is_reported()
}

fn undefined_instruction_faults() -> Verdict {
    extern "C" fn fault() {
        // SAFETY: it faults: that is the test.
        unsafe { asm!("udf #0", options(nomem, nostack)) };
    }
    must_fault(Kind::Other, fault)
}

/// It is what the build leaves where the switch asks for the scheme's part.
fn a_jump_that_boot_did_not_write_is_noticed() -> Verdict {
    extern "C" fn fault() {
        // SAFETY: it faults: that is the test.
        unsafe { asm!("brk {number}", number = const UNANSWERED, options(nomem, nostack)) };
    }
    must_fault(Kind::Unanswered, fault)
}

fn user_copies_refuse_what_is_not_the_users() {
    let mut buffer = [0xa5; 40];
    let kernel = read_only_va();
    for bad in [0, 0x4020_0000, (1 << 48) - 1, 1 << 48, kernel, linear_alias(kernel), u64::MAX] {
        for len in [1, 8, 40] {
            assert_eq!(copy_from_user(&mut buffer[..len], bad), Err(BadAddress), "from {bad:#x}, {len}");
            assert_eq!(copy_to_user(bad, &buffer[..len]), Err(BadAddress), "to {bad:#x}, {len}");
        }
    }
    assert_eq!(buffer, [0xa5; 40]);
}
