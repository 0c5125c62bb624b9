//! Exceptions of programs: page faults are made good, everything else becomes a signal.

use linux_raw_sys::general as linux;

use mm::fault::{FaultError, handle_fault};
use mm::pte::Access;

use crate::arch::exception::LeanFrame;
use crate::arch::fault_decode::{Fault, Status};
use crate::process::memory;
use crate::process::signal::{Cause, Info, Signal, send};
use crate::trace::event::Kind;
use crate::{sched, trace};

/// Exception classes, ESR_EL1.EC (Arm ARM D24.2.40).
mod class {
    pub(super) const PC_ALIGNMENT: u64 = 0x22;
    pub(super) const SP_ALIGNMENT: u64 = 0x26;
    pub(super) const FLOATING_POINT: u64 = 0x2c;
    pub(super) const BREAKPOINT: u64 = 0x30;
    pub(super) const SINGLE_STEP: u64 = 0x32;
    pub(super) const WATCHPOINT: u64 = 0x34;
    pub(super) const BRK: u64 = 0x3c;
}

/// How it is recorded.
const FAULT: [Kind; 2] = [Kind::FaultEnter, Kind::FaultExit];

/// An exception that a program's instruction caused. Interrupts are on.
pub fn from_user(frame: &LeanFrame, fault: &Fault) {
    let far = fault.address.unwrap_or(frame.pc());
    // Aborts whose address is not recorded are none of those that can be made good.
    let goes_on = || fault.address.is_some_and(|address| resolve(fault, address).is_ok());
    let goes_on = trace::span(FAULT, || (far, fault.esr), goes_on);
    if !goes_on {
        raise(frame, fault, far);
    }
}

/// Sends the signal for an exception that could not be made good.
#[cold]
fn raise(frame: &LeanFrame, fault: &Fault, far: u64) {
    let (signal, code, address) = match fault.class() {
        _ if fault.is_abort() => abort(fault, far),
        class::PC_ALIGNMENT => (Signal::SIGBUS, linux::BUS_ADRALN, frame.pc()),
        class::SP_ALIGNMENT => (Signal::SIGBUS, linux::BUS_ADRALN, frame.sp()),
        class::FLOATING_POINT => (Signal::SIGFPE, floating_point_code(fault.esr), frame.pc()),
        class::BREAKPOINT | class::SINGLE_STEP | class::WATCHPOINT => (Signal::SIGTRAP, linux::TRAP_HWBKPT, frame.pc()),
        class::BRK => (Signal::SIGTRAP, linux::TRAP_BRKPT, frame.pc()),
        _ => (Signal::SIGILL, linux::ILL_ILLOPC, frame.pc()),
    };
    let cause = Cause::Fault { address, syndrome: fault.esr };
    send::force(Info { signal, code: code as i32, cause });
}

/// A fault at a user address while the kernel copies from or to a program. `true` says that the
/// copy can go on. Interrupts are on.
pub fn from_copy(fault: &Fault, address: u64) -> bool {
    let goes_on = || sched::current_mm().is_some() && resolve(fault, address).is_ok();
    trace::span(FAULT, || (address, fault.esr), goes_on)
}

/// Makes the access possible, if the program may make it.
fn resolve(fault: &Fault, address: u64) -> Result<(), FaultError> {
    let access = match () {
        () if fault.is_instruction_abort() => Access::Execute,
        () if fault.is_write() => Access::Write,
        () => Access::Read,
    };
    match fault.status() {
        Status::Translation(_) | Status::Permission(_) | Status::AccessFlag(_) => {
            handle_fault(memory::current(), address, access)
        }
        _ => Err(FaultError::Denied),
    }
}

/// The signal for an abort that could not be made good.
fn abort(fault: &Fault, address: u64) -> (Signal, u32, u64) {
    let (signal, code) = match fault.status() {
        Status::Alignment => (Signal::SIGBUS, linux::BUS_ADRALN),
        Status::Translation(_) | Status::Permission(_) | Status::AccessFlag(_) | Status::AddressSize(_) => {
            // Asked again, because what is mapped there decides, not what the CPU met first.
            match resolve(fault, address) {
                Err(FaultError::Denied) => (Signal::SIGSEGV, linux::SEGV_ACCERR),
                Err(FaultError::OutOfMemory) => (Signal::SIGBUS, linux::BUS_ADRERR),
                Ok(()) | Err(FaultError::Unmapped) => (Signal::SIGSEGV, linux::SEGV_MAPERR),
            }
        }
        _ => (Signal::SIGBUS, linux::BUS_OBJERR),
    };
    (signal, code, address)
}

/// Which floating-point exception it was (ESR_EL1.ISS, TFV and the bits below).
fn floating_point_code(esr: u64) -> u32 {
    const VALID: u64 = 1 << 23;
    match esr {
        _ if esr & VALID == 0 => linux::FPE_FLTUNK,
        _ if esr & 1 != 0 => linux::FPE_FLTINV,
        _ if esr & 1 << 1 != 0 => linux::FPE_FLTDIV,
        _ if esr & 1 << 2 != 0 => linux::FPE_FLTOVF,
        _ if esr & 1 << 3 != 0 => linux::FPE_FLTUND,
        _ if esr & 1 << 4 != 0 => linux::FPE_FLTRES,
        _ => linux::FPE_FLTUNK,
    }
}
