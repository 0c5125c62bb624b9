// The first instructions of every CPU: drop to EL1, build the first tables, turn the MMU on.
//
// This runs at the physical address it was loaded at, so it may use PC-relative addresses only; they are
// physical until the jump into the upper half. Registers that live through it:
//   x20 device tree (physical, 0 if none)   x21 image start (physical)   x22 exception level at entry
//   x23 where an exception goes on, until there are Rust's vectors

.section .text.header, "ax"

// The arm64 Image header (Linux Documentation/arch/arm64/booting.rst).
.global image_header
image_header:
    b       primary_entry
    .long   0
    .quad   0                           // text_offset: at the 2 MiB boundary itself
    .quad   __image_size                // with .bss and boot stack: RAM we need behind the start
    .quad   0b1010                      // little endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// The image is aligned well enough to be an exception vector table, too. Of the exceptions that EL1 takes on its own stack
// pointer, the synchronous ones cannot be masked: they go on at x23.
    .org    image_header + 0x200
    msr     elr_el1, x23
    eret

.section .text.boot, "ax"

primary_entry:
    msr     daifset, #0xf
    mov     x20, x0
    adrp    x21, image_header
    bl      drop_to_el1
    bl      find_device_tree
    // Lines a loader left in the caches for memory it did not load would hide what is written below, or
    // be written back over it; none is dirty afterwards and none survives to the moment caches come on.
    bl      invalidate_zeroed_memory
    bl      zero_memory
    bl      build_tables
    bl      invalidate_zeroed_memory
    bl      enable_mmu
    ldr     x8, =primary_upper_half
    br      x8

primary_upper_half:
    ldr     x8, =__boot_stack_top
    mov     sp, x8
    ldr     x8, =exception_vectors
    msr     vbar_el1, x8
    isb
    mov     x0, x20
    mov     x1, x21
    mov     x2, x22
    mov     x29, xzr
    mov     x30, xzr
    bl      {start_primary}
    b       park

// Every other CPU, by PSCI or spin-table, with any x0: it finds itself by its MPIDR.
.global secondary_start
secondary_start:
    msr     daifset, #0xf
    bl      drop_to_el1
    bl      enable_mmu
    ldr     x8, =secondary_upper_half
    br      x8

secondary_upper_half:
    ldr     x8, =exception_vectors
    msr     vbar_el1, x8
    isb
    msr     daifclr, #4                 // an SError is reported, not kept
    mrs     x1, mpidr_el1
    ldr     x2, ={affinity_mask}
    and     x1, x1, x2
    ldr     x2, ={percpu_table}
    ldp     x3, x4, [x2]                // pointer to the areas' addresses, their number
