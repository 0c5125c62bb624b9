// Every exception of the kernel: save a TrapFrame, call Rust, restore it.
//
// From EL0 only what a called function may change is saved: x19 to x28 are the caller's (AAPCS64 6.1.1), so they are what they
// were when Rust returns, and SP_EL0 goes with the thread (`context`). What must read or change all registers is called
// afterwards, when these are in the frame, too.
//
// The frame's layout is that of `TrapFrame`. A frame from EL1 has, behind it, the pair x29 and pc: a frame record
// that makes the interrupted function the caller in a backtrace.

// What a called function may change, but x0, x1 and x29 to the stack pointer: `volatile stp, str` saves it, `volatile ldp, ldr`
// restores it.
.macro volatile two, one
    \two    x2, x3, [sp, #16]
    \two    x4, x5, [sp, #32]
    \two    x6, x7, [sp, #48]
    \two    x8, x9, [sp, #64]
    \two    x10, x11, [sp, #80]
    \two    x12, x13, [sp, #96]
    \two    x14, x15, [sp, #112]
    \two    x16, x17, [sp, #128]
    \one    x18, [sp, #144]
.endm

// What a called function keeps, likewise by `kept stp` and `kept ldp`.
.macro kept two
    \two    x19, x20, [sp, #152]
    \two    x21, x22, [sp, #168]
    \two    x23, x24, [sp, #184]
    \two    x25, x26, [sp, #200]
    \two    x27, x28, [sp, #216]
.endm

// Saves what `volatile` leaves: what a called function keeps, and the program's stack pointer, which no code of the kernel touches.
.macro save_rest
    mrs     x2, sp_el0
    str     x2, [sp, #248]
    kept    stp
.endm

// What is left of saving a frame from EL1, and the call. The stack has room for the frame, and x0 and x1 are in it.
.macro finish_el1 handler
    volatile stp, str
    kept    stp
    add     x2, sp, #{el1_frame}
    stp     x29, x30, [sp, #232]
    str     x2, [sp, #248]
    mrs     x3, elr_el1
    mrs     x4, spsr_el1
    stp     x3, x4, [sp, #256]
    stp     x29, x3, [sp, #{frame}]
    add     x29, sp, #{frame}
    mov     x0, sp
    adr     x30, return_to_el1
    b       \handler
.endm

// From EL1 on its own stack. All kernel stacks keep bit 14 of their addresses set and the hole below them clear,
// so one bit tells an overflow before the first store; x0 and sp trade sums to keep both without memory.
.macro from_el1 handler
    .balign 128
    sub     sp, sp, #{el1_frame}
    add     sp, sp, x0
    sub     x0, sp, x0
    tbz     x0, #14, stack_overflow
    sub     x0, sp, x0
    sub     sp, sp, x0
    stp     x0, x1, [sp]
    finish_el1 \handler
.endm

.macro from_el0
    .balign 128
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    volatile stp, str
    mrs     x3, elr_el1
    mrs     x4, spsr_el1
    stp     x29, x30, [sp, #232]
    stp     x3, x4, [sp, #256]
    mov     x29, xzr                    // backtraces end here
    mov     x0, sp
.endm

// The handler returns what is to be called with all registers, or 0.
.macro from_el0_and_back handler
    from_el0
    adr     x30, back_to_el0
    b       \handler
.endm

.macro from_el0_for_good handler
    from_el0
    save_rest
    b       \handler
.endm

// From EL1 on SP_EL0 or from AArch32: this kernel runs neither. The stack it finds may be good for a report.
.macro from_nowhere
    .balign 128
    b       impossible
.endm

.section .text.exception, "ax"

.balign 2048
.global exception_vectors
exception_vectors:
    from_nowhere
    from_nowhere
    from_nowhere
    from_nowhere

    from_el1 {el1_sync}
    from_el1 {el1_irq}
    from_nowhere
    from_el1 {el1_serror}

    from_el0_and_back {el0_sync}
    from_el0_and_back {el0_irq}
    from_nowhere
    from_el0_for_good {el0_serror}

    from_nowhere
    from_nowhere
    from_nowhere
    from_nowhere
    .org    exception_vectors + 2048    // an error if a vector outgrew its 32 instructions

impossible:
    sub     sp, sp, #{el1_frame}
    stp     x0, x1, [sp]
    finish_el1 {el1_impossible}

// x0 is the stack pointer less a frame, sp is that plus the interrupted x0. The user's thread registers serve as
// scratch: nothing goes back to EL0 from here.
stack_overflow:
    msr     tpidr_el0, x0
    sub     x0, sp, x0
    msr     tpidrro_el0, x0
    mrs     x0, tpidr_el1
    ldr     x0, [x0, #{anchor_area}]
    ldr     x0, [x0, #{overflow_stack}]
    sub     x0, x0, #{el1_frame}
    mov     sp, x0
    mrs     x0, tpidrro_el0
    stp     x0, x1, [sp]
    volatile stp, str
    kept    stp
    mrs     x2, tpidr_el0
    add     x2, x2, #{el1_frame}
    stp     x29, x30, [sp, #232]
    str     x2, [sp, #248]
    mrs     x3, elr_el1
    mrs     x4, spsr_el1
    stp     x3, x4, [sp, #256]
    stp     x29, x3, [sp, #{frame}]
    add     x29, sp, #{frame}
    mov     x0, sp
    bl      {el1_stack_overflow}

return_to_el1:
    ldp     x3, x4, [sp, #256]
    msr     elr_el1, x3
    msr     spsr_el1, x4
    volatile ldp, ldr
    kept    ldp
    ldp     x29, x30, [sp, #232]
    ldp     x0, x1, [sp]
    add     sp, sp, #{el1_frame}
    eret

back_to_el0:
    cbnz    x0, with_all_registers
restore_and_return:
    ldp     x3, x4, [sp, #256]
    msr     elr_el1, x3
    msr     spsr_el1, x4
    ldp     x29, x30, [sp, #232]
    volatile ldp, ldr
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame}
    eret

with_all_registers:
    save_rest
    mov     x1, x0
    mov     x0, sp
    blr     x1
// Also where a new user thread begins, with its first frame at sp.
.global return_to_el0
return_to_el0:
    ldr     x2, [sp, #248]
    msr     sp_el0, x2
    kept    ldp
    b       restore_and_return
