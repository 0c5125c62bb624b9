//! All that the mm layer asks of a machine.
//!
//! The kernel implements it over real registers; `tests/machine` implements it as a machine that
//! behaves as badly as the architecture allows. Methods are associated functions: there is one
//! machine per program (per thread on the host), and none of this state needs a pointer.

use crate::addr::{CpuId, Frame, Ttbr};
use crate::cpumask::CpuSet;
use crate::lazy::{Departure, Entry};
use crate::ops::Sequence;
use crate::pte::Table;
use crate::stats::Counter;
use crate::switch::CpuState;
use crate::system::System;

/// What the CPUs can do, as far as the mm layer uses it. All of them can do the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hardware {
    /// Bits of an ASID: 8 or 16 (`ID_AA64MMFR0_EL1.ASIDBits`).
    pub asid_bits: u32,
    /// TLBI operations on ranges of pages (FEAT_TLBIRANGE).
    pub tlbi_range: bool,
    /// Level hints in TLBI operations (FEAT_TTL).
    pub tlbi_ttl: bool,
    /// An erratum: a broadcast TLBI is done only after it and its DSB were issued twice.
    pub repeat_tlbi: bool,
}

impl Hardware {
    /// CPUs of Armv8.0, without errata.
    pub const fn plain(asid_bits: u32) -> Self {
        Self { asid_bits, tlbi_range: false, tlbi_ttl: false, repeat_tlbi: false }
    }
}

/// Why other CPUs are interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiReason {
    /// Invalidate cached translations.
    Flush,
    /// Make lazy CPUs leave a dead `Mm`.
    Shoot,
    /// Ask every CPU whether it still holds a dead `Mm` (`lazy_tlb.debug=1`).
    Check,
}

/// A check that failed. It is reported once per kind, and what it was about is never freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// Somebody dropped a reference that `init_mm` never gave.
    InitMmDropped,
    /// The last reference to the running task's own `Mm` was dropped.
    OwnMmDropped,
    /// A shot CPU runs a task that owns the dead `Mm`.
    ShotOwner,
    /// A CPU's slot names an `Mm` that is about to be freed.
    SlotNamesDead,
    /// A CPU's `TTBR0_EL1` holds the root of an `Mm` that is about to be freed.
    RootStillLoaded,
}

/// Fault-injection points: places between two steps of a protocol where a test may stop a CPU.
///
/// The names follow the order of the steps. Without the feature `fault-points` they cost nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Point {
    /// Users are zero; nothing is unmapped yet.
    UsersZero,
    /// Entries are cleared; nothing is invalidated yet.
    Unmapped,
    /// Invalidation is complete; nothing is freed yet.
    Flushed,
    /// The address space is empty; its users' reference is still held.
    TornDown,
    /// The last reference is gone; nobody was asked to leave yet.
    CountZero,
    /// The mask was read; no IPI is sent yet.
    MaskRead,
    /// All CPUs acknowledged; nothing is freed yet.
    AllShot,
    /// In the shoot handler, before it looks at the slot.
    ShootEntered,
    /// The own mask bit was found clear and is not set yet.
    BitClear,
    /// The own mask bit is set; the barrier has not run.
    BitSet,
    /// The new root is loaded; the slot still names the old `Mm`.
    RootLoaded,
    /// A share in the free was added; the slot it is for is not tagged yet.
    ShareAdded,
    /// Every slot that named the dead `Mm` is tagged; the dropper's own share is still out.
    AllTagged,
    /// The slot names the next `Mm`; the bit in the dying one's mask is still set.
    LeftUntrimmed,
    /// A batch or a list of retired `Mm`s was taken off; nobody was asked to leave yet.
    WaitingTaken,
    /// In the ASID slow path, its lock held.
    AsidSlowPath,
    /// A rollover took one CPU's ASID and not yet the next one's.
    RolloverStep,
    /// The mask was read ahead of the stores; nothing is published yet.
    HoldersGuessed,
    /// Entries are published; neither the ASID to invalidate nor the mask is read yet.
    EntriesPublished,
    /// The mask was read after the stores; nothing is invalidated yet.
    HoldersRead,
    /// In the flush handler, before it looks at the task and the slot.
    FlushEntered,
    /// Who is online was read; none of them was sent an IPI yet. The kernel's to reach.
    TargetsRead,
    /// A CPU that goes offline still has loaded what it was lazy on.
    CpuLeaving,
    /// It has left that, and is still online.
    CpuUnlazied,
    /// It is not online any more, and those who saw it online may still send it an IPI. The kernel's to reach.
    CpuOffline,
    /// It has said so, and has not looked yet whether it is to stop. The kernel's to reach.
    CpuStopping,
    /// A CPU comes; its TLB may hold what it held when it left.
    CpuEntering,
}

