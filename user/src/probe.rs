//! Single instructions that may fault, and what the signal handler saw of the fault. Each thread sees its own.

use std::{arch::asm, cell::Cell, ffi::c_void, mem, ptr};

/// What one fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The signal that told of it.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
}

thread_local! {
    // A constant that needs no destructor: in a static program the access is a plain load or store, fit for a handler.
    static SEEN: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Describes a fault without its address, which differs from run to run.
pub fn describe(fault: Option<Fault>) -> String {
    let Some(fault) = fault else { return "no-fault".to_string() };
    match (fault.signal, fault.code) {
        (libc::SIGSEGV, 1) => "SIGSEGV-MAPERR".to_string(),
        (libc::SIGSEGV, 2) => "SIGSEGV-ACCERR".to_string(),
        (libc::SIGBUS, 1) => "SIGBUS-ADRALN".to_string(),
        (libc::SIGILL, 1) => "SIGILL-ILLOPC".to_string(),
        (libc::SIGTRAP, 1) => "SIGTRAP-BRKPT".to_string(),
        (signal, code) => format!("signal-{signal}-code-{code}"),
    }
}

/// Installs a handler that gets the details.
pub fn handle(signal: i32, flags: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void)) {
    // SAFETY: sigaction is plain data, for which all zeroes is a value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the handlers of these programs only use atomics, cells of the thread, arguments and raw system calls.
    let done = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    assert_eq!(done, 0, "a handler for signal {signal}");
}

extern "C" fn skip(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo and a context that live until the handler returns.
    unsafe {
        let address = (*info).si_addr() as u64;
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        SEEN.set(Some(Fault { signal, code: (*info).si_code, address }));
        // Where nothing can be fetched, we came by a branch with link: go back. Else skip the instruction.
        let fetch = machine.pc == address && [libc::SIGSEGV, libc::SIGBUS].contains(&signal);
        machine.pc = if fetch { machine.regs[30] } else { machine.pc + 4 };
    }
}

/// Has the faults of this process skipped and noted from now on.
pub fn catch_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        handle(signal, 0, skip);
    }
}

/// Runs one instruction and says what fault it raised.
pub fn watch(instruction: impl FnOnce()) -> Option<Fault> {
    catch_faults();
    caught(instruction)
}

/// The same where `catch_faults` has been called already.
fn caught(instruction: impl FnOnce()) -> Option<Fault> {
    SEEN.set(None);
    instruction();
    SEEN.get()
}

/// Loads a byte.
pub fn load(address: u64) -> Option<Fault> {
    catch_faults();
    load_value(address).err()
}

/// Stores a byte, into memory that the caller made for it.
pub fn store(address: u64) -> Option<Fault> {
    catch_faults();
    store_value(address, 7).err()
}

/// Loads a byte and gives it. Faults must be caught by `catch_faults`.
pub fn load_value(address: u64) -> Result<u8, Fault> {
    let mut value = address;
    let fault = caught(|| {
        // SAFETY: a load changes nothing, and a fault is skipped by the handler.
        unsafe { asm!("ldrb {0:w}, [{0}]", inout(reg) value, options(nostack)) }
    });
    fault.map_or(Ok(value as u8), Err)
}

/// Stores that byte, into memory that the caller made for it. Faults must be caught by `catch_faults`.
pub fn store_value(address: u64, value: u8) -> Result<(), Fault> {
    let fault = caught(|| {
        // SAFETY: the tests pass addresses in mappings that they made for this, or such as must fault.
        unsafe { asm!("strb {1:w}, [{0}]", in(reg) address, in(reg) u64::from(value), options(nostack)) }
    });
    fault.map_or(Ok(()), Err)
}

/// Calls code at an address; gives what it left in x0.
pub fn jump(address: u64) -> (u64, Option<Fault>) {
    let mut value = 0u64;
    let fault = watch(|| {
        // SAFETY: the code there, if any, is two instructions that the case wrote; a fault comes back by the link.
        unsafe { asm!("blr {}", in(reg) address, inout("x0") value, clobber_abi("C")) }
    });
    (value, fault)
}
