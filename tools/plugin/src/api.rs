//! QEMU's plugin interface in C, made safe. With `ram` the only file that deals in pointers.
//!
//! The functions are looked up by name when the plugin is loaded, so that a QEMU that lacks one is told in words, and so
//! that the tests of this crate link without QEMU.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::decode::{self, Operation, Register};

const REGISTERS_READ: c_int = 1;
const REGISTERS_UNUSED: c_int = 0;
const LOADS: c_int = 1;
const STORES: c_int = 2;

type Handle = *mut c_void;
type Id = u64;
type OnCpu = unsafe extern "C" fn(Id, c_uint);
type OnBlock = unsafe extern "C" fn(Id, Handle);
type OnExit = unsafe extern "C" fn(Id, Handle);
type Executed = unsafe extern "C" fn(c_uint, Handle);
type Accessed = unsafe extern "C" fn(c_uint, c_uint, u64, Handle);

/// GArray and GByteArray of GLib begin alike.
#[repr(C)]
struct Array {
    data: *mut u8,
    len: c_uint,
}

/// qemu_plugin_reg_descriptor.
#[repr(C)]
struct RegisterEntry {
    handle: Handle,
    name: *const c_char,
    feature: *const c_char,
}

macro_rules! api {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        struct Api { $($name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }

        impl Api {
            /// Finds every function, or names one that is missing.
            fn load() -> Result<Self, String> {
                Ok(Self { $($name: {
                    let address = symbol(concat!(stringify!($name), "\0"))?;
                    // SAFETY: QEMU 10.0's plugin interface, or GLib, declares a function of this name and of this type.
                    unsafe { std::mem::transmute::<Handle, unsafe extern "C" fn($($arg),*) $(-> $ret)?>(address) }
                },)* })
            }
        }
    };
}

api! {
    qemu_plugin_register_vcpu_init_cb: fn(Id, OnCpu);
    qemu_plugin_register_vcpu_tb_trans_cb: fn(Id, OnBlock);
    qemu_plugin_register_atexit_cb: fn(Id, OnExit, Handle);
    qemu_plugin_register_vcpu_tb_exec_cb: fn(Handle, Executed, c_int, Handle);
    qemu_plugin_register_vcpu_insn_exec_cb: fn(Handle, Executed, c_int, Handle);
    qemu_plugin_register_vcpu_mem_cb: fn(Handle, Accessed, c_int, c_int, Handle);
    qemu_plugin_tb_n_insns: fn(Handle) -> usize;
    qemu_plugin_tb_get_insn: fn(Handle, usize) -> Handle;
    qemu_plugin_insn_data: fn(Handle, Handle, usize) -> usize;
    qemu_plugin_insn_vaddr: fn(Handle) -> u64;
    qemu_plugin_mem_size_shift: fn(c_uint) -> c_uint;
    qemu_plugin_get_hwaddr: fn(c_uint, u64) -> Handle;
    qemu_plugin_hwaddr_is_io: fn(Handle) -> bool;
    qemu_plugin_hwaddr_phys_addr: fn(Handle) -> u64;
    qemu_plugin_get_registers: fn() -> *mut Array;
    qemu_plugin_read_register: fn(Handle, *mut Array) -> c_int;
    g_byte_array_new: fn() -> *mut Array;
    g_byte_array_set_size: fn(*mut Array, c_uint) -> *mut Array;
}

unsafe extern "C" {
    fn dlsym(library: Handle, name: *const c_char) -> Handle;
    fn _exit(status: c_int) -> !;
}

