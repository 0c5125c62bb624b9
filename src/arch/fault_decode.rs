//! What a synchronous exception means: ESR_EL1 and FAR_EL1 in words (Arm ARM D24.2.40, D24.2.43).

use core::fmt;

use super::{jumps, stack};

/// Exception classes, ESR_EL1.EC.
pub mod class {
    /// An FP or SIMD instruction where CPACR_EL1 forbids it.
    pub const FP_ACCESS: u64 = 0x07;
    /// A system call of an AArch64 program.
    pub const SVC: u64 = 0x15;
    /// A BRK instruction.
    pub const BRK: u64 = 0x3c;

    /// An abort of an instruction fetch of a program. Other aborts have these bits besides:
    pub(super) const ABORT: u64 = 0x20;
    /// - of a load or a store,
    pub(super) const DATA: u64 = 0x04;
    /// - not of a program.
    pub(super) const OWN_LEVEL: u64 = 0x01;

    /// The class that a syndrome names.
    pub const fn of(esr: u64) -> u64 {
        esr >> 26 & 0x3f
    }
}

/// What the CPU says of an exception. Reading it costs a program's page fault little; [`Fault::kind`] is for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The stack pointer had run out of its stack.
    overflow: bool,
    /// The syndrome, ESR_EL1.
    pub esr: u64,
    /// The address, FAR_EL1, if the syndrome says that it is valid.
    pub address: Option<u64>,
}

/// What a fault of the kernel means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An access to the first pages.
    NullDereference,
    /// The stack pointer ran out of its stack.
    StackOverflow,
    /// An access to the hole below a stack, by other means than the stack pointer.
    StackGuard,
    /// A write to what is mapped read-only.
    WriteToReadOnly,
    /// Execution of what is not mapped executable.
    ExecuteOfNonExecutable,
    /// An access to a user address outside of the user-copy functions.
    UserAddress,
    /// An access to an address that nothing is mapped at.
    Unmapped,
    /// A place in the code that asks what boot has not answered; see [`jumps`].
    Unanswered,
    /// Anything else; the class says it.
    Other,
}

/// Addresses below this are taken for a null pointer plus an offset.
const NULL_END: u64 = 64 << 10;
/// User addresses end here: TTBR0's half of 48 bits.
const USER_END: u64 = 1 << 48;

impl Fault {
    /// What the exception handler read.
    #[inline]
    pub fn new(esr: u64, far: u64) -> Self {
        let fault = Self { overflow: false, esr, address: None };
        Self { address: (fault.is_abort() && esr & FNV == 0).then_some(far), ..fault }
    }

    /// The same, when the handler found the stack pointer below its stack.
    pub(super) fn of_stack_overflow(self) -> Self {
        Self { overflow: true, ..self }
    }

    /// The exception class, ESR_EL1.EC.
    pub fn class(&self) -> u64 {
        class::of(self.esr)
    }

    /// True of an instruction or data abort.
    pub fn is_abort(&self) -> bool {
        self.class() & !(class::DATA | class::OWN_LEVEL) == class::ABORT
    }

    /// True of an abort of an instruction fetch.
    pub fn is_instruction_abort(&self) -> bool {
        self.class() & !class::OWN_LEVEL == class::ABORT
    }

    /// True of an abort of a write, cache maintenance aside.
    pub fn is_write(&self) -> bool {
        self.class() & !class::OWN_LEVEL == class::ABORT | class::DATA && self.esr & (WNR | CM) == WNR
    }

    /// The kind of fault that an abort reports.
    pub fn status(&self) -> Status {
        match self.esr & 0x3f {
            code @ 0x00..0x04 => Status::AddressSize(code as u8 & 3),
            code @ 0x04..0x08 => Status::Translation(code as u8 & 3),
            code @ 0x08..0x0c => Status::AccessFlag(code as u8 & 3),
            code @ 0x0c..0x10 => Status::Permission(code as u8 & 3),
            0x10 => Status::External,
            code @ 0x14..0x18 => Status::ExternalOnWalk(code as u8 & 3),
            0x21 => Status::Alignment,
            0x30 => Status::TlbConflict,
            code => Status::Reserved(code as u8),
        }
    }

