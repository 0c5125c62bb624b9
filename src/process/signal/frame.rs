//! The signal frame: what a handler finds on its stack, and what `rt_sigreturn` reads back.
//!
//! The layout is Linux's (arch/arm64/include/uapi/asm/sigcontext.h): `siginfo_t`, `ucontext_t`,
//! and in its reserved part a chain of records, of which this kernel writes FPSIMD and ESR.

use core::mem::{offset_of, size_of};

use linux_raw_sys::general as linux;

use crate::arch::exception::TrapFrame;
use crate::arch::fpsimd::Registers;
use crate::errno::Errno;
use crate::process::memory::TRAMPOLINE;
use crate::process::signal::info::SIZE as INFO_SIZE;
use crate::process::signal::{Action, AlternateStack, Cause, Handler, Info, Signal, SignalSet, send};
use crate::process::thread;
use crate::sched;
use crate::user_memory::{self, Plain};

/// What `AT_MINSIGSTKSZ` says: a frame, its frame record, and room for alignment.
pub const MIN_STACK: u64 = RESERVED_END + 32;

/// Bits of PSTATE that belong to the program: NZCV, DIT and SSBS.
const USER_PSTATE: u64 = 0xf000_0000 | 1 << 24 | 1 << 12;

const FPSIMD_MAGIC: u32 = 0x4650_8001;
const ESR_MAGIC: u32 = 0x4553_5201;
/// The bytes of the reserved part.
const RESERVED: u64 = 4096;
/// Where the records start, and the whole frame's size.
const RECORDS: u64 = offset_of!(Frame, fpsimd) as u64;
const RESERVED_END: u64 = RECORDS + RESERVED;

/// The frame, as far as it is written. No field leaves a hole.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Frame {
    info: [u8; INFO_SIZE],
    context: Context,
    fpsimd: Fpsimd,
    esr: Esr,
    /// A record of magic 0 and size 0, and the rest of its 16 bytes.
    end: [u64; 2],
}

