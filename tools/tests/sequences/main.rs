//! The built kernel, instruction by instruction, against the operation lists of the mm layer.
//!
//! The lists are executed step by step by the model of the hardware (`mm/tests/machine`). Here the
//! same lists are looked for in the kernel's code, so that a barrier which the model has and the
//! kernel lost, or the other way round, does not stay hidden. The encodings are the Arm ARM's
//! (C6.2 for each instruction), written out: no assembler or disassembler is trusted.
//!
//! `LAZULI_KERNEL` names the kernel; without it the release kernel is built and read.

mod checks;
mod flow;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use checks::{BROADCAST, LOCAL, check, own_bits};
use mm::{Op, Sequence};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// The one piece of code that loads TTBR0 while the MMU is still off.
const BEFORE_THE_MMU: &str = "enable_mmu";

/// Bits 4:0, where an instruction names its first register.
const REGISTER: u32 = 0x1f;

/// What the build leaves where boot writes a jump.
const BRK: u32 = 0xd420_0000;
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
    /// Where boot writes a jump, and where it may lead: places that ask what the options chose.
    jumps: HashMap<u64, Vec<u64>>,
    lines: addr2line::Loader,
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
        let lines = addr2line::Loader::new(&path).expect("the kernel has debug information");
        let code = Self { instructions, functions, jumps: jumps(&file), lines };
        let asks = |place: &u64| code.index_of(*place).is_some_and(|at| code.instructions[at].1 & 0xffe0_001f == BRK);
        assert!(code.jumps.keys().all(asks), "the records of the jumps name something else than a BRK");
        code
    }

    /// The source file of an instruction; that of what was inlined there, if something was.
    fn file(&self, address: u64) -> Option<String> {
        let frame = self.lines.find_frames(address).ok()?.next().ok()??;
        Some(frame.location?.file?.to_string())
    }

    fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |(address, _)| *address).ok()
    }

    /// Where boot may make this instruction lead.
    fn answers(&self, index: usize) -> Option<&Vec<u64>> {
        self.jumps.get(&self.instructions[index].0)
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

    fn share_function(&self, one: usize, other: usize) -> bool {
        let place = |index: usize| self.instructions.get(index).map(|(address, _)| *address);
        let start = |address| self.functions.partition_point(|function| function.0 <= address);
        place(one).map(start) == place(other).map(start)
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

/// The records of `arch::jumps`, if this kernel has them: distances to a place and to a target, and which answer it is.
fn jumps(file: &object::File) -> HashMap<u64, Vec<u64>> {
    let address = |name| file.symbol_by_name(name).map(|symbol| symbol.address());
    let mut jumps: HashMap<u64, Vec<u64>> = HashMap::new();
    let (Some(start), Some(end)) = (address("__jumps_start"), address("__jumps_end")) else { return jumps };
    let range = |section: object::Section| section.data_range(start, end - start).ok().flatten().map(<[u8]>::to_vec);
    let records = file.sections().find_map(range).expect("the records of the jumps lie in the file");
    for (at, record) in (start..).step_by(12).zip(records.chunks_exact(12)) {
        let field = |offset: usize| {
            let distance = i32::from_le_bytes(record[offset..offset + 4].try_into().expect("four bytes"));
            (at + offset as u64).wrapping_add_signed(distance.into())
        };
        jumps.entry(field(0)).or_default().push(field(4));
    }
    jumps
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
    // Each barrier beside a flush alone: another one in the same function does not stand in for it.
    for (tlbis, barriers) in [(BROADCAST, &[Op::DsbIsh, Op::DsbIshst][..]), (LOCAL, &[Op::DsbNsh])] {
        for function in tlbis.into_iter().flat_map(all).map(|index| code.entry(index)).collect::<BTreeSet<_>>() {
            for &op in barriers {
                let here = all(op).into_iter().filter(|index| code.share_function(*index, function));
                list.extend(here.map(|index| (format!("no {op:?}: {}", code.place(index)), lost(vec![index]))));
            }
        }
    }
    for bit in own_bits(code) {
        // Behind it stands the CBNZ that tries again.
        list.push((format!("no DsbIsh behind {}", code.place(bit)), lost(vec![bit + 4])));
    }
    list
}
