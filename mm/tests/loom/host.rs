//! A machine whose CPUs are loom's threads.
//!
//! Of hardware it knows the frames of root tables: a CPU that has one loaded reads it until it has loaded another, and who
//! frees it writes it. Loom itself objects if the two are not ordered.

#![expect(unsafe_code, reason = "a function that others run while its caller waits loses its lifetime on the way")]

use std::boxed::Box;
use std::cell::Cell;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::thread::JoinHandle;

use crate::frame::{FrameAllocator, FrameInfo};
use crate::pte::Table;
use crate::sync::{Ordering, fence};
use crate::{
    Complaint, Config, CpuId, CpuSet, CpuState, Frame, Hardware, IpiReason, Machine, Op, Scheme, Sequence, System, Ttbr,
};

/// The number of the first frame.
const BASE: usize = 0x40;
/// Frames: `init_mm`'s root and some more.
pub(super) const FRAMES: usize = 6;
/// Preemptions of a thread that could go on, if the environment does not say otherwise.
const PREEMPTIONS: usize = 3;

pub(super) struct Host;

/// What hardware does in one run.
struct Board {
    /// Each frame, as walkers read it and who frees it writes it.
    frames: Vec<UnsafeCell<()>>,
    /// For each CPU: it was asked to run a function, and has not yet.
    asked: Vec<Asked>,
}

struct Asked {
    pending: AtomicBool,
    function: Cell<Option<&'static (dyn Fn(CpuId) + Sync)>>,
}

std::thread_local! {
    // All of loom's threads are one thread of the host.
    static SYSTEM: Cell<Option<&'static System<Host>>> = const { Cell::new(None) };
    static BOARD: Cell<Option<&'static Board>> = const { Cell::new(None) };
    static TABLES: Vec<&'static Table> = (0..FRAMES).map(|_| &*Box::leak(Box::new(Table::new()))).collect();
}

loom::thread_local! {
    static CPU: Cell<usize> = Cell::new(0);
    static ROOT: Cell<Option<Frame>> = Cell::new(None);
    static MAY_WAIT: Cell<bool> = Cell::new(true);
}

/// Runs `scenario` in every way under a scheme, each time on a new machine of so many CPUs.
pub(super) fn check(scheme: Scheme, cpus: usize, scenario: impl Fn() + Send + Sync + 'static) {
    check_with(Config { scheme, ..Config::default() }, cpus, scenario);
}

/// The same with all options.
pub(super) fn check_with(config: Config, cpus: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.max_branches = 20_000;
    builder.check(move || {
        let info: &'static [FrameInfo] = Box::leak((0..FRAMES).map(|_| FrameInfo::default()).collect());
        let frames = FrameAllocator::new(Frame::from_number(BASE), info, std::iter::once(BASE..BASE + FRAMES));
        let ask = || Asked { pending: AtomicBool::new(false), function: Cell::new(None) };
        let board = Board {
            frames: (0..FRAMES).map(|_| UnsafeCell::new(())).collect(),
            asked: (0..cpus).map(|_| ask()).collect(),
        };
        BOARD.set(Some(Box::leak(Box::new(board))));
        // As few numbers as there may be.
        let bits = (cpus as u32 + 2).next_power_of_two().trailing_zeros();
        let config = Config { asid_bits: Some(bits), ..config };
        let system = System::new(config, cpus, Hardware::plain(8), frames).expect("the options mean something");
        SYSTEM.set(Some(Box::leak(Box::new(system))));
        scenario();
    });
}

/// A CPU that does something. What it has loaded at the end, it may still walk.
pub(super) fn cpu(number: usize, work: impl FnOnce() + 'static) -> JoinHandle<()> {
    loom::thread::spawn(move || {
        CPU.with(|cpu| cpu.set(number));
        work();
        ROOT.with(Cell::get).into_iter().for_each(walk);
    })
}

/// Does something where it may not wait for other CPUs.
pub(super) fn unable_to_wait(what: impl FnOnce()) {
    MAY_WAIT.with(|may| may.set(false));
    what();
    MAY_WAIT.with(|may| may.set(true));
}