fn symbol(name: &'static str) -> Result<Handle, String> {
    let c_name = CStr::from_bytes_with_nul(name.as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a null library means every one that is loaded; the name ends with a zero.
    let address = unsafe { dlsym(ptr::null_mut(), c_name.as_ptr()) };
    if address.is_null() { Err(format!("this QEMU has no {}", c_name.to_string_lossy())) } else { Ok(address) }
}

/// What a plugin does. All but `translate` are called by the thread that runs the CPU.
pub(crate) trait Tool: Send + Sync {
    /// Called once for each instruction that is translated; says what is to be called when it is executed.
    fn translate(&self, instruction: &Instruction) -> Hooks;
    /// A block of instructions begins, at this address.
    fn block(&self, cpu: usize, pc: u64) {
        let _ = (cpu, pc);
    }
    /// The instruction at `pc` is about to be executed.
    fn step(&self, cpu: usize, pc: u64) {
        let _ = (cpu, pc);
    }
    /// Memory was accessed by the instruction at `pc`.
    fn access(&self, cpu: usize, pc: u64, access: Access) {
        let _ = (cpu, pc, access);
    }
    /// An instruction that `translate` asked to be told of is about to be executed.
    fn execute(&self, cpu: usize, instruction: &Instruction);
    /// QEMU ends.
    fn end(&self) {}
}

/// An instruction as it was translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    /// Where it is.
    pub(crate) pc: u64,
    /// What it is, if that is of interest.
    pub(crate) operation: Option<Operation>,
}

/// What a tool wants to be told of an instruction.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hooks {
    /// `execute`, before it.
    pub(crate) execute: bool,
    /// `step`, before it.
    pub(crate) step: bool,
    /// `access`, after each load and store.
    pub(crate) access: bool,
    /// `block`, if a block begins with it.
    pub(crate) block: bool,
}

/// One access to memory that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The virtual address of its first byte.
    pub(crate) va: u64,
    /// Whether it wrote; a read-modify-write is told of twice.
    pub(crate) store: bool,
    info: c_uint,
}

impl Access {
    /// How many bytes.
    pub(crate) fn len(self) -> u64 {
        // SAFETY: `info` is QEMU's word for this very access; QEMU decodes it.
        1 << unsafe { (api().qemu_plugin_mem_size_shift)(self.info) }
    }

    /// The physical address in memory; None for a device. Only while QEMU tells of the access.
    pub(crate) fn memory(self) -> Option<u64> {
        self.physical(false)
    }

    /// The physical address of a device's register; None in memory. Only while QEMU tells of the access.
    pub(crate) fn device(self) -> Option<u64> {
        self.physical(true)
    }

    fn physical(self, in_device: bool) -> Option<u64> {
        // SAFETY: `info` and `va` belong together, and this runs within the callback for the access.
        let address = unsafe { (api().qemu_plugin_get_hwaddr)(self.info, self.va) };
        if address.is_null() {
            return None;
        }
        // SAFETY: QEMU gave the handle, which is valid within the callback.
        let is_device = unsafe { (api().qemu_plugin_hwaddr_is_io)(address) };
        // SAFETY: likewise.
        (is_device == in_device).then(|| unsafe { (api().qemu_plugin_hwaddr_phys_addr)(address) })
    }
}

static API: OnceLock<Api> = OnceLock::new();
/// The standard output. QEMU closes its own, the console's, before it tells us that it ends.
static OUT: OnceLock<File> = OnceLock::new();
static TOOL: OnceLock<Box<dyn Tool>> = OnceLock::new();
/// The general registers, by number.
static REGISTERS: OnceLock<Vec<usize>> = OnceLock::new();
/// Which CPU each of QEMU's structures is.
static CPUS: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

thread_local! {
    /// Where QEMU says which CPU this thread runs now.
    static RUNNING: Cell<*const usize> = const { Cell::new(ptr::null()) };
    /// The answer to that of last time: QEMU's structure, and the CPU's number.
    static LAST: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// What QEMU copies to.
    static BUFFER: RefCell<Option<*mut Array>> = const { RefCell::new(None) };
}

fn api() -> &'static Api {
    API.get().expect("the functions are looked up when the plugin is loaded")
}

fn tool() -> &'static dyn Tool {
    TOOL.get().expect("there is a tool before there are callbacks").as_ref()
}

/// Looks up QEMU's functions and keeps the standard output.
///
/// # Errors
/// If this QEMU lacks one; the text names it.
pub(crate) fn connect() -> Result<(), String> {
    symbol("current_cpu\0")?;
    let out = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let _ = (API.set(Api::load()?), OUT.set(File::from(out)));
    Ok(())
}

