//! The built kernel, instruction by instruction, against the operation lists of the mm layer.
//!
//! The lists are executed step by step by the model of the hardware (`mm/tests/machine`). Here the
//! same lists are looked for in the kernel's code, so that a barrier which the model has and the
//! kernel lost, or the other way round, does not stay hidden. The encodings are the Arm ARM's
//! (C6.2 for each instruction), written out: no assembler or disassembler is trusted.
//!
//! `LAZULI_KERNEL` names the kernel; without it the release kernel is built and read.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use mm::{Op, Sequence};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// The one piece of code that loads TTBR0 while the MMU is still off.
const BEFORE_THE_MMU: &str = "enable_mmu";

/// Bits 4:0, where an instruction names its first register.
const REGISTER: u32 = 0x1f;

/// `MSR TTBR0_EL1, Xt`: S3_0_C2_C0_0.
const MSR_TTBR0: u32 = 0xd518_2000;
/// `SYS #op1, C8, Cm, #op2, Xt` with op1 = 0 (EL1): all TLBIs that the kernel could use.
const TLBI: u32 = 0xd508_8000;

/// The instruction that an operation is lowered to, its register field zero where it has one.
fn encoding(op: Op) -> u32 {
    let tlbi = |crm: u32, op2: u32| TLBI | crm << 8 | op2 << 5;
    let dsb = |option: u32| 0xd503_309f | option << 8;
    match op {
        Op::DsbIsh => dsb(0b1011),
        Op::DsbIshst => dsb(0b1010),
        Op::DsbNsh => dsb(0b0111),
        Op::DsbNshst => dsb(0b0110),
        Op::Isb => 0xd503_3fdf,
        Op::MsrTtbr0 => MSR_TTBR0,
        Op::TlbiVale1is => tlbi(3, 5),
        Op::TlbiVae1is => tlbi(3, 1),
        Op::TlbiAside1is => tlbi(3, 2),
        Op::TlbiVale1 => tlbi(7, 5),
        Op::TlbiVae1 => tlbi(7, 1),
        Op::TlbiRvale1is => tlbi(2, 5),
        Op::TlbiRvae1is => tlbi(2, 1),
        Op::TlbiRvale1 => tlbi(6, 5),
        Op::TlbiRvae1 => tlbi(6, 1),
        Op::TlbiAside1 => tlbi(7, 2),
        Op::TlbiVmalle1 => tlbi(7, 0) | REGISTER,
    }
}

/// Whether the operation's instruction names a register.
fn takes_register(op: Op) -> bool {
    !matches!(op, Op::DsbIsh | Op::DsbIshst | Op::DsbNsh | Op::DsbNshst | Op::Isb | Op::TlbiVmalle1)
}

fn is(op: Op, instruction: u32) -> bool {
    let mask = if takes_register(op) { !REGISTER } else { !0 };
    instruction & mask == encoding(op)
}

/// The kernel's code.
struct Code {
    /// Address and instruction, in order.
    instructions: Vec<(u64, u32)>,
    /// Address and name of every function, in order.
    functions: Vec<(u64, String)>,
}

