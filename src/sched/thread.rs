//! A thread: what it is, how it is made, and who keeps it alive.
//!
//! Threads are counted (`Arc`), but the scheduler counts nothing: a thread that was started and has not exited owns
//! one reference to itself. So whatever runs, waits in a run queue or blocks is alive, and the scheduler may hold it
//! by its bare address. The reference comes back at the end, in the reaper, which is never the dead thread itself.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use mm::{CpuSet, MmUser};

use super::affinity::Affinity;
use super::wait_queue::{WaitQueue, Waiting};
use super::{placement, reaper, start_thread};
use crate::arch::context::Context;
use crate::arch::fpsimd;
use crate::arch::stack::KernelStack;
use crate::machine::Kernel;
use crate::percpu::{self, Anchor, PerCpu};

/// Whether a thread may run. Whoever changes it from blocked to runnable, by compare-exchange, owns the thread's
/// place: the thread itself just goes on, anyone else puts it into a run queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum State {
    /// Runs, waits in a run queue, or has a waker who is about to put it there.
    Runnable,
    /// Waits for its event only.
    Blocked,
    /// Waits for its event or a signal.
    Interruptible,
    /// Runs no more, or not yet.
    Inactive,
}

/// Bits of [`Thread::flags`].
pub mod flags {
    /// A signal waits to be handled: interruptible waits end.
    pub const SIGNAL_PENDING: u32 = 1 << 0;
    /// The process dies: the thread must exit instead of returning to user code.
    pub const KILL: u32 = 1 << 1;
}

/// One thread of control in the kernel; for a user thread, also what its user part needs to go on.
///
/// First what belongs to it and its CPU alone, beginning with the anchor by which it is found. Then, in one line of
/// memory, what its wakers touch, too: a wake-up from another CPU moves that line there and back, and no other of the
/// thread's. What comes behind it is seldom written.
#[repr(C, align(64))]
pub struct Thread {
    pub(super) anchor: Anchor,
    pub(super) context: Context,
    /// `TPIDR_EL0` while it does not run. Relaxed: touched by the CPU that runs or switches it.
    pub(super) tls: AtomicU64,
    /// The address space of a user thread: one of its users. Touched only by the thread itself and by the switch on
    /// its CPU, with interrupts masked.
    mm: UnsafeCell<Option<MmUser<Kernel>>>,
    extension: Option<Arc<dyn Any + Send + Sync>>,
    /// Where that lies; null without one. Its place in an `Arc<dyn …>` depends on its alignment, which every system call
    /// would have to ask for.
    extension_data: *const (),

    pub(super) state: AtomicU32,
    /// See [`flags`]. Setters use Release and then wake the thread; `fence`s there and in `wait` do the ordering.
    pub flags: AtomicU32,
    /// The next thread in the queue that this one is in. Relaxed: it belongs to the queue.
    pub(super) next: AtomicPtr<Thread>,
    /// The CPU it runs on, waits for, or ran on last. Relaxed: changed by who owns its place (see [`State`]).
    pub(super) cpu: AtomicUsize,
    pub(super) waiting: Waiting,
    /// A CPU runs it or is still saving its registers. Set by the CPU that picks it; cleared (Release) by that CPU
    /// once it has left the thread's stack. A waker that reads `false` (Acquire) may send it to any CPU.
    pub(super) on_cpu: AtomicBool,
    /// [`Thread::unpark`] came before the thread parked. Swapped with AcqRel on both sides.
    pub(super) unparked: AtomicBool,

    pub(super) affinity: Affinity,
    tid: u32,
    name: &'static str,
    stack: Option<KernelStack>,
    pub(super) fp: fpsimd::State,
    /// What it does. Taken by the thread itself when it first runs.
    pub(super) entry: UnsafeCell<Option<Entry>>,
    /// It has left its entry function. Release: pairs with the Acquire in `has_exited`.
    pub(super) exited: AtomicBool,
    pub(super) joiners: WaitQueue,
}

// The register points to the thread, and the wakers' part is one line.
const _: () = {
    assert!(offset_of!(Thread, anchor) == 0);
    assert!(offset_of!(Thread, state) == 64 && offset_of!(Thread, affinity) <= 128);
};

pub(super) type Entry = Box<dyn FnOnce() + Send>;

// SAFETY: the cells say who may touch them; their functions are unsafe or check that the thread is the running one.
// `KernelStack`, `MmUser`, `Entry` and the extension are Send, and what is shared of them is Sync. `waiting` belongs to a
// queue's lock, and `extension_data` is the extension's address.
unsafe impl Sync for Thread {}
// SAFETY: as for Sync; nothing in it belongs to a CPU.
unsafe impl Send for Thread {}

/// There was no memory for a thread's stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// How a thread is to be made.
pub struct Builder {
    name: &'static str,
    tid: u32,
    affinity: CpuSet,
    mm: Option<MmUser<Kernel>>,
    tls: u64,
    fp: fpsimd::Registers,
    extension: Option<Arc<dyn Any + Send + Sync>>,
}