/// Lets QEMU call `new`.
pub(crate) fn start(id: Id, new: Box<dyn Tool>) {
    let _ = TOOL.set(new);
    // SAFETY: `id` is the one QEMU gave for this plugin, and the functions live as long as the library, which is never
    // unloaded before QEMU ends.
    unsafe { (api().qemu_plugin_register_vcpu_init_cb)(id, cpu_starts) };
    // SAFETY: likewise.
    unsafe { (api().qemu_plugin_register_vcpu_tb_trans_cb)(id, block_translated) };
    // SAFETY: likewise.
    unsafe { (api().qemu_plugin_register_atexit_cb)(id, qemu_ends, ptr::null_mut()) };
}

/// Prints a line where the guest's console goes, behind all that the guest has said.
pub(crate) fn print(text: &str) {
    let Some(mut out) = OUT.get() else { return };
    // Nobody is left to be told if it cannot be written.
    let _ = out.write_all(format!("{text}\n").as_bytes());
}

/// Ends QEMU at once, from whatever thread.
pub(crate) fn stop(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is needed any more, and exit handlers would wait for this very thread.
    unsafe { _exit(status) }
}

/// The value of a general register of the CPU that this thread runs. Only within `execute`.
pub(crate) fn read(register: Register) -> u64 {
    let Some(&handle) = REGISTERS.get().and_then(|known| known.get(usize::from(register.0))) else {
        return 0;
    };
    let copy = |array| {
        // SAFETY: QEMU gave the handle, and `execute` runs in a callback that was registered to read registers.
        unsafe { (api().qemu_plugin_read_register)(handle as Handle, array) == 8 }
    };
    copied(copy).unwrap_or(0)
}

/// Lets QEMU put eight bytes into this thread's buffer, if `copy` says that it could.
fn copied(copy: impl FnOnce(*mut Array) -> bool) -> Option<u64> {
    BUFFER.with_borrow_mut(|buffer| {
        // SAFETY: makes an array, which this thread keeps for ever.
        let array = *buffer.get_or_insert_with(|| unsafe { (api().g_byte_array_new)() });
        // SAFETY: our array; emptied, because a register is appended.
        unsafe { (api().g_byte_array_set_size)(array, 0) };
        if !copy(array) {
            return None;
        }
        // SAFETY: GLib's array, which nobody else uses.
        let Array { data, len } = unsafe { &*array };
        // SAFETY: it has that many bytes.
        (*len >= 8).then(|| u64::from_le_bytes(unsafe { data.cast::<[u8; 8]>().read() }))
    })
}

/// The number of the CPU that this thread runs.
///
/// Not what QEMU passes to callbacks: without parallel threads (every run under `-icount`) QEMU 10.0 passes the CPU that
/// *translated* the block.
fn this_cpu() -> usize {
    // SAFETY: set by `cpu_starts` to a variable of this thread that lives as long as the thread; null only on threads that
    // run no CPU, which get no callbacks.
    let running = unsafe { *RUNNING.get() };
    let (last, index) = LAST.get();
    if running == last {
        return index;
    }
    let known = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = known.as_ref().and_then(|known| known.get(&running)).copied().expect("every CPU was announced");
    LAST.set((running, index));
    index
}

unsafe extern "C" fn cpu_starts(_: Id, index: c_uint) {
    let running = symbol("current_cpu\0").expect("looked up before").cast::<usize>();
    RUNNING.set(running);
    // SAFETY: a variable of this thread, in which QEMU has stored the CPU for which it calls.
    let structure = unsafe { *running };
    let mut known = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = known.get_or_insert_default().insert(structure, index as usize);
    assert!(before.is_none(), "QEMU names CPU {index} as it named another");
    REGISTERS.get_or_init(general_registers);
}

/// The handles of x0 to x30, in order.
fn general_registers() -> Vec<usize> {
    // SAFETY: called for a CPU, from its thread.
    let list = unsafe { &*(api().qemu_plugin_get_registers)() };
    let first = list.data.cast::<RegisterEntry>();
    // SAFETY: QEMU says that it has that many entries; it keeps them for ever, as nobody frees them.
    let entries = unsafe { std::slice::from_raw_parts(first, list.len as usize) };
    let handle = |number: usize| {
        let name = format!("x{number}");
        // SAFETY: every entry has a name that ends with a zero.
        let found = entries.iter().find(|entry| unsafe { CStr::from_ptr(entry.name) }.to_bytes() == name.as_bytes());
        found.map(|entry| entry.handle as usize)
    };
    (0..31).map_while(handle).collect()
}

