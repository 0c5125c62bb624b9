//! Starts another program in a process.

use alloc::sync::Arc;
use core::arch::asm;
use core::fmt;

use formats::elf::{self, ElfError, Plan};
use linux_raw_sys::auxvec as aux;
use mm::{MmUser, PAGE_SIZE};

use crate::arch::exception::TrapFrame;
use crate::arch::fpsimd::Registers;
use crate::errno::Errno;
use crate::fs::node::{Content, Node};
use crate::fs::path::{self, Last, Start};
use crate::machine::Kernel;
use crate::process::signal::AlternateStack;
use crate::process::stack::{self, Arguments, Strings};
use crate::process::{UserThread, exit, family, futex, memory, signal, thread, wait};
use crate::{cpu_features, heap, println, random, sched, user_memory};

/// How many scripts may name each other as their interpreters.
const MAX_SCRIPTS: usize = 4;

/// Why a program cannot be started.
#[derive(Clone, Copy, Debug)]
pub enum LoadError {
    /// There is no such file, or a directory on its path is none.
    NoFile(Errno),
    /// The file is a script, and its interpreter is not there.
    NoInterpreter(Errno),
    /// The file may not be executed.
    NotExecutable,
    /// The file is no program for this machine.
    Elf(ElfError<'static>),
    /// A script whose interpreter is a script, and so on.
    TooManyScripts,
    /// Its arguments are too long, or there is no memory for it.
    Resources(Errno),
}

impl LoadError {
    /// The error that `execve` returns.
    pub fn errno(self) -> Errno {
        match self {
            LoadError::NoFile(errno) | LoadError::NoInterpreter(errno) | LoadError::Resources(errno) => errno,
            LoadError::NotExecutable => Errno::EACCES,
            LoadError::Elf(ElfError::Interpreter(_)) => Errno::ELIBBAD,
            LoadError::Elf(_) => Errno::ENOEXEC,
            LoadError::TooManyScripts => Errno::ELOOP,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NoFile(errno) => write!(f, "there is no such file ({errno:?})"),
            LoadError::NoInterpreter(errno) => {
                write!(f, "a script and not an ELF file, and its interpreter is not there ({errno:?})")
            }
            LoadError::NotExecutable => write!(f, "not a file that may be executed"),
            LoadError::Elf(error) => write!(f, "{error}"),
            LoadError::TooManyScripts => write!(f, "more than {MAX_SCRIPTS} scripts name each other as interpreters"),
            LoadError::Resources(errno) => write!(f, "its arguments are too long or memory is out ({errno:?})"),
        }
    }
}

/// A program that is ready to run: all that can fail has not.
pub struct Loaded {
    executable: Arc<Node>,
    path: Arc<[u8]>,
    mm: MmUser<Kernel>,
    entry: u64,
    sp: u64,
}

impl Loaded {
    /// The registers with which it starts.
    pub fn frame(&self) -> TrapFrame {
        TrapFrame { x: [0; 31], sp: self.sp, pc: self.entry, pstate: 0 }
    }

    /// Its file, its path and its address space.
    pub fn into_parts(self) -> (Arc<Node>, Arc<[u8]>, MmUser<Kernel>) {
        (self.executable, self.path, self.mm)
    }
}

/// Finds a program, checks it and builds its address space.
pub fn load(start: &Start, path: &[u8], mut arguments: Strings, environment: &Strings) -> Result<Loaded, LoadError> {
    heap::admit().map_err(LoadError::Resources)?;
    let mut path = path.to_vec();
    for scripts in 0..=MAX_SCRIPTS {
        let (node, file) = find(start, &path).map_err(|error| match error {
            LoadError::NoFile(errno) if scripts > 0 => LoadError::NoInterpreter(errno),
            other => other,
        })?;
        if let Some(script) = Script::parse(file) {
            arguments = script.arguments(&path, &arguments).map_err(LoadError::Resources)?;
            path = script.interpreter.to_vec();
            continue;
        }
        let plan = elf::plan(file).map_err(LoadError::Elf)?;
        let facts = facts(&plan);
        let request = Arguments { path: &path, arguments: &arguments, environment, random: random::bytes() };
        let image = stack::build(memory::STACK_TOP, &request, &facts).map_err(LoadError::Resources)?;
        let mm = memory::build(file, &plan, &image).map_err(LoadError::Resources)?;
        return Ok(Loaded { executable: node, path: path.into(), mm, entry: plan.entry, sp: image.start });
    }
    Err(LoadError::TooManyScripts)
}

fn find(start: &Start, path: &[u8]) -> Result<(Arc<Node>, &'static [u8]), LoadError> {
    let node = path::lookup(start, path, Last::Follow).map_err(LoadError::NoFile)?;
    match node.content {
        Content::Image(file) if node.mode & 0o111 != 0 => Ok((node, file)),
        // What a program wrote can change and go; programs are mapped from files that cannot.
        _ => Err(LoadError::NotExecutable),
    }
}

/// The first line of a script: `#!`, the interpreter, and at most one argument for it.
struct Script<'a> {
    interpreter: &'a [u8],
    argument: Option<&'a [u8]>,
}

