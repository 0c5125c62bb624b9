//! Single instructions that may fault, and what the signal handler saw of the fault.

use std::{
    arch::asm,
    ffi::c_void,
    mem, ptr,
    sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
};

/// What one fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) signal: i32,
    pub(super) code: i32,
    pub(super) address: u64,
}

// Written by the handler and read by the thread that it interrupted: program order is enough for all three.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Describes a fault without its address, which differs from run to run.
pub(super) fn describe(fault: Option<Fault>) -> String {
    let Some(fault) = fault else {
        return "no-fault".to_string();
    };
    let code = match (fault.signal, fault.code) {
        (libc::SIGSEGV, 1) => "MAPERR".to_string(),
        (libc::SIGSEGV, 2) => "ACCERR".to_string(),
        (libc::SIGBUS, 1) => "ADRALN".to_string(),
        (libc::SIGILL, 1) => "ILLOPC".to_string(),
        (libc::SIGTRAP, 1) => "BRKPT".to_string(),
        (_, code) => code.to_string(),
    };
    let signal = match fault.signal {
        libc::SIGSEGV => "SIGSEGV".to_string(),
        libc::SIGBUS => "SIGBUS".to_string(),
        libc::SIGILL => "SIGILL".to_string(),
        libc::SIGTRAP => "SIGTRAP".to_string(),
        other => other.to_string(),
    };
    format!("{signal}-{code}")
}

/// Installs a handler that gets the details.
pub(super) fn handle(signal: i32, flags: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void)) {
    // SAFETY: sigaction is plain data, for which all zeroes is a value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the handlers of this program only use atomics, their arguments and raw system calls.
    let done = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    assert_eq!(done, 0, "a handler for signal {signal}");
}

extern "C" fn skip(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo and a context that live until the handler returns.
    unsafe {
        let address = (*info).si_addr() as u64;
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        SIGNAL.store(signal, Relaxed);
        CODE.store((*info).si_code, Relaxed);
        ADDRESS.store(address, Relaxed);
        // Where nothing can be fetched, we came by a branch with link: go back. Else skip the instruction.
        let fetch = machine.pc == address && [libc::SIGSEGV, libc::SIGBUS].contains(&signal);
        machine.pc = if fetch { machine.regs[30] } else { machine.pc + 4 };
    }
}

/// Runs one instruction and says what fault it raised.
pub(super) fn watch(instruction: impl FnOnce()) -> Option<Fault> {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        handle(signal, 0, skip);
    }
    SIGNAL.store(0, Relaxed);
    instruction();
    let signal = SIGNAL.load(Relaxed);
    (signal != 0).then(|| Fault { signal, code: CODE.load(Relaxed), address: ADDRESS.load(Relaxed) })
}

/// Loads a byte.
pub(super) fn load(address: u64) -> Option<Fault> {
    watch(|| {
        // SAFETY: a load changes nothing, and a fault is skipped by the handler.
        unsafe { asm!("ldrb {0:w}, [{0}]", inout(reg) address => _, options(nostack)) }
    })
}

/// Stores a byte, into memory that the caller made for it.
pub(super) fn store(address: u64) -> Option<Fault> {
    watch(|| {
        // SAFETY: the cases pass addresses in mappings that they made for this, or such as must fault.
        unsafe { asm!("strb {1:w}, [{0}]", in(reg) address, in(reg) 7u64, options(nostack)) }
    })
}

/// Calls code at an address; gives what it left in x0.
pub(super) fn jump(address: u64) -> (u64, Option<Fault>) {
    let mut value = 0u64;
    let fault = watch(|| {
        // SAFETY: the code there, if any, is two instructions that the case wrote; a fault comes back by the link.
        unsafe { asm!("blr {}", in(reg) address, inout("x0") value, clobber_abi("C")) }
    });
    (value, fault)
}