/// Serves what other CPUs ask for, once.
pub(super) fn serve() {
    let asked = &board().asked[Host::cpu_state().id.index()];
    // Acquire: pairs with the Release in `on_cpus`.
    if asked.pending.load(Ordering::Acquire) {
        let function = asked.function.get().expect("set before");
        function(Host::cpu_state().id);
        // Release: pairs with the Acquire in `on_cpus`.
        asked.pending.store(false, Ordering::Release);
    }
}

/// The frames that nobody uses.
pub(super) fn free_frames() -> usize {
    Host::system().frames.free()
}

fn board() -> &'static Board {
    BOARD.get().expect("a check runs")
}

/// The walker reads this root.
fn walk(root: Frame) {
    board().frames[root.number() - BASE].with(|_| ());
}

impl Machine for Host {
    type Pinned = ();
    type IrqsMasked = ();

    fn system() -> &'static System<Self> {
        SYSTEM.get().expect("a check runs")
    }

    fn cpu_state() -> &'static CpuState<Self> {
        &Self::system().cpus()[CPU.with(Cell::get)]
    }

    fn pin() {}

    fn mask_irqs() {}

    fn irqs_masked() -> bool {
        true
    }

    fn may_wait() -> bool {
        MAY_WAIT.with(Cell::get)
    }

    fn may_lock() -> bool {
        true
    }

    fn relax() {
        loom::thread::yield_now();
    }

    fn run(sequence: Sequence, operand: u64) {
        if sequence == Sequence::LoadRoot {
            let next = Ttbr(operand).root();
            // The last walk of the old root, then the first of the new one.
            ROOT.with(|root| root.replace(Some(next))).into_iter().for_each(walk);
            walk(next);
        }
        if sequence.ops().contains(&Op::DsbIsh) {
            fence(Ordering::SeqCst);
        }
    }

    fn read_ttbr0() -> Ttbr {
        Self::cpu_state().shadow_ttbr()
    }

    fn online() -> CpuSet {
        CpuSet::first(Self::system().cpus().len())
    }

    fn on_cpus(targets: &CpuSet, _: IpiReason, f: &(dyn Fn(CpuId) + Sync)) {
        let own = Self::cpu_state().id;
        // SAFETY: only the lifetime changes; this function returns only after all have run it.
        let function = unsafe { core::mem::transmute::<&(dyn Fn(CpuId) + Sync), &'static (dyn Fn(CpuId) + Sync)>(f) };
        for target in targets.iter().filter(|target| *target != own) {
            let asked = &board().asked[target.index()];
            asked.function.set(Some(function));
            // Release: pairs with the Acquire in `serve`.
            asked.pending.store(true, Ordering::Release);
        }
        if targets.contains(own) {
            f(own);
        }
        for target in targets.iter().filter(|target| *target != own) {
            // Acquire: pairs with the Release in `serve`.
            while board().asked[target.index()].pending.load(Ordering::Acquire) {
                serve();
                loom::thread::yield_now();
            }
        }
    }

    fn table(frame: Frame) -> &'static Table {
        // Whoever has a root as a table is about to free it: no walk may be on its way.
        board().frames[frame.number() - BASE].with_mut(|_| ());
        TABLES.with(|tables| tables[frame.number() - BASE])
    }

    fn zero_frame(frame: Frame) {
        let table = Self::table(frame);
        (0..crate::pte::ENTRIES).for_each(|word| table.set_word(word, 0));
    }

    fn copy_frame(_: Frame, _: Frame) {}

    fn fill_frame(_: Frame, _: &[u8]) {}

    fn sync_instructions(_: Frame) {}

    fn wake_reaper() {}

    fn wake_reaper_at(_: u64) {}

    fn out_of_frames() {}

    fn now_ns() -> u64 {
        0
    }

    fn complain(complaint: Complaint) {
        panic!("{complaint:?}");
    }
}
