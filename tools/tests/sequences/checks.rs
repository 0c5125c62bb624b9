//! What must hold for the kernel's code.

use mm::{Op, Sequence};

use super::{BEFORE_THE_MMU, Code, REGISTER, TLBI, is};

/// What a check says: nothing, or what is wrong and where.
pub(super) type Finding = Result<(), String>;

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Finding {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Each sequence stands somewhere in the kernel, its operations in order and nothing between them.
fn every_sequence_is_there(code: &Code) -> Finding {
    Sequence::ALL.iter().try_for_each(|sequence| {
        let found = (0..code.instructions.len()).any(|index| code.has_at(index, sequence.ops()));
        require(found, || format!("{sequence:?} {:?} stands nowhere in the kernel", sequence.ops()))
    })
}

/// Whoever writes TTBR0 completes the walks of the old tables at once.
fn every_ttbr0_write_is_completed(code: &Code) -> Finding {
    let writes = code.find(&[BEFORE_THE_MMU], |instruction| is(Op::MsrTtbr0, instruction));
    writes.into_iter().try_for_each(|write| {
        let complete = code.has_at(write, Sequence::LoadRoot.ops());
        require(complete, || format!("not followed by ISB, DSB NSH: {}", code.place(write)))
    })
}

/// Every TLBI is one of a sequence's.
fn every_tlbi_is_accounted_for(code: &Code) -> Finding {
    for tlbi in code.find(&[BEFORE_THE_MMU], is_tlbi) {
        let part = |sequence: &Sequence| {
            let ops = sequence.ops();
            (0..ops.len()).any(|at| tlbi >= at && is(ops[at], code.instructions[tlbi].1) && code.has_at(tlbi - at, ops))
        };
        require(Sequence::ALL.iter().any(part), || format!("a TLBI of no sequence: {}", code.place(tlbi)))?;
    }
    Ok(())
}

/// Before a broadcast TLBI every way from the start of its function has the DSB that publishes the stores; on every way
/// on stands the DSB that waits for it, before the function is left.
fn every_tlbi_is_between_its_barriers(code: &Code) -> Finding {
    let is_one_of = |ops: &[Op], instruction| ops.iter().any(|op| is(*op, instruction));
    for tlbi in code.find(&[], |instruction| is_one_of(&BROADCAST, instruction)) {
        let unpublished = |instruction| !is_one_of(&[Op::DsbIshst, Op::DsbIsh], instruction);
        let here = code.instructions[tlbi];
        let early = code.way_to(code.entry(tlbi), unpublished, |instruction| instruction == here.1, false);
        require(early.is_none(), || format!("no DSB ISHST on some way to it: {}", code.place(tlbi)))?;
        // Also where nothing is invalidated, since nobody ever ran it: that is known only behind a full one (0005).
        let nobody = code.way_to(code.entry(tlbi), |instruction| !is(Op::DsbIsh, instruction), |_| false, true);
        require(nobody.is_none(), || format!("it may be left out without a DSB ISH: {}", code.place(tlbi)))?;
        is_waited_for(code, tlbi, &[Op::DsbIsh])?;
    }
    // What is published before a local one was published by another CPU, perhaps.
    code.find(&[BEFORE_THE_MMU], |instruction| is_one_of(&LOCAL, instruction))
        .into_iter()
        .try_for_each(|tlbi| is_waited_for(code, tlbi, &[Op::DsbNsh, Op::DsbIsh]))
}

fn is_waited_for(code: &Code, tlbi: usize, barriers: &[Op]) -> Finding {
    let waits = |instruction| barriers.iter().any(|op| is(*op, instruction));
    let left = code.way_to(tlbi + 1, |instruction| !waits(instruction), |_| false, true);
    require(left.is_none(), || {
        let place = left.map_or(String::new(), |left| code.place(left));
        format!("no {:?} between it and the end: {} … {place}", barriers[0], code.place(tlbi))
    })
}

/// Who sets a bit of a mask and then loads a root executes a DSB ISH in between (rule 1).
fn every_own_bit_is_published(code: &Code) -> Finding {
    let bits = own_bits(code);
    require(!bits.is_empty(), || "nobody sets a bit and loads a root".to_string())?;
    bits.into_iter().try_for_each(|bit| {
        let unpublished = |instruction| !is(Op::DsbIsh, instruction);
        let loaded = code.way_to(bit, unpublished, |instruction| is(Op::MsrTtbr0, instruction), false);
        require(loaded.is_none(), || format!("no DSB ISH before the root is loaded: {}", code.place(bit)))
    })
}

/// An LDXR, ORR, STXR from which some way leads to an MSR TTBR0 of the same function.
pub(super) fn own_bits(code: &Code) -> Vec<usize> {
    let word = |at: usize| code.instructions.get(at).map_or(0, |instruction| instruction.1);
    let sets_bit = |at: &usize| {
        word(*at) & 0xffff_fc00 == 0xc85f_7c00
            && word(at + 1) & 0xff20_0000 == 0xaa00_0000
            && word(at + 2) & 0xffe0_fc00 == 0xc800_7c00
    };
    let loads = |at: &usize| code.way_to(*at, |_| true, |word| is(Op::MsrTtbr0, word), false).is_some();
    (0..code.instructions.len()).filter(sets_bit).filter(loads).collect()
}

/// TLBIs and writes of TTBR0 come from one file, and from the boot code.
fn hardware_is_told_from_one_file(code: &Code) -> Finding {
    let tells = |instruction| is_tlbi(instruction) || is(Op::MsrTtbr0, instruction);
    code.find(&[BEFORE_THE_MMU], tells).into_iter().try_for_each(|index| {
        let file = code.file(code.instructions[index].0);
        require(file.as_deref().is_some_and(|file| file.ends_with(ONE_FILE)), || {
            format!("from {}: {}", file.unwrap_or_default(), code.place(index))
        })
    })
}

/// Where the operations of the running kernel stand.
const ONE_FILE: &str = "src/arch/tlbi.rs";

/// CRn = C8: any TLBI at all, whatever its op1.
fn is_tlbi(instruction: u32) -> bool {
    instruction & 0xfff8_f000 == TLBI
}

/// The TLBIs that reach every CPU.
pub(super) const BROADCAST: [Op; 5] =
    [Op::TlbiVale1is, Op::TlbiVae1is, Op::TlbiRvale1is, Op::TlbiRvae1is, Op::TlbiAside1is];
/// Those of a flush that reach the CPU which issues them.
pub(super) const LOCAL: [Op; 5] = [Op::TlbiVale1, Op::TlbiVae1, Op::TlbiRvale1, Op::TlbiRvae1, Op::TlbiAside1];

/// FP and SIMD registers are the programs': the kernel only saves and loads all of them, by sixteen
/// pairs in a row, and computes with none (C4.1: op0 x111, and loads and stores x1x0 with V set).
fn fp_registers_are_only_saved_and_loaded(code: &Code) -> Finding {
    let touches_fp = |instruction: u32| {
        let op0 = instruction >> 25 & 0xf;
        op0 & 0b0111 == 0b0111 || (op0 & 0b0101 == 0b0100 && instruction & 1 << 26 != 0)
    };
    let found = code.find(&[], touches_fp);
    require(!found.is_empty(), || "nobody saves the programs' FP registers".to_string())?;
    found.into_iter().try_for_each(|index| {
        let pair = (code.instructions[index].1 & REGISTER) as usize / 2;
        let block = index.checked_sub(pair).and_then(|start| code.instructions.get(start..start + 16));
        let all = |op| block.is_some_and(|block| block.iter().enumerate().all(|(at, word)| is_pair(op, at, word.1)));
        require(all(STP_Q) || all(LDP_Q), || format!("an FP or SIMD register: {}", code.place(index)))
    })
}

/// `STP Qt, Qt2, [Xn, #imm]` and `LDP` of the same form.
const STP_Q: u32 = 0xad00_0000;
const LDP_Q: u32 = 0xad40_0000;

/// Whether it is that instruction for q(2 × index) and q(2 × index + 1).
fn is_pair(op: u32, index: usize, instruction: u32) -> bool {
    let (first, second) = (instruction & REGISTER, instruction >> 10 & REGISTER);
    instruction & 0xffc0_0000 == op && (first as usize, second as usize) == (2 * index, 2 * index + 1)
}

/// Cortex-A72 is Armv8.0: no LSE atomics (C4.1.94: LDADD to SWP, CAS, CASP).
fn no_lse_atomics(code: &Code) -> Finding {
    let lse = |instruction: u32| {
        instruction & 0x3b20_0c00 == 0x3820_0000
            || instruction & 0x3fa0_7c00 == 0x08a0_7c00
            || instruction & 0xbfa0_7c00 == 0x0820_7c00
    };
    let found = code.find(&[], lse);
    require(found.is_empty(), || format!("an LSE atomic: {}", code.place(found[0])))
}

/// All of it.
pub(super) fn check(code: &Code) -> Finding {
    every_sequence_is_there(code)?;
    every_ttbr0_write_is_completed(code)?;
    every_tlbi_is_accounted_for(code)?;
    every_tlbi_is_between_its_barriers(code)?;
    every_own_bit_is_published(code)?;
    hardware_is_told_from_one_file(code)?;
    fp_registers_are_only_saved_and_loaded(code)?;
    no_lse_atomics(code)
}