    /// What it means to the kernel.
    pub fn kind(&self) -> Kind {
        if self.overflow {
            return Kind::StackOverflow;
        }
        if self.class() == class::BRK && self.esr & COMMENT == u64::from(jumps::UNANSWERED) {
            return Kind::Unanswered;
        }
        let Some(address) = self.address else { return Kind::Other };
        match self.status() {
            Status::Translation(_) | Status::Permission(_) if address < NULL_END => Kind::NullDereference,
            Status::Translation(_) | Status::Permission(_) | Status::AccessFlag(_) if address < USER_END => {
                Kind::UserAddress
            }
            Status::Translation(_) if stack::is_guard(address) => Kind::StackGuard,
            Status::Translation(_) => Kind::Unmapped,
            Status::Permission(_) if self.is_instruction_abort() => Kind::ExecuteOfNonExecutable,
            Status::Permission(_) if self.is_write() => Kind::WriteToReadOnly,
            _ => Kind::Other,
        }
    }
}

/// The number in a BRK.
const COMMENT: u64 = 0xffff;
/// WnR: the abort was of a write.
const WNR: u64 = 1 << 6;
/// CM: the abort was of a cache maintenance or address translation instruction.
const CM: u64 = 1 << 8;
/// FnV: FAR_EL1 does not hold the address.
const FNV: u64 = 1 << 10;

/// Why an abort happened, with the level of the table that said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// An output address is wider than TCR_EL1.IPS.
    AddressSize(u8),
    /// No mapping.
    Translation(u8),
    /// A mapping whose access flag is clear.
    AccessFlag(u8),
    /// A mapping that does not allow it.
    Permission(u8),
    /// The memory system answered with an error.
    External,
    /// The memory system answered a table walk with an error.
    ExternalOnWalk(u8),
    /// An unaligned access where it must be aligned.
    Alignment,
    /// Two TLB entries match.
    TlbConflict,
    /// A code that is none of these.
    Reserved(u8),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSize(level) => write!(f, "address size fault, level {level}"),
            Self::Translation(level) => write!(f, "translation fault, level {level}"),
            Self::AccessFlag(level) => write!(f, "access flag fault, level {level}"),
            Self::Permission(level) => write!(f, "permission fault, level {level}"),
            Self::External => write!(f, "external abort"),
            Self::ExternalOnWalk(level) => write!(f, "external abort on a table walk, level {level}"),
            Self::Alignment => write!(f, "alignment fault"),
            Self::TlbConflict => write!(f, "TLB conflict"),
            Self::Reserved(code) => write!(f, "fault status {code:#x}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NullDereference => "null dereference",
            Self::StackOverflow => "kernel stack overflow",
            Self::StackGuard => "access to the guard of a kernel stack",
            Self::WriteToReadOnly => "write to read-only memory",
            Self::ExecuteOfNonExecutable => "execution of memory that is not executable",
            Self::UserAddress => "user address used outside of the user-copy functions",
            Self::Unmapped => "access to an unmapped address",
            Self::Unanswered => "a jump that boot did not write",
            Self::Other => "exception",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), class_name(self.class()))?;
        if self.is_abort() {
            let access = match () {
                () if self.is_instruction_abort() => "executing",
                () if self.is_write() => "writing",
                () => "reading",
            };
            write!(f, ", {}, {access} ", self.status())?;
            match self.address {
                Some(address) => write!(f, "{address:#018x}")?,
                None => write!(f, "an address that was not recorded")?,
            }
        }
        write!(f, " (ESR {:#010x})", self.esr)
    }
}

fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown reason",
        0x01 => "trapped WFI or WFE",
        0x07 => "FP or SIMD access",
        0x0d => "branch target",
        0x0e => "illegal execution state",
        0x15 => "SVC",
        0x18 => "trapped system instruction",
        0x19 => "SVE access",
        0x20 => "instruction abort from EL0",
        0x21 => "instruction abort",
        0x22 => "PC alignment",
        0x24 => "data abort from EL0",
        0x25 => "data abort",
        0x26 => "SP alignment",
        0x2c => "FP exception",
        0x2f => "SError",
        0x30 | 0x31 => "breakpoint",
        0x32 | 0x33 => "single step",
        0x34 | 0x35 => "watchpoint",
        class::BRK => "BRK",
        _ => "exception of another class",
    }
}
