//! The kernel as the machine that the mm layer runs on.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use mm::frame::FrameAllocator;
use mm::pte::Table;
use mm::{
    Complaint, Config, Counter, CpuId, CpuSet, CpuState, Departure, Entry, Frame, IpiReason, Machine, Mark, PAGE_SIZE,
    PhysAddr, Point, Sequence, System, Ttbr,
};

use crate::arch::{cpu, jumps, mark, mmu, page, timer, tlbi};
use crate::ipi::{self, Reason};
use crate::sched::reaper;
use crate::sync::{self, IrqGuard, PreemptGuard};
use crate::{percpu, trace};

/// This kernel, as `mm` sees it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

/// Null until [`init`]. Relaxed: set by CPU 0, before it starts another one.
static SYSTEM: AtomicPtr<System<Kernel>> = AtomicPtr::new(ptr::null_mut());

/// Makes the system of address spaces and tells each CPU its part. CPU 0 calls it, alone.
///
/// # Errors
/// If the options ask for what this machine cannot do; the text says what it can.
pub fn init(config: Config, frames: FrameAllocator<Kernel>) -> Result<(), mm::ConfigError<'static>> {
    let system = Box::leak(Box::new(System::new(config, percpu::count(), cpu::hardware(), frames)?));
    SYSTEM.store(system, Ordering::Relaxed);
    for state in system.cpus() {
        // Relaxed: starting another CPU orders this before anything that CPU does.
        percpu::of(state.id.index()).mm.store(ptr::from_ref(state).cast_mut(), Ordering::Relaxed);
    }
    Ok(())
}

/// Loads `init_mm` on this CPU, which is starting: ends the identity map that turned its MMU on.
pub fn leave_identity_map() {
    let root = Kernel::system().init_mm().root();
    // SAFETY: `init_mm` maps nothing and is never freed, and Rust code runs in the upper half.
    unsafe { tlbi::leave_identity_map(root.address().0) };
}

/// The per-CPU pointer to the mm layer's part.
pub type StatePointer = AtomicPtr<CpuState<Kernel>>;

impl Machine for Kernel {
    type Pinned = PreemptGuard;
    type IrqsMasked = IrqGuard;