1:  cbz     x4, park                    // the device tree does not know this CPU
    ldr     x0, [x3], #8
    sub     x4, x4, #1
    ldr     x5, [x0, #{percpu_mpidr}]
    cmp     x5, x1
    b.ne    1b
    ldr     x5, [x0, #{percpu_stack}]
    mov     sp, x5
    mov     x29, xzr
    mov     x30, xzr
    bl      {start_secondary}

.global park
park:
    wfi
    b       park

// Leaves the CPU at EL1 with the MMU off, whatever level it entered at. Sets x22.
drop_to_el1:
    ldr     x0, ={sctlr_off}
    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    cmp     x22, #2
    b.hi    park                        // EL3 is firmware's
    msr     sctlr_el1, x0
    isb
    b.eq    1f
    msr     spsel, #1                   // a loader at EL1 may have used EL0's stack pointer
    ret

1:  mov     x0, #(1 << 31)              // HCR_EL2.RW: EL1 is AArch64; nothing is trapped
    msr     hcr_el2, x0
    mov     x0, #3                      // CNTHCTL_EL2: EL1 may use the physical counter and timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mov     x0, #0x33ff                 // CPTR_EL2: its RES1 bits; no trap of FP
    msr     cptr_el2, x0
    mrs     x0, id_aa64dfr0_el1
    ubfx    x0, x0, #8, #4              // PMUVer: 0 and 15 mean no PMUv3
    sub     x0, x0, #1
    cmp     x0, #14
    mov     x1, xzr
    b.hs    4f
    mrs     x1, pmcr_el0
    ubfx    x1, x1, #11, #5
4:  msr     mdcr_el2, x1                // no debug or PMU trap; HPMN: all counters are EL1's
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    mrs     x0, id_aa64mmfr0_el1
    ubfx    x0, x0, #56, #4             // FEAT_FGT: its trap registers are UNKNOWN at reset
    cbz     x0, 2f
    msr     S3_4_C1_C1_4, xzr           // HFGRTR_EL2
    msr     S3_4_C1_C1_5, xzr           // HFGWTR_EL2
    msr     S3_4_C1_C1_6, xzr           // HFGITR_EL2
    msr     S3_4_C3_C1_4, xzr           // HDFGRTR_EL2
    msr     S3_4_C3_C1_5, xzr           // HDFGWTR_EL2
2:  mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #24, #4             // GICv3 system registers
    cbz     x0, 3f
    mrs     x0, S3_4_C12_C9_5           // ICC_SRE_EL2
    orr     x0, x0, #(1 << 0)           // SRE: the system registers are used
    orr     x0, x0, #(1 << 3)           // Enable: EL1 may reach ICC_SRE_EL1
    msr     S3_4_C12_C9_5, x0
    isb
    mrs     x0, S3_4_C12_C9_5
    tbz     x0, #0, 3f                  // firmware forbids them: the machine has a GICv2
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2: no virtual interrupts
3:  mov     x0, #0x3c5                  // EL1h, D A I F masked
    msr     spsr_el2, x0
    msr     elr_el2, x30
    eret

// x20 := the device tree's address if one is there. A loader of ELF files passes none, but QEMU `virt` then
// puts it at the start of RAM, which is right below the image. The last resort is what the image itself brings.
// Where there is no memory, the read ends in an abort: then it is not there.
find_device_tree:
    msr     vbar_el1, x21
    isb
    ldr     w1, =0xedfe0dd0             // the magic d00dfeed, read little-endian
    tst     x20, #7
    b.ne    1f
    cbz     x20, 1f
    adr     x23, 1f
    ldr     w0, [x20]
    cmp     w0, w1
    b.eq    2f
1:  subs    x20, x21, #(2 << 20)
    b.lo    3f
    adr     x23, 3f
    ldr     w0, [x20]
    cmp     w0, w1
    b.eq    2f
3:  adrp    x0, {bundle}
    add     x0, x0, :lo12:{bundle}
    ldr     x20, [x0, #{bundle_tree}]
    cbz     x20, 2f
    add     x20, x20, x21
2:  adr     x23, park
    ret

// Invalidates .bss, tables and boot stack in the caches, to the point of coherency.
invalidate_zeroed_memory:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4             // DminLine: log2 of words
    mov     x3, #4
    lsl     x3, x3, x2
    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    sub     x2, x3, #1
    bic     x0, x0, x2
    adrp    x1, __image_end
    // The first line may hold the end of .data, which the loader wrote: clean it, do not drop it.
    dc      civac, x0
1:  add     x0, x0, x3
    cmp     x0, x1
    b.hs    2f
    dc      ivac, x0
    b       1b
2:  dsb     sy
    ret

zero_memory:
    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b
    ret

// Maps the image page by page in the upper half with its final rights, the device tree read-only at
// DEVICE_TREE_BASE, and the 2 MiB that hold this code one to one in the lower half.
build_tables:
    mov     x19, x30
    adrp    x9, boot_image_l3
    adrp    x0, image_header
    adrp    x1, __text_end
    ldr     x2, ={text_page}
    bl      map_image_pages
    adrp    x1, __rodata_end
    ldr     x2, ={rodata_page}
    bl      map_image_pages
    adrp    x1, __bss_end
    ldr     x2, ={data_page}
    bl      map_image_pages
    adrp    x0, __boot_stack_bottom
    adrp    x1, __boot_stack_top
    bl      map_image_pages

    // Root -> L1 -> L2 -> the L3 tables, one after the other.
    adrp    x1, boot_image_l2
    orr     x2, x9, #{table}
    mov     x3, #{image_l3_tables}
    mov     x4, x1
1:  str     x2, [x4], #8
    add     x2, x2, #4096
    subs    x3, x3, #1
    b.ne    1b
    adrp    x0, boot_upper_l1
    orr     x2, x1, #{table}
    str     x2, [x0, #{image_l1_index} * 8]
    adrp    x2, KERNEL_ROOT
    orr     x3, x0, #{table}
    str     x3, [x2, #511 * 8]

    cbz     x20, 2f
    bic     x3, x20, #((2 << 20) - 1)
    ldr     x4, ={rodata_block}
    orr     x3, x3, x4
    add     x1, x1, #{device_tree_l2_index} * 8
    str     x3, [x1]
    add     x3, x3, #(2 << 20)
    str     x3, [x1, #8]

2:  adrp    x0, boot_identity_l2
    ubfx    x1, x21, #21, #9
    ldr     x2, ={text_block}
    orr     x2, x2, x21
    str     x2, [x0, x1, lsl #3]
    adrp    x1, boot_identity_l1
    ubfx    x2, x21, #30, #9
    orr     x0, x0, #{table}
    str     x0, [x1, x2, lsl #3]
    adrp    x0, boot_identity_root
    ubfx    x2, x21, #39, #9
    orr     x1, x1, #{table}
    str     x1, [x0, x2, lsl #3]
    dsb     sy
    ret     x19

// Maps the pages from x0 up to x1 with descriptor bits x2; x0 ends at x1. x9 is the first L3 table.
map_image_pages:
    sub     x3, x0, x21
    add     x3, x9, x3, lsr #9          // eight bytes for each 4096
1:  cmp     x0, x1
    b.hs    2f
    orr     x4, x0, x2
    str     x4, [x3], #8
    add     x0, x0, #4096
    b       1b
2:  ret

// Turns MMU and caches on, with the identity map in the lower half for the instructions that follow.
enable_mmu:
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    ldr     x0, ={mair}
    msr     mair_el1, x0
    ldr     x0, ={tcr}
    mrs     x1, id_aa64mmfr0_el1
    and     x2, x1, #0xf                // PARange, and IPS of the same code; 48 bits at most
    mov     x3, #5
    cmp     x2, x3
    csel    x2, x2, x3, lo
    bfi     x0, x2, #32, #3
    ubfx    x2, x1, #4, #4              // ASIDBits
    cmp     x2, #2
    b.ne    1f
    orr     x0, x0, #(1 << 36)          // AS: 16 bit
1:  msr     tcr_el1, x0
    adrp    x0, boot_identity_root
    msr     ttbr0_el1, x0
    adrp    x0, KERNEL_ROOT
    msr     ttbr1_el1, x0
    ldr     x0, ={sctlr_on}
    mrs     x1, id_aa64mmfr1_el1
    ubfx    x1, x1, #20, #4             // PAN
    cbz     x1, 2f
    bic     x0, x0, #(1 << 23)          // SPAN = 0: every exception to EL1 sets PSTATE.PAN
2:  msr     cpacr_el1, xzr              // FP traps until the scheduler says otherwise
    mov     x2, #{cntkctl}
    msr     cntkctl_el1, x2
    msr     mdscr_el1, xzr
    isb
    msr     sctlr_el1, x0
    isb
    cbz     x1, 3f
    .arch_extension pan
    msr     pan, #1
3:  ret
.ltorg

// Zeroed with .bss. Tables of the first map; the kernel root goes on being the root.
.section .tables, "aw", @nobits
.balign 4096
.global KERNEL_ROOT
KERNEL_ROOT:            .skip 4096
boot_upper_l1:          .skip 4096
boot_image_l2:          .skip 4096
boot_image_l3:          .skip 4096 * {image_l3_tables}
boot_identity_root:     .skip 4096
boot_identity_l1:       .skip 4096
boot_identity_l2:       .skip 4096