unsafe extern "C" fn block_translated(_: Id, block: Handle) {
    // SAFETY: QEMU passed the block, here and in all below.
    let count = unsafe { (api().qemu_plugin_tb_n_insns)(block) };
    for index in 0..count {
        // SAFETY: `index` is below the number of instructions.
        let handle = unsafe { (api().qemu_plugin_tb_get_insn)(block, index) };
        let mut bytes = [0; 4];
        // SAFETY: at most as many bytes are written as the array has.
        unsafe { (api().qemu_plugin_insn_data)(handle, bytes.as_mut_ptr().cast(), bytes.len()) };
        // SAFETY: the handle of an instruction.
        let pc = unsafe { (api().qemu_plugin_insn_vaddr)(handle) };
        let instruction = Instruction { pc, operation: decode::decode(u32::from_le_bytes(bytes)) };
        let hooks = tool().translate(&instruction);
        if hooks.block && index == 0 {
            let block_begins = block_begins as Executed;
            // SAFETY: the user data is a number.
            unsafe {
                (api().qemu_plugin_register_vcpu_tb_exec_cb)(block, block_begins, REGISTERS_UNUSED, pc as Handle)
            };
        }
        register(handle, instruction, hooks);
    }
}

fn register(handle: Handle, instruction: Instruction, hooks: Hooks) {
    if hooks.step {
        let pc = instruction.pc as Handle;
        // SAFETY: the user data is a number.
        unsafe { (api().qemu_plugin_register_vcpu_insn_exec_cb)(handle, stepped, REGISTERS_UNUSED, pc) };
    }
    if hooks.execute {
        // Kept for ever: QEMU may execute the translation at any time. Few instructions are of this kind.
        let kept = ptr::from_ref(Box::leak(Box::new(instruction))).cast_mut().cast();
        // SAFETY: the user data is what `executed` expects.
        unsafe { (api().qemu_plugin_register_vcpu_insn_exec_cb)(handle, executed, REGISTERS_READ, kept) };
    }
    if hooks.access {
        for (kind, callback) in [(LOADS, loaded as Accessed), (STORES, stored as Accessed)] {
            let pc = instruction.pc as Handle;
            // SAFETY: the user data is a number.
            unsafe { (api().qemu_plugin_register_vcpu_mem_cb)(handle, callback, REGISTERS_UNUSED, kind, pc) };
        }
    }
}

unsafe extern "C" fn block_begins(_: c_uint, pc: Handle) {
    tool().block(this_cpu(), pc as u64);
}

unsafe extern "C" fn stepped(_: c_uint, pc: Handle) {
    tool().step(this_cpu(), pc as u64);
}

unsafe extern "C" fn executed(_: c_uint, kept: Handle) {
    // SAFETY: `register` passed a leaked `Instruction`.
    tool().execute(this_cpu(), unsafe { &*kept.cast::<Instruction>() });
}

unsafe extern "C" fn loaded(_: c_uint, info: c_uint, va: u64, pc: Handle) {
    tool().access(this_cpu(), pc as u64, Access { va, store: false, info });
}

unsafe extern "C" fn stored(_: c_uint, info: c_uint, va: u64, pc: Handle) {
    tool().access(this_cpu(), pc as u64, Access { va, store: true, info });
}

unsafe extern "C" fn qemu_ends(_: Id, _: Handle) {
    tool().end();
}

/// The options of `-plugin FILE,name=value,…`, as QEMU passes them on.
///
/// # Safety
/// `count` C strings stand at `values`.
pub(crate) unsafe fn options(count: c_int, values: *const *const c_char) -> Vec<String> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: our caller promises them.
    (0..count).map(|i| unsafe { CStr::from_ptr(*values.add(i)) }.to_string_lossy().into_owned()).collect()
}