impl Builder {
    /// A kernel thread that may run anywhere.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tid: 0,
            affinity: CpuSet::first(percpu::count()),
            mm: None,
            tls: 0,
            fp: fpsimd::Registers::ZERO,
            extension: None,
        }
    }

    /// Its number, by which user programs know it. Kernel threads have none (0).
    pub fn tid(mut self, tid: u32) -> Self {
        self.tid = tid;
        self
    }

    /// The CPUs it may run on.
    pub fn affinity(mut self, affinity: CpuSet) -> Self {
        self.affinity = affinity;
        self
    }

    /// The address space it runs in.
    pub fn mm(mut self, mm: MmUser<Kernel>) -> Self {
        self.mm = Some(mm);
        self
    }

    /// Its `TPIDR_EL0`.
    pub fn tls(mut self, tls: u64) -> Self {
        self.tls = tls;
        self
    }

    /// Its FP registers, instead of zeroes.
    pub fn fp(mut self, registers: fpsimd::Registers) -> Self {
        self.fp = registers;
        self
    }

    /// What another module keeps with it.
    pub fn extension(mut self, extension: Arc<dyn Any + Send + Sync>) -> Self {
        self.extension = Some(extension);
        self
    }

    /// Makes the thread. It does nothing before [`Thread::start`].
    ///
    /// # Errors
    ///
    /// If there is no memory for its stack.
    pub fn build(self, entry: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, OutOfMemory> {
        reaper::help();
        let stack = KernelStack::new().ok_or(OutOfMemory)?;
        // SAFETY: the stack is new and moves into the thread, which keeps it until no CPU runs it.
        let context = unsafe { Context::starting(stack.top(), start_thread) };
        let mut thread = self.assemble(context, Some(stack));
        thread.entry = UnsafeCell::new(Some(Box::new(entry)));
        Ok(Arc::new(thread))
    }

    /// Makes the thread and starts it.
    ///
    /// # Errors
    ///
    /// As for [`Builder::build`].
    pub fn spawn(self, entry: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, OutOfMemory> {
        let thread = self.build(entry)?;
        thread.start();
        Ok(thread)
    }

    /// The thread that a CPU has been running since its reset: it becomes the CPU's idle thread.
    pub(super) fn adopt(self, cpu: usize) -> Thread {
        let thread = self.assemble(Context::running(), None);
        // Relaxed: nobody else knows it yet.
        thread.on_cpu.store(true, Ordering::Relaxed);
        thread.cpu.store(cpu, Ordering::Relaxed);
        thread
    }

    fn assemble(self, context: Context, stack: Option<KernelStack>) -> Thread {
        let extension_data = self.extension.as_ref().map_or(ptr::null(), |extension| Arc::as_ptr(extension).cast());
        Thread {
            anchor: Anchor::new(),
            context,
            tls: AtomicU64::new(self.tls),
            mm: UnsafeCell::new(self.mm),
            extension: self.extension,
            extension_data,
            state: AtomicU32::new(State::Inactive as u32),
            flags: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            cpu: AtomicUsize::new(0),
            waiting: Waiting::new(),
            on_cpu: AtomicBool::new(false),
            unparked: AtomicBool::new(false),
            affinity: Affinity::new(&self.affinity),
            tid: self.tid,
            name: self.name,
            stack,
            fp: fpsimd::State::new(self.fp),
            entry: UnsafeCell::new(None),
            exited: AtomicBool::new(false),
            joiners: WaitQueue::new(),
        }
    }
}

impl Thread {
    /// Lets a built thread run. Once.
    ///
    /// # Panics
    ///
    /// If it was started before.
    pub fn start(self: &Arc<Self>) {
        let (inactive, runnable) = (State::Inactive as u32, State::Runnable as u32);
        // Relaxed: the run queue publishes the thread.
        let first = self.state.compare_exchange(inactive, runnable, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        assert!(first && !self.has_exited(), "{self:?} was started twice");
        // The reference that the thread owns until the reaper takes it back.
        let thread = Arc::into_raw(Arc::clone(self));
        self.cpu.store(percpu::cpu_id(), Ordering::Relaxed);
        // SAFETY: the reference above keeps it alive for as long as it is started.
        placement::place(unsafe { &*thread });
    }

    /// Makes it the one that runs on this CPU.
    ///
    /// # Safety
    ///
    /// Interrupts are masked, `this` is this CPU's, and the caller goes on as this thread before anything asks who runs.
    #[inline]
    pub(super) unsafe fn run_here(&self, this: &PerCpu) {
        // Relaxed: a hint to others.
        this.sched.shared.current.store(ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        // SAFETY: the caller's promise; what runs is alive.
        unsafe { self.anchor.hold(this) };
    }

    /// Whether another thread should run instead.
    #[inline]
    pub fn should_give_way(&self) -> bool {
        self.anchor.need_resched.load(Ordering::Relaxed)
    }

    /// Its number; 0 for a kernel thread.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The CPU it runs on, or ran on last.
    pub fn last_cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }

    /// The CPUs it may run on.
    pub fn affinity(&self) -> CpuSet {
        self.affinity.get()
    }

    /// Where its kernel stack ends; `None` for an idle thread.
    pub fn stack_top(&self) -> Option<u64> {
        self.stack.as_ref().map(KernelStack::top)
    }

    /// What another module keeps with it; null if nothing. It lives as long as the thread.
    #[inline]
    pub fn extension(&self) -> *const () {
        self.extension_data
    }

    /// Whether that is a `T`.
    pub fn is_extended_by<T: Any>(&self) -> bool {
        self.extension.as_ref().is_some_and(|extension| extension.is::<T>())
    }

    /// True once it has left its entry function.
    pub fn has_exited(&self) -> bool {
        // Acquire: pairs with the Release in `exit`; what the thread did has happened.
        self.exited.load(Ordering::Acquire)
    }

    /// Waits until the thread has exited.
    pub fn join(&self) {
        self.joiners.wait_until(|| self.has_exited().then_some(()));
    }

    /// The address space, which only the running thread and the switch may look at.
    ///
    /// # Safety
    ///
    /// The thread is the running one, or interrupts are masked and this CPU switches from or to it. The caller keeps no
    /// reference while anyone else may use it.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the cell is the thread's own, and its user says so")]
    pub(super) unsafe fn mm_cell(&self) -> &mut Option<MmUser<Kernel>> {
        // SAFETY: the caller is the only one that touches it.
        unsafe { &mut *self.mm.get() }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} ({})", self.tid, self.name)
    }
}
