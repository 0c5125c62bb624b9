// The parameters, as 64-bit words at a fixed address: offsets in bytes.
.equ DESTINATION, 0                     // where the image goes
.equ SOURCE, 8                          // where it is
.equ LENGTH, 16                         // its bytes, a multiple of 16
.equ TREE, 24                           // goes into x0
.equ RELEASE, 32                        // CPU n polls the word at RELEASE + 8 n
.equ GICD, 40                           // a GICv2's distributor, 0 for none
.equ GICC, 48                           // and its CPU interface
.equ GICD_CTLR, 56                      // what the distributor is left at: off (0) or on (3)
.equ PATTERN, 64                        // RAM is filled with it
.equ DEVICE, 72                         // a device register that is set, 0 for none
.equ VALUE, 80                          // and to what
.equ RANGES, 88                         // how many ranges of RAM are filled
.equ NOISE, 96                          // 32 words for the registers
.equ RANGE, 352                         // start and end of each range

.section .text.start, "ax"
.global start
start:
    msr     daifset, #0xf
    ldr     x19, ={parameters}
    mrs     x20, mpidr_el1
    and     x20, x20, #0xff
    mrs     x21, CurrentEL
    lsr     x21, x21, #2
    cmp     x21, #3
    b.ne    1f
    bl      leave_secure_world
1:  cbnz    x20, secondary
    bl      copy_image
    bl      fill_memory
    ldp     x1, x2, [x19, #DEVICE]
    cbz     x1, 2f
    str     w2, [x1]
2:
    ldr     x28, [x19, #DESTINATION]
    ldr     x0, [x19, #TREE]
    b       enter

// Polls its word, as the Raspberry Pi's armstub8 does, and enters where it says, with x0 to x3 zero.
secondary:
    ldr     x1, [x19, #RELEASE]
    add     x1, x1, x20, lsl #3
1:  wfe
    ldr     x28, [x1]
    cbz     x28, 1b
    mov     x0, xzr

// Enters at x28 with x0 kept and everything else full of noise. x21 is the level this CPU runs at.
enter:
    add     x19, x19, #NOISE
    ldp     x1, x2, [x19]
    msr     vbar_el1, x1
    msr     mair_el1, x2
    msr     tcr_el1, x1
    msr     ttbr0_el1, x2
    msr     ttbr1_el1, x1
    msr     cntkctl_el1, x2
    msr     contextidr_el1, x1
    msr     tpidr_el1, x2
    msr     tpidr_el0, x1
    msr     tpidrro_el0, x2
    msr     sp_el0, x1
    msr     mdscr_el1, x2
    msr     cntv_cval_el0, x1
    msr     cntv_ctl_el0, x2
    msr     cntp_cval_el0, x2
    msr     cntp_ctl_el0, x1
    msr     pmcr_el0, x1
    msr     pmcntenset_el0, x2
    msr     pmintenset_el1, x1
    msr     pmuserenr_el0, x2
    msr     cpacr_el1, x1
    cmp     x21, #1
    b.ne    1f
    msr     spsel, #0                   // nothing says which stack pointer is in use
    b       noise
1:  msr     sctlr_el1, x1               // not in use before the kernel drops to EL1
    msr     elr_el1, x2
    msr     vttbr_el2, x1
    msr     vtcr_el2, x2
    msr     vpidr_el2, x1
    msr     vmpidr_el2, x2
    msr     vbar_el2, x1
    mov     x3, #-1                     // every trap there is
    msr     hstr_el2, x3
    msr     cptr_el2, x3
    msr     mdcr_el2, x3
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, x2
    bic     x2, x2, #(1 << 34)          // E2H would change what the other registers mean
    msr     hcr_el2, x2
    isb
    cmp     x21, #2
    b.eq    noise
    ldr     x1, =0x30c50830             // SCTLR_EL2: its RES1 bits, MMU and caches off
    msr     sctlr_el2, x1
    mov     x1, #0x3c9                  // EL2h, all masked
    msr     spsr_el3, x1
    msr     elr_el3, x28
    bl      all_noise
    eret
noise:
    bl      all_noise
    br      x28

// Noise in every register but x0, x28 and x30.
all_noise:
    ldp     x1, x2, [x19, #16]
    mov     sp, x1
    ldp     x3, x4, [x19, #32]
    ldp     x5, x6, [x19, #48]
    ldp     x7, x8, [x19, #64]
    ldp     x9, x10, [x19, #80]
    ldp     x11, x12, [x19, #96]
    ldp     x13, x14, [x19, #112]
    ldp     x15, x16, [x19, #128]
    ldp     x17, x18, [x19, #144]
    ldp     x20, x21, [x19, #160]
    ldp     x22, x23, [x19, #176]
    ldp     x24, x25, [x19, #192]
    ldp     x26, x27, [x19, #208]
    ldp     x29, x19, [x19, #224]
    ret

// At EL3: lets EL2 be Non-secure AArch64 without SMC, and gives it every interrupt.
leave_secure_world:
    mov     x0, #0x5b1                  // SCR_EL3: RW, HCE, SMD, NS
    msr     scr_el3, x0
    msr     cptr_el3, xzr
    mrs     x0, S3_1_C15_C2_1           // CPUECTLR_EL1.SMPEN (Cortex-A72 TRM, 4.3.67)
    orr     x0, x0, #(1 << 6)
    msr     S3_1_C15_C2_1, x0
    isb
    ldr     x0, [x19, #GICD]
    cbz     x0, 9f
    ldr     x1, [x19, #GICC]
    mov     w2, #0xff                   // GICC_PMR
    str     w2, [x1, #4]
    mov     w2, #0x1e7                  // GICC_CTLR: both groups on, no bypass
    str     w2, [x1]
    mov     w2, #-1
    str     w2, [x0, #0x80]             // GICD_IGROUPR0, banked: SGIs and PPIs
    mov     w3, #0xffff0000
    str     w3, [x0, #0x100]            // GICD_ISENABLER0: all PPIs, as if left on
    cbnz    x20, 9f
    ldr     w3, [x0, #4]                // GICD_TYPER.ITLinesNumber
    and     w3, w3, #0x1f
    add     x5, x0, #0x820
    ldr     w6, =0x01010101
1:  cbz     w3, 2f
    add     x4, x0, w3, uxtw #2
    str     w2, [x4, #0x80]             // IGROUPR: Non-secure
    str     w2, [x4, #0x100]            // ISENABLER: left on
    str     w2, [x4, #0x200]            // ISPENDR: left pending
    .rept 8
    str     w6, [x5], #4                // ITARGETSR: all to CPU 0
    .endr
    sub     w3, w3, #1
    b       1b
2:  ldr     x2, [x19, #GICD_CTLR]
    str     w2, [x0]
9:  ret

copy_image:
    ldp     x0, x1, [x19, #DESTINATION] // and the source
    ldr     x2, [x19, #LENGTH]
    cbz     x2, 2f
1:  ldp     x3, x4, [x1], #16
    stp     x3, x4, [x0], #16
    subs    x2, x2, #16
    b.ne    1b
2:  ic      iallu
    dsb     sy
    isb
    ret

fill_memory:
    ldr     x0, [x19, #PATTERN]
    ldr     x1, [x19, #RANGES]
    add     x2, x19, #RANGE
1:  cbz     x1, 3f
    sub     x1, x1, #1
    ldp     x3, x4, [x2], #16
2:  cmp     x3, x4
    b.hs    1b
    stp     x0, x0, [x3], #16
    b       2b
3:  dsb     sy
    ret
.ltorg
