//! The A64 instructions that a plugin looks for, told from their 32 bits (Arm ARM C4.1).

/// What an instruction is, of those that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// A TLBI of the EL1&0 regime, with the register that holds its operand.
    Tlbi(Tlbi, Register),
    /// DSB.
    Dsb(Barrier),
    /// DMB.
    Dmb,
    /// ISB.
    Isb,
    /// MSR to a register that a translation depends on.
    Msr(System, Register),
    /// HINT with its number.
    Hint(u8),
    /// ERET, also with pointer authentication.
    Eret,
    /// HVC or SMC: a call of the firmware.
    FirmwareCall,
    /// An atomic of FEAT_LSE.
    Atomic,
    /// A store-exclusive: the end of an LL/SC pair.
    StoreExclusive,
    /// PRFM that fetches a line in order to write it (PST), with the register and the offset that make its address.
    PrefetchForStore(Register, u64),
}

/// A general register by its number; 31 reads as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Register(pub(crate) u8);

/// The registers of [`Operation::Msr`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum System {
    Ttbr0,
    Ttbr1,
    Tcr,
    Sctlr,
    /// ICC_SGI1R_EL1: sends an SGI by GICv3.
    Sgi1r,
}

/// Which accesses a DSB waits for, and how far it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Barrier {
    /// Loads and stores, so that TLB maintenance is complete, too (Arm ARM D8.17).
    pub(crate) full: bool,
    /// Other CPUs, too: Inner Shareable or further.
    pub(crate) shared: bool,
}

/// What a TLBI invalidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Everything.
    All,
    /// What is tagged with an ASID.
    Asid,
    /// A page under an ASID, and global entries for it.
    Page { leaf_only: bool },
    /// A page under every ASID.
    PageAllAsids { leaf_only: bool },
    /// A range of pages under an ASID.
    Range { leaf_only: bool },
    /// A range of pages under every ASID.
    RangeAllAsids { leaf_only: bool },
}

/// One TLBI operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tlbi {
    pub(crate) what: What,
    /// On every CPU (IS, OS) or on this one.
    pub(crate) broadcast: bool,
}

/// Decodes an instruction.
pub(crate) fn decode(bits: u32) -> Option<Operation> {
    let register = Register(bits as u8 & 31);
    match bits {
        _ if bits & 0xffff_f01f == 0xd503_201f => Some(Operation::Hint((bits >> 5 & 127) as u8)),
        _ if bits & 0xffff_f0ff == 0xd503_309f => Some(Operation::Dsb(barrier(bits >> 8 & 15))),
        // DSB with the nXS qualifier: always full; the domain stands in bits 11:10.
        _ if bits & 0xffff_f3ff == 0xd503_323f => {
            Some(Operation::Dsb(Barrier { full: true, shared: bits >> 10 & 3 != 1 }))
        }
        _ if bits & 0xffff_f0ff == 0xd503_30bf => Some(Operation::Dmb),
        _ if bits & 0xffff_f0ff == 0xd503_30df => Some(Operation::Isb),
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Some(Operation::Eret),
        _ if matches!(bits & 0xffe0_001f, 0xd400_0002 | 0xd400_0003) => Some(Operation::FirmwareCall),
        _ if bits & 0xfff8_0000 == 0xd508_0000 => tlbi(bits).map(|tlbi| Operation::Tlbi(tlbi, register)),
        _ if bits & 0xfff0_0000 == 0xd510_0000 => system(bits).map(|system| Operation::Msr(system, register)),
        // Store-exclusive, single or pair; but a pair of words with Rt2 = 31 is CASP.
        _ if bits & 0xbfa0_7c00 == 0x0820_7c00 => Some(Operation::Atomic),
        _ if bits & 0x3fc0_0000 == 0x0800_0000 => Some(Operation::StoreExclusive),
        // CAS.
        _ if bits & 0x3fa0_7c00 == 0x08a0_7c00 => Some(Operation::Atomic),
        // PRFM (immediate) of the type PST.
        _ if bits & 0xffc0_0018 == 0xf980_0010 => {
            Some(Operation::PrefetchForStore(Register((bits >> 5 & 31) as u8), u64::from(bits >> 10 & 0xfff) * 8))
        }
        _ if bits & 0x3f20_0c00 == 0x3820_0000 && is_read_modify_write(bits) => Some(Operation::Atomic),
        _ => None,
    }
}

/// Of the class that the atomic operations share with LDAPR and the 64-byte loads and stores: o3 = 0 is an operation;
/// o3 = 1 with opc = 0 is SWP.
fn is_read_modify_write(bits: u32) -> bool {
    bits >> 15 & 1 == 0 || bits >> 12 & 7 == 0
}

/// CRm of a DSB: types in 1:0, domain in 3:2, of which 01 is this CPU alone.
fn barrier(crm: u32) -> Barrier {
    Barrier { full: crm & 3 == 3, shared: crm >> 2 != 1 }
}

fn system(bits: u32) -> Option<System> {
    // op0, op1, CRn, CRm, op2 stand in bits 19:5.
    match bits >> 5 & 0x7fff {
        0x4100 => Some(System::Ttbr0),
        0x4101 => Some(System::Ttbr1),
        0x4102 => Some(System::Tcr),
        0x4080 => Some(System::Sctlr),
        0x465d => Some(System::Sgi1r),
        _ => None,
    }
}