/// `ucontext_t` and `struct sigcontext`, up to the reserved part.
#[repr(C)]
#[derive(Clone, Copy)]
struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    mask: u64,
    /// Room for 1024 signals, and up to the next 16 bytes.
    unused: [u64; 16],
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    padding: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Fpsimd {
    magic: u32,
    size: u32,
    fpsr: u32,
    fpcr: u32,
    v: [u128; 32],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Esr {
    magic: u32,
    size: u32,
    esr: u64,
}

// SAFETY: integers only, and the sizes below leave no room for padding.
unsafe impl Plain for Frame {}
// SAFETY: as for `Frame`.
unsafe impl Plain for Context {}
// SAFETY: as for `Frame`.
unsafe impl Plain for Fpsimd {}

// The offsets that Linux's headers give.
const _: () = {
    assert!(size_of::<Context>() == 40 + 8 + 128 + 8 + 31 * 8 + 4 * 8);
    assert!(offset_of!(Context, fault_address) == 176 && size_of::<Context>() == 464);
    assert!(size_of::<Fpsimd>() == 528 && size_of::<Esr>() == 16);
    assert!(RECORDS == 592 && RESERVED_END == 4688);
    assert!(size_of::<Frame>() == 592 + 528 + 16 + 16);
};

/// Puts a frame on the program's stack and makes `frame` go on in the handler. `mask` is what the
/// handler's return restores.
pub fn push(
    frame: &mut TrapFrame,
    info: &Info,
    action: &Action,
    mask: SignalSet,
    stack: AlternateStack,
) -> Result<(), Errno> {
    let Handler::Function(handler) = action.handler else { return Err(Errno::EINVAL) };
    let switches = action.has(linux::SA_ONSTACK) && stack.size != 0 && !stack.holds(frame.sp);
    let top = if switches { stack.start.wrapping_add(stack.size) } else { frame.sp };
    // The frame record of the interrupted function, then the signal frame below it.
    let record = top.checked_sub(16).ok_or(Errno::EFAULT)? & !15;
    let sp = record.checked_sub(RESERVED_END).ok_or(Errno::EFAULT)?;
    user_memory::write(record, &[frame.x[29], frame.x[30]])?;
    user_memory::write(sp, &capture(frame, info, mask, stack))?;
    if switches && stack.flags & linux::SS_AUTODISARM != 0 {
        thread::current().signals.lock().stack = AlternateStack::NONE;
    }
    frame.x[0] = u64::from(info.signal.number());
    if action.has(linux::SA_SIGINFO) {
        frame.x[1] = sp;
        frame.x[2] = sp + offset_of!(Frame, context) as u64;
    }
    frame.x[29] = record;
    frame.x[30] = if action.has(linux::SA_RESTORER) { action.restorer } else { TRAMPOLINE };
    frame.sp = sp;
    frame.pc = handler;
    frame.pstate &= USER_PSTATE;
    Ok(())
}

fn capture(frame: &TrapFrame, info: &Info, mask: SignalSet, stack: AlternateStack) -> Frame {
    let fp = sched::fp_registers();
    let (fault_address, esr) = match info.cause {
        Cause::Fault { address, syndrome } => (address, syndrome),
        _ => (0, 0),
    };
    Frame {
        info: info.to_bytes(),
        context: Context {
            flags: 0,
            link: 0,
            stack: [stack.start, u64::from(stack_flags(stack, frame.sp)), stack.size],
            mask: mask.0,
            unused: [0; 16],
            fault_address,
            x: frame.x,
            sp: frame.sp,
            pc: frame.pc,
            pstate: frame.pstate,
            padding: 0,
        },
        fpsimd: Fpsimd { magic: FPSIMD_MAGIC, size: 528, fpsr: fp.fpsr, fpcr: fp.fpcr, v: fp.v },
        esr: Esr { magic: ESR_MAGIC, size: 16, esr },
        end: [0; 2],
    }
}

/// What `sigaltstack` says about the stack when the stack pointer is `sp`.
pub fn stack_flags(stack: AlternateStack, sp: u64) -> u32 {
    match stack {
        AlternateStack { size: 0, .. } => linux::SS_DISABLE,
        _ if stack.flags & linux::SS_AUTODISARM == 0 && stack.holds(sp) => linux::SS_ONSTACK,
        _ => stack.flags,
    }
}

/// `rt_sigreturn`: goes back to where the signal came, and says what x0 is there.
pub fn pop(frame: &mut TrapFrame) -> Result<u64, Errno> {
    let sp = frame.sp;
    if !sp.is_multiple_of(16) {
        return Err(Errno::EFAULT);
    }
    let context: Context = user_memory::read(sp.wrapping_add(offset_of!(Frame, context) as u64))?;
    let registers = find_fpsimd(sp.wrapping_add(RECORDS))?;
    sched::set_fp_registers(&registers);
    frame.x = context.x;
    frame.sp = context.sp;
    frame.pc = context.pc;
    frame.pstate = context.pstate & USER_PSTATE;
    let thread = thread::current();
    restore_stack(context.stack, frame.sp);
    // A call that was interrupted has had its answer when the frame was pushed.
    let _ = thread.take_restart();
    send::set_mask(SignalSet(context.mask));
    Ok(frame.x[0])
}

fn restore_stack([start, flags, size]: [u64; 3], sp: u64) {
    let mut own = thread::current().signals.lock();
    // As in Linux, a stack that is in use stays, and nonsense changes nothing.
    if own.stack.holds(sp) {
        return;
    }
    let flags = flags as u32;
    own.stack = match flags & linux::SS_DISABLE {
        0 => AlternateStack { start, size, flags: flags & linux::SS_AUTODISARM },
        _ => AlternateStack::NONE,
    };
}

/// Reads the chain of records, which must hold the FP registers.
fn find_fpsimd(start: u64) -> Result<Registers, Errno> {
    let mut offset = 0;
    let mut found = None;
    while offset + 8 <= RESERVED {
        let at = start.wrapping_add(offset);
        let [magic, size]: [u32; 2] = user_memory::read(at)?;
        match (magic, size) {
            (0, 0) => return found.ok_or(Errno::EINVAL),
            (FPSIMD_MAGIC, 528) if found.is_none() => {
                let record: Fpsimd = user_memory::read(at)?;
                found = Some(Registers { v: record.v, fpsr: record.fpsr, fpcr: record.fpcr });
            }
            (ESR_MAGIC, 16) => {}
            _ => return Err(Errno::EINVAL),
        }
        offset += u64::from(size);
    }
    Err(Errno::EINVAL)
}

/// The frame on the stack is unusable: SIGSEGV. `fatal` says that a handler must not get it.
pub fn bad(fatal: bool) {
    if fatal {
        let mut shared = thread::current().process.signals.lock();
        shared.actions.set(Signal::SIGSEGV, Action::DEFAULT);
    }
    send::force(Info { signal: Signal::SIGSEGV, code: linux::SI_KERNEL as i32, cause: Cause::Kernel });
}