    #[inline(always)]
    fn system() -> &'static System<Self> {
        let system = SYSTEM.load(Ordering::Relaxed);
        debug_assert!(!system.is_null(), "the mm layer is set up before anything uses it");
        // SAFETY: `init` stored the address of a system that lives for ever, before anything that asks.
        unsafe { &*system }
    }

    #[inline(always)]
    fn cpu_state() -> &'static CpuState<Self> {
        // SAFETY: `init` stored a pointer into the system, which lives for ever, before any code
        // that switches or drops an `Mm` runs; nobody stores another.
        unsafe { &*percpu::this().mm.load(Ordering::Relaxed) }
    }

    #[inline]
    fn pin() -> PreemptGuard {
        PreemptGuard::new()
    }

    #[inline]
    fn mask_irqs() -> IrqGuard {
        IrqGuard::new()
    }

    #[inline]
    fn irqs_masked() -> bool {
        sync::irqs_masked()
    }

    fn may_wait() -> bool {
        sync::may_wait()
    }

    fn may_lock() -> bool {
        !sync::irqs_masked() || ipi::online().count() <= 1
    }

    fn relax() {
        sync::relax();
    }

    #[inline(always)]
    fn run(sequence: Sequence, operand: u64) {
        tlbi::run(sequence, operand);
    }

    fn read_ttbr0() -> Ttbr {
        tlbi::read_ttbr0()
    }

    fn online() -> CpuSet {
        ipi::online()
    }

    fn on_cpus(targets: &CpuSet, reason: IpiReason, f: &(dyn Fn(CpuId) + Sync)) {
        let reason = match reason {
            IpiReason::Flush => Reason::Flush,
            IpiReason::Shoot => Reason::Shoot,
            IpiReason::Check => Reason::Check,
        };
        ipi::on_each_cpu_mask(reason, targets, call, (&raw const f).expose_provenance(), true);
    }

    #[inline]
    fn table(frame: Frame) -> &'static Table {
        // SAFETY: the allocator hands out frames of RAM only, all of it is mapped for ever in the
        // linear map, and a table is 512 atomics, for which every bit pattern is valid.
        unsafe { &*(mapped(frame) as *const Table) }
    }

    fn zero_frame(frame: Frame) {
        // SAFETY: the allocator gave the frame to the caller alone, and RAM is mapped.
        unsafe { page::zero(mapped(frame)) }
    }

    fn copy_frame(from: Frame, to: Frame) {
        // SAFETY: the caller holds `from`, and the allocator gave `to` to it alone.
        unsafe { page::copy(mapped(from), mapped(to)) }
    }

    fn fill_frame(frame: Frame, source: &[u8]) {
        // SAFETY: as for `zero_frame`.
        unsafe { page::fill(mapped(frame), source) }
    }

    fn store_bytes(frame: Frame, offset: usize, bytes: &[u8]) {
        // SAFETY: the caller holds the frame, and RAM is mapped.
        unsafe { page::store(mapped(frame), offset, bytes) }
    }

    fn first_frame_of(pages: &'static [u8]) -> Option<Frame> {
        let start = pages.as_ptr().addr() as u64;
        let first = Frame::containing(PhysAddr(mmu::virt_to_phys(start)));
        // If one is the archive's, all are. Frames of the kernel's own image, which no program may have, are not.
        (start.is_multiple_of(PAGE_SIZE) && Self::system().frames.is_kept(first)).then_some(first)
    }

    fn sync_instructions(frame: Frame) {
        tlbi::sync_instructions(mapped(frame)..mapped(frame) + PAGE_SIZE);
    }

    fn wake_reaper() {
        reaper::wake();
    }

    fn wake_reaper_at(time: u64) {
        reaper::wake_at(time);
    }

    fn out_of_frames() {
        // SAFETY: null, or what `init` stored.
        let system = unsafe { SYSTEM.load(Ordering::Relaxed).as_ref() };
        // Before there is a system, nothing has died.
        if let Some(system) = system {
            system.free_all_dead();
        }
    }

    fn now_ns() -> u64 {
        timer::now_ns()
    }

    fn complain(complaint: Complaint) {
        /// One bit for each kind that was reported.
        static SEEN: AtomicU32 = AtomicU32::new(0);
        let bit = 1 << complaint as u32;
        // Relaxed: a report orders nothing.
        if SEEN.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            crate::println!("mm: {complaint:?}: a check failed; what it was about is kept for ever");
        }
        debug_assert!(false, "mm: {complaint:?}");
    }

    #[inline(always)]
    fn entry() -> Entry {
        jumps::entry()
    }

    #[inline(always)]
    fn departure() -> Departure {
        jumps::departure()
    }

    #[inline(always)]
    fn mark(mark: Mark, root: Frame) {
        mark::mark(mark, root);
    }

    fn point(point: Point) {
        crate::fault_points::hit(point);
    }

    #[inline(always)]
    fn event(counter: Counter, about: impl FnOnce() -> u64) {
        if trace::is_on() {
            trace::of_mm(counter, about());
        }
    }
}

/// Where the linear map has a frame.
fn mapped(frame: Frame) -> u64 {
    mmu::phys_to_virt(frame.address().0) as u64
}

/// Runs the closure that `on_cpus` sent, on a target, interrupts masked.
fn call(closure: usize) {
    // SAFETY: the address of a reference on the stack of `on_cpus`, which returns only when every
    // target has come back from here; the closure is `Sync`.
    let f = unsafe { *ptr::with_exposed_provenance::<&(dyn Fn(CpuId) + Sync)>(closure) };
    f(CpuId(percpu::cpu_id() as u16));
}