fn tlbi(bits: u32) -> Option<Tlbi> {
    let (op1, crn, crm, op2) = (bits >> 16 & 7, bits >> 12 & 15, bits >> 8 & 15, bits >> 5 & 7);
    if !matches!(crn, 8 | 9) {
        return None;
    }
    let leaf_only = op2 >= 5;
    let what = match (op1, crm, op2) {
        (0, 1 | 3 | 7, 0) => What::All,
        // EL2's operations on EL1's entries: ALLE1, VMALLS12E1.
        (4, 1 | 3 | 7, 4 | 6) => What::All,
        (0, 1 | 3 | 7, 2) => What::Asid,
        (0, 1 | 3 | 7, 1 | 5) => What::Page { leaf_only },
        (0, 1 | 3 | 7, 3 | 7) => What::PageAllAsids { leaf_only },
        (0, 2 | 5 | 6, 1 | 5) => What::Range { leaf_only },
        (0, 2 | 5 | 6, 3 | 7) => What::RangeAllAsids { leaf_only },
        _ => return None,
    };
    Some(Tlbi { what, broadcast: !matches!(crm, 6 | 7) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llvm-mc makes of each line of assembly.
    const ASSEMBLED: &[(&str, u32)] = &[
        ("vmalle1", 0xd508871f),
        ("vmalle1is", 0xd508831f),
        ("aside1 x3", 0xd5088743),
        ("aside1is x3", 0xd5088343),
        ("vae1 x3", 0xd5088723),
        ("vale1is x3", 0xd50883a3),
        ("vaae1is x3", 0xd5088363),
        ("rvae1is x3", 0xd5088223),
        ("rvale1 x3", 0xd50886a3),
    ];

    fn assembled(name: &str) -> Tlbi {
        let (_, bits) = ASSEMBLED.iter().find(|(text, _)| *text == name).unwrap();
        match decode(*bits) {
            Some(Operation::Tlbi(tlbi, Register(3 | 31))) => tlbi,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn tlbi_operations_have_a_scope_and_a_reach() {
        for (name, what, broadcast) in [
            ("vmalle1", What::All, false),
            ("vmalle1is", What::All, true),
            ("aside1 x3", What::Asid, false),
            ("aside1is x3", What::Asid, true),
            ("vae1 x3", What::Page { leaf_only: false }, false),
            ("vale1is x3", What::Page { leaf_only: true }, true),
            ("vaae1is x3", What::PageAllAsids { leaf_only: false }, true),
            ("rvae1is x3", What::Range { leaf_only: false }, true),
            ("rvale1 x3", What::Range { leaf_only: true }, false),
        ] {
            assert_eq!(assembled(name), Tlbi { what, broadcast }, "{name}");
        }
        // TLBI VAE2 is of another regime.
        assert_eq!(decode(0xd50c8723), None);
    }

    #[test]
    fn barriers_differ_in_types_and_domain() {
        for (bits, full, shared) in [
            (0xd5033b9f, true, true),   // ish
            (0xd503379f, true, false),  // nsh
            (0xd5033f9f, true, true),   // sy
            (0xd5033a9f, false, true),  // ishst
            (0xd503369f, false, false), // nshst
            (0xd5033a3f, true, true),   // ishnxs
        ] {
            assert_eq!(decode(bits), Some(Operation::Dsb(Barrier { full, shared })), "{bits:#x}");
        }
        assert_eq!(decode(0xd5033fdf), Some(Operation::Isb));
        assert_eq!(decode(0xd5033bbf), Some(Operation::Dmb));
    }

    #[test]
    fn registers_hints_and_returns() {
        assert_eq!(decode(0xd5182005), Some(Operation::Msr(System::Ttbr0, Register(5))));
        assert_eq!(decode(0xd5182025), Some(Operation::Msr(System::Ttbr1, Register(5))));
        assert_eq!(decode(0xd5182045), Some(Operation::Msr(System::Tcr, Register(5))));
        assert_eq!(decode(0xd5181005), Some(Operation::Msr(System::Sctlr, Register(5))));
        assert_eq!(decode(0xd518cba5), Some(Operation::Msr(System::Sgi1r, Register(5))));
        assert_eq!(decode(0xd5382005), None, "MRS");
        assert_eq!(decode(0xd5032c9f), Some(Operation::Hint(100)));
        assert_eq!(decode(0xd69f03e0), Some(Operation::Eret));
        assert_eq!(decode(0xd4000002), Some(Operation::FirmwareCall), "hvc #0");
        assert_eq!(decode(0xd4000001), None, "svc #0");
    }

    #[test]
    fn a_prefetch_counts_if_it_is_for_a_store() {
        let prefetch = |register, offset| Some(Operation::PrefetchForStore(Register(register), offset));
        assert_eq!(decode(0xf9800050), prefetch(2, 0), "prfm pstl1keep, [x2]");
        assert_eq!(decode(0xf9800871), prefetch(3, 16), "prfm pstl1strm, [x3, #16]");
        assert_eq!(decode(0xf9800040), None, "prfm pldl1keep, [x2]");
        assert_eq!(decode(0xf9800048), None, "prfm plil1keep, [x2]");
    }

    #[test]
    fn atomics_are_of_two_kinds() {
        for bits in [
            0xf8210041, // ldadd x1, x1, [x2]
            0xb8e18041, // swpal w1, w1, [x2]
            0xc8e1fc41, // casal x1, x1, [x2]
            0x48207c82, // casp x0, x1, x2, x3, [x4]
        ] {
            assert_eq!(decode(bits), Some(Operation::Atomic), "{bits:#x}");
        }
        for bits in [0xc8037c41, 0x8803fc41, 0xc8230841] {
            assert_eq!(decode(bits), Some(Operation::StoreExclusive), "{bits:#x}");
        }
        for bits in [
            0xc85f7c41, // ldxr
            0xc89ffc41, // stlr
            0xf8606841, // ldr x1, [x2, x0]
            0xb8bfc041, // ldapr w1, [x2]
            0xf9000041, // str x1, [x2]
        ] {
            assert_eq!(decode(bits), None, "{bits:#x}");
        }
    }
}