impl Code {
    fn read() -> Self {
        let path = kernel();
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make build`", path.display()));
        let file = object::File::parse(&*bytes).expect("the kernel is an ELF file");
        // Mapping symbols (ELF for the Arm 64-bit architecture, 4.5.4) tell code from literals.
        let mut marks: Vec<(u64, bool)> = Vec::new();
        let mut functions = Vec::new();
        for symbol in file.symbols() {
            match symbol.name().unwrap_or_default() {
                name if name.starts_with("$x") => marks.push((symbol.address(), true)),
                name if name.starts_with("$d") => marks.push((symbol.address(), false)),
                "" => {}
                name if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown) => {
                    functions.push((symbol.address(), name.to_string()));
                }
                _ => {}
            }
        }
        marks.sort();
        functions.sort();
        let is_code =
            |address| marks[..marks.partition_point(|mark| mark.0 <= address)].last().is_none_or(|mark| mark.1);
        let mut instructions = Vec::new();
        for section in file.sections() {
            let executable = section.kind() == SectionKind::Text;
            let words = section.data().expect("the section lies in the file").chunks_exact(4);
            let words = words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
            let placed = (section.address()..).step_by(4).zip(words);
            instructions.extend(placed.filter(|(address, _)| executable && is_code(*address)));
        }
        assert!(instructions.len() > 10_000, "{} has hardly any code", path.display());
        Self { instructions, functions }
    }

    /// The name of the function that holds an address.
    fn function(&self, address: u64) -> &str {
        let index = self.functions.partition_point(|function| function.0 <= address);
        index.checked_sub(1).map_or("?", |index| &self.functions[index].1)
    }

    /// Whether the operations stand at this index, one directly after the other.
    fn has_at(&self, index: usize, ops: &[Op]) -> bool {
        let end = index + ops.len();
        end <= self.instructions.len()
            && ops.iter().zip(&self.instructions[index..end]).all(|(op, (_, instruction))| is(*op, *instruction))
    }

    /// Whether an operation stands in the function that holds this index. Where in it the compiler
    /// puts a block says nothing about when it runs.
    fn function_has(&self, index: usize, op: Op) -> bool {
        let mut before = (0..index).rev().take_while(|at| self.share_function(*at, index));
        let rest = index + 1..self.instructions.len();
        let mut after = rest.take_while(|at| self.share_function(*at, index));
        let holds = |at: usize| is(op, self.instructions[at].1);
        before.any(holds) || after.any(holds)
    }

    fn share_function(&self, one: usize, other: usize) -> bool {
        self.function(self.instructions[one].0) == self.function(self.instructions[other].0)
    }

    /// The indices of instructions outside `exempt` functions for which something holds.
    fn find(&self, exempt: &[&str], holds: impl Fn(u32) -> bool) -> Vec<usize> {
        let known = |address| exempt.iter().any(|name| self.function(address).contains(name));
        let hits = self.instructions.iter().enumerate().filter(|(_, (_, instruction))| holds(*instruction));
        hits.filter(|(_, (address, _))| !known(*address)).map(|(index, _)| index).collect()
    }

    /// Where an instruction stands, for a person.
    fn place(&self, index: usize) -> String {
        let (address, instruction) = self.instructions[index];
        format!("{instruction:08x} at {address:#x} in {}", self.function(address))
    }
}

fn kernel() -> PathBuf {
    if let Some(path) = env::var_os("LAZULI_KERNEL") {
        return path.into();
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).current_dir(&root).args(["kbuild", "--release", "--quiet"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the kernel does not build; `make build` says why");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("aarch64-unknown-none-softfloat/release/lazuli")
}

/// What a check says: nothing, or what is wrong and where.
type Finding = Result<(), String>;

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

/// Every TLBI is one of a sequence's, and the function that holds it also has the DSB that publishes
/// the stores, for a broadcast one, and the one that waits for it.
fn every_tlbi_is_accounted_for(code: &Code) -> Finding {
    // CRn = C8: any TLBI at all, whatever its op1.
    for tlbi in code.find(&[BEFORE_THE_MMU], |instruction| instruction & 0xfff8_f000 == TLBI) {
        let part = |sequence: &Sequence| {
            let ops = sequence.ops();
            (0..ops.len()).any(|at| tlbi >= at && is(ops[at], code.instructions[tlbi].1) && code.has_at(tlbi - at, ops))
        };
        require(Sequence::ALL.iter().any(part), || format!("a TLBI of no sequence: {}", code.place(tlbi)))?;
    }
    for tlbi in code.find(&[], |instruction| BROADCAST.iter().any(|op| is(*op, instruction))) {
        let both = [Op::DsbIshst, Op::DsbIsh].iter().all(|op| code.function_has(tlbi, *op));
        require(both, || format!("no DSB ISHST or no DSB ISH with it: {}", code.place(tlbi)))?;
    }
    // What is published before a local one was published by another CPU, perhaps.
    for tlbi in code.find(&[], |instruction| LOCAL.iter().any(|op| is(*op, instruction))) {
        require(code.function_has(tlbi, Op::DsbNsh), || format!("no DSB NSH with it: {}", code.place(tlbi)))?;
    }
    Ok(())
}

/// The TLBIs that reach every CPU.
const BROADCAST: [Op; 5] = [Op::TlbiVale1is, Op::TlbiVae1is, Op::TlbiRvale1is, Op::TlbiRvae1is, Op::TlbiAside1is];
/// Those of a flush that reach the CPU which issues them.
const LOCAL: [Op; 5] = [Op::TlbiVale1, Op::TlbiVae1, Op::TlbiRvale1, Op::TlbiRvae1, Op::TlbiAside1];

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

fn check(code: &Code) -> Finding {
    every_sequence_is_there(code)?;
    every_ttbr0_write_is_completed(code)?;
    every_tlbi_is_accounted_for(code)?;
    fp_registers_are_only_saved_and_loaded(code)?;
    no_lse_atomics(code)
}

#[test]
fn the_kernel_issues_what_the_model_executes() {
    let mut code = Code::read();
    assert_eq!(check(&code), Ok(()));
    for (what, changes) in mutations(&code) {
        assert!(!changes.is_empty(), "the kernel has nothing to break for: {what}");
        let exchange = |code: &mut Code, (index, word): (usize, u32)| {
            (index, std::mem::replace(&mut code.instructions[index].1, word))
        };
        let before: Vec<_> = changes.into_iter().map(|change| exchange(&mut code, change)).collect();
        assert!(check(&code).is_err(), "nobody notices: {what}");
        for change in before {
            exchange(&mut code, change);
        }
    }
}

/// Ways to break the kernel's code: what each is, and which instructions become which.
fn mutations(code: &Code) -> Vec<(String, Vec<(usize, u32)>)> {
    const NOP: u32 = 0xd503_201f;
    const LDADD: u32 = 0xf821_0000;
    const FADD: u32 = 0x1e62_2820;
    let all = |op| code.find(&[BEFORE_THE_MMU], |instruction| is(op, instruction));
    let lost = |indices: Vec<usize>| indices.into_iter().map(|index| (index, NOP)).collect();
    let mut list = vec![
        ("an LSE atomic".to_string(), vec![(0, LDADD)]),
        ("computes with FP registers".to_string(), vec![(0, FADD)]),
    ];
    for write in all(Op::MsrTtbr0) {
        list.push((format!("no ISB after {}", code.place(write)), lost(vec![write + 1])));
        list.push((format!("no DSB after {}", code.place(write)), lost(vec![write + 2])));
    }
    let ops = Sequence::ALL.iter().flat_map(|sequence| sequence.ops()).copied();
    for op in ops.filter(|op| format!("{op:?}").starts_with("Tlbi")) {
        list.push((format!("no {op:?}"), lost(all(op))));
    }
    for op in BROADCAST {
        // CRm 3 and 2 (ranges) are every CPU, 7 and 6 this one.
        let local = all(op).into_iter().map(|index| (index, code.instructions[index].1 ^ 0x400)).collect();
        list.push((format!("{op:?} on this CPU only"), local));
    }
    for (tlbis, barriers) in [(BROADCAST, &[Op::DsbIsh, Op::DsbIshst][..]), (LOCAL, &[Op::DsbNsh])] {
        let flushes: Vec<&str> =
            tlbis.into_iter().flat_map(all).map(|index| code.function(code.instructions[index].0)).collect();
        for &op in barriers {
            let here = |index: &usize| flushes.contains(&code.function(code.instructions[*index].0));
            list.push((
                format!("no {op:?} where the kernel flushes"),
                lost(all(op).into_iter().filter(here).collect()),
            ));
        }
    }
    list
}