/// What the mm layer says to whoever observes the machine from outside, such as a TLB sanitizer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A root table begins to live: whatever was said of its frame is over.
    RootMade,
    /// Nothing can be used any more that the tables below this root do not say.
    NothingStale,
    /// The root table is about to be freed: no CPU has it loaded, or walks it.
    RootFreed,
}

/// What the mm layer needs from hardware and kernel.
///
/// # The promises a scheme leans on
///
/// `refcount` needs none of these beyond the sequences. `shootdown`, which counts nothing, is
/// safe only if the machine keeps all of them (the shoot-lazies preconditions):
///
/// * **P1** lazy references go through [`System`] only. *Enforced*: the count is private to `mm`.
/// * **P2** a CPU's mask bit is set before its TTBR0 holds the root, and cleared only by itself
///   after it left. *Enforced*: both live in `switch`; checked against every slot before a free.
/// * **P3** slot, own `Mm` and TTBR0 change with interrupts masked. *Enforced*: a debug assertion
///   in the one switch function, on [`Machine::irqs_masked`].
/// * **P4** whoever waits for other CPUs has interrupts on and holds no lock that is taken with
///   interrupts masked: [`Machine::may_wait`] must say no otherwise. *Enforced*: a final drop
///   where it says no goes to the reaper, and [`Machine::on_cpus`] asserts that interrupts are on.
/// * **P5** a CPU that goes offline loads `init_mm` ([`System::leave_cpu`]) before it stops being
///   [`Machine::online`]; one that comes back forgets all that it had cached
///   ([`System::enter_cpu`]) before it is online, or loads anything. *Enforced*: slot and shadow
///   of offline CPUs, too, are looked at before a free.
/// * **P6** code that interrupts a masked section never dereferences the slot: only the CPU
///   itself does, with interrupts masked.
/// * **P7** nothing but the switch function writes TTBR0. *Enforced*: the disassembly test.
/// * **P8** a task switch issues a full barrier ([`Sequence::TaskSwitch`]) whether or not TTBR0
///   changes, except from a lazy CPU back to the same task.
pub trait Machine: Sized + Send + Sync + 'static {
    /// While it lives, this thread of control stays on its CPU (preemption is off).
    type Pinned;
    /// While it lives, interrupts are masked on this CPU; restores what was before.
    type IrqsMasked;

    /// The one system of address spaces of this machine.
    fn system() -> &'static System<Self>;

    /// This CPU's part of it. The caller is pinned or has interrupts masked.
    fn cpu_state() -> &'static CpuState<Self>;

    /// Turns preemption off.
    fn pin() -> Self::Pinned;

    /// Masks interrupts.
    fn mask_irqs() -> Self::IrqsMasked;

    /// Whether interrupts are masked here and now.
    fn irqs_masked() -> bool;

    /// Whether this context may wait for other CPUs: task context, interrupts on, and no lock held
    /// that is ever taken with interrupts masked.
    fn may_wait() -> bool;

    /// Whether this context may take a [`Lock`](crate::sync::Lock): interrupts are on, or no other
    /// CPU runs yet.
    fn may_lock() -> bool;

    /// One turn of a spin loop.
    fn relax();

    /// Issues the sequence's operations in order, with nothing between them, and as a compiler
    /// barrier. `operand` is ignored by sequences that take none.
    fn run(sequence: Sequence, operand: u64);

    /// What this CPU's `TTBR0_EL1` really holds.
    fn read_ttbr0() -> Ttbr;

    /// The CPUs that take interrupts.
    ///
    /// A CPU that is not among them is not told of invalidations. So before it loads a user root
    /// again it forgets everything (`TLBI VMALLE1`), and between its becoming visible here and that
    /// load it executes a DSB ISH.
    fn online() -> CpuSet;

    /// Runs `f` on every CPU of `targets`, this one included if it is named, each time with
    /// interrupts masked, and returns when all have run it. What they wrote is visible here. A
    /// target that went offline since the caller looked is left out: it holds nothing.
    ///
    /// # Panics
    /// In debug builds, if interrupts are masked.
    fn on_cpus(targets: &CpuSet, reason: IpiReason, f: &(dyn Fn(CpuId) + Sync));

    /// The table in a frame that the mm layer uses as a table. Total: any frame that the
    /// allocator hands out can be viewed as 512 words.
    fn table(frame: Frame) -> &'static Table;

    /// Fills a frame with zeroes.
    fn zero_frame(frame: Frame);

    /// Copies a whole frame.
    fn copy_frame(from: Frame, to: Frame);

    /// Copies bytes to the start of a frame and zeroes the rest.
    fn fill_frame(frame: Frame, bytes: &[u8]);

    /// Writes bytes into a frame, from this byte of it on.
    fn store_bytes(frame: Frame, offset: usize, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            let mut word = Self::table(frame).word(at / 8).to_le_bytes();
            word[at % 8] = byte;
            Self::table(frame).set_word(at / 8, u64::from_le_bytes(word));
        }
    }

    /// The frame in which these bytes begin, whole pages of an image, if they lie in frames that were given to
    /// [`FrameAllocator::keep`](crate::frame::FrameAllocator::keep), one after another. These are then mapped as they
    /// are, and not copied.
    fn first_frame_of(pages: &'static [u8]) -> Option<Frame> {
        let _ = pages;
        None
    }

    /// The CPU wrote instructions into this frame: make them visible to every instruction fetch.
    fn sync_instructions(frame: Frame);

    /// Something was pushed for [`System::reap`]: wake who calls it.
    fn wake_reaper();

    /// Something waits for [`System::reap`], which is to be called at this time or soon after, if it is
    /// not called before. In nanoseconds, as [`Machine::now_ns`].
    fn wake_reaper_at(time: u64);

    /// No frame is left: give back what can be given back at once. Interrupts are on; `mm` locks may be
    /// held. What [`System::free_all_dead`] frees is among it.
    fn out_of_frames();

    /// Monotonic time in nanoseconds.
    fn now_ns() -> u64;

    /// Reports a failed check, once per kind; panics in debug builds.
    fn complain(complaint: Complaint);

    /// What the scheme does when a CPU becomes lazy. Every such switch asks, and the answer never changes: a machine
    /// that writes its own code at boot need not look it up.
    #[inline(always)]
    fn entry() -> Entry {
        Entry::of(Self::system().config.scheme)
    }

    /// What a CPU does with its slot when it leaves an `Mm`. As for [`Machine::entry`].
    #[inline(always)]
    fn departure() -> Departure {
        Departure::of(&Self::system().config)
    }

    /// Tells an observer something about a root table. Nobody else takes notice.
    fn mark(mark: Mark, root: Frame) {
        let _ = (mark, root);
    }

    /// A fault-injection point. Called only with the feature `fault-points`.
    fn point(point: Point) {
        let _ = point;
    }

    /// Something was counted on this CPU, which the caller cannot leave now. `about` says what it was about: the root's
    /// address for an `Mm`, the operand for an invalidation, the number for an ASID or a generation. It is worth
    /// calling only where somebody listens. Nothing may be allocated, locked or waited for.
    #[inline(always)]
    fn event(counter: Counter, about: impl FnOnce() -> u64) {
        let _ = (counter, about);
    }
}

/// Counts one on this CPU, and tells the machine what it was about. The caller is pinned or has interrupts masked.
#[inline(always)]
pub(crate) fn note<M: Machine>(cpu: &CpuState<M>, counter: Counter, about: impl FnOnce() -> u64) {
    cpu.counters.count(counter);
    M::event(counter, about);
}

/// Calls [`Machine::point`] where tests are built for it, and is nothing elsewhere.
#[inline(always)]
pub(crate) fn point<M: Machine>(point: Point) {
    if cfg!(feature = "fault-points") {
        M::point(point);
    }
}