impl<'a> Script<'a> {
    fn parse(file: &'a [u8]) -> Option<Self> {
        let line = file.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let argument = line[end..].trim_ascii();
        Some(Script { interpreter: &line[..end], argument: (!argument.is_empty()).then_some(argument) })
    }

    /// The interpreter's arguments: the script's path takes the place of its name.
    fn arguments(&self, path: &[u8], script: &Strings) -> Result<Strings, Errno> {
        let own = [Some(self.interpreter), self.argument, Some(path)];
        Strings::of(own.into_iter().flatten().chain(script.iter().skip(1)))
    }
}

/// The auxiliary vector, but for what points into the stack.
fn facts(plan: &Plan) -> [(u32, u64); 15] {
    [
        (aux::AT_HWCAP, cpu_features::hwcap()),
        (aux::AT_HWCAP2, 0),
        (aux::AT_PAGESZ, PAGE_SIZE),
        (aux::AT_CLKTCK, 100),
        (aux::AT_PHDR, plan.headers),
        (aux::AT_PHENT, 56),
        (aux::AT_PHNUM, u64::from(plan.header_count)),
        (aux::AT_ENTRY, plan.entry),
        (aux::AT_FLAGS, 0),
        (aux::AT_UID, 0),
        (aux::AT_EUID, 0),
        (aux::AT_GID, 0),
        (aux::AT_EGID, 0),
        (aux::AT_SECURE, 0),
        (aux::AT_MINSIGSTKSZ, signal::frame::MIN_STACK),
    ]
}

/// `execve` for the running thread: on success, `frame` is the new program's.
pub fn replace(frame: &mut TrapFrame, path: &[u8], arguments: Strings, environment: &Strings) -> Result<(), Errno> {
    let thread = thread::current();
    let loaded = load(&thread.process.start(), path, arguments, environment).map_err(|error| {
        if let LoadError::Elf(ElfError::Interpreter(_)) = error {
            println!("{}: {error}", alloc::string::String::from_utf8_lossy(path));
        }
        error.errno()
    })?;
    become_only_thread(thread)?;
    *frame = loaded.frame();
    let (executable, path, mm) = loaded.into_parts();
    leave_old_program(thread);
    drop(sched::replace_mm(Some(mm)));
    let process = &thread.process;
    thread.return_address_space();
    process.set_program(executable, path);
    thread.announce();
    process.files.share(false);
    process.files.close_for_exec(&**process);
    process.signals.lock().actions.reset_for_exec();
    thread.signals.lock().stack = AlternateStack::NONE;
    family::note_exec(process.pid);
    sched::set_fp_registers(&Registers::ZERO);
    // SAFETY: the register is the program's own; the kernel does not use it.
    unsafe { asm!("msr tpidr_el0, xzr", options(nomem, nostack, preserves_flags)) };
    Ok(())
}

/// Throws the other threads of the process out.
fn become_only_thread(thread: &UserThread) -> Result<(), Errno> {
    let process = &thread.process;
    if !process.claim_survival(thread) {
        // Another thread is at it: this one ends on its way back.
        return Err(Errno::RESTART);
    }
    for other in process.threads.lock().iter() {
        if process.throws_out(other) {
            exit::kill(other);
        }
    }
    let alone = wait::until_alone(process);
    process.end_survival();
    if !alone {
        return Err(Errno::RESTART);
    }
    if thread.tid() != process.pid {
        family::rename_thread(thread);
    }
    Ok(())
}

/// What a thread owes its old address space: whoever waits for its end there is told.
fn leave_old_program(thread: &UserThread) {
    let address = thread.clear_child_tid();
    thread.set_clear_child_tid(0);
    if address != 0 && memory::current().users() > 1 {
        let _ = user_memory::write(address, &0u32);
        let _ = futex::wake(address, futex::Scope::Shared, 1, u32::MAX);
    }
}
