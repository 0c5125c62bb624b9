//! A machine of one CPU for tests of page tables: memory, and a log of what was asked of it.
//!
//! It never lies. What a CPU may cache and keep is the business of the model in `tests/machine`.

extern crate std;

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

use under_test::frame::{FrameAllocator, FrameInfo};
use under_test::pte::{ENTRIES, Table};
use under_test::{
    Complaint, Config, CpuId, CpuSet, CpuState, Frame, Hardware, IpiReason, Machine, Scheme, Sequence, System, Ttbr,
};

/// The number of the first frame: not 0, so that a mix-up of number and index shows.
pub const BASE: usize = 0x40_000;
/// Behind those that can be handed out: room for an image.
const IMAGE_FRAMES: usize = 40;

/// One thing that was asked of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A sequence ran, when so many frames were free.
    Ran(Sequence, usize),
    /// Instructions of this frame were synchronised.
    Synced(Frame),
}

std::thread_local! {
    static MEMORY: RefCell<BTreeMap<Frame, &'static Table>> = const { RefCell::new(BTreeMap::new()) };
    static SYSTEM: Cell<Option<&'static System<Fake>>> = const { Cell::new(None) };
    static LOG: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
    static RUNNING: Cell<u64> = const { Cell::new(0) };
    static IMAGE: Cell<(&'static [u8], usize)> = const { Cell::new((&[], 0)) };
}

/// The machine of this thread.
pub struct Fake;

impl Fake {
    /// Metadata for so many frames.
    pub fn info(frames: usize) -> &'static [FrameInfo] {
        Box::leak((0..frames).map(|_| FrameInfo::default()).collect())
    }

    /// Gives this thread a new machine with so many free frames.
    pub fn start(frames: usize) -> &'static System<Self> {
        let info = Self::info(frames + IMAGE_FRAMES);
        let frames = FrameAllocator::new(Frame::from_number(BASE), info, core::iter::once(BASE..BASE + frames));
        // Eager: an `Mm` that no task owns is never loaded, so the last user frees it.
        let config = Config { scheme: Scheme::Eager, ..Config::default() };
        let system = System::new(config, 1, Hardware::plain(8), frames).expect("eight bits serve one CPU");
        let system = Box::leak(Box::new(system));
        SYSTEM.set(Some(system));
        LOG.take();
        system
    }

    /// Puts an image into memory, whose whole pages can be mapped where they lie; gives the first frame.
    pub fn keep(image: &'static [u8]) -> Frame {
        let frames = &Self::system().frames;
        let first = BASE + frames.total();
        let pages = image.chunks_exact(4096);
        frames.keep(first..first + pages.len());
        pages.zip(first..).for_each(|(page, number)| Self::fill_frame(Frame::from_number(number), page));
        IMAGE.set((image, first));
        Frame::from_number(first)
    }

    /// What was asked of the machine since the last call.
    pub fn log() -> Vec<Event> {
        LOG.take()
    }

    /// The sequences among it.
    pub fn sequences() -> Vec<Sequence> {
        let ran = |event| if let Event::Ran(sequence, _) = event { Some(sequence) } else { None };
        Self::log().into_iter().filter_map(ran).collect()
    }
}

impl Machine for Fake {
    type Pinned = ();
    type IrqsMasked = ();

    fn system() -> &'static System<Self> {
        SYSTEM.get().expect("the test calls `Fake::start` first")
    }

    fn cpu_state() -> &'static CpuState<Self> {
        &Self::system().cpus()[0]
    }

    fn pin() {}

    fn mask_irqs() {}

    fn irqs_masked() -> bool {
        true
    }

    fn may_wait() -> bool {
        true
    }

    fn may_lock() -> bool {
        true
    }

    fn relax() {
        panic!("one CPU spins on a lock that it holds itself");
    }

    fn run(sequence: Sequence, operand: u64) {
        if sequence == Sequence::LoadRoot {
            RUNNING.set(operand);
        }
        let free = SYSTEM.get().map_or(0, |system| system.frames.free());
        LOG.with_borrow_mut(|log| log.push(Event::Ran(sequence, free)));
    }

    fn read_ttbr0() -> Ttbr {
        Ttbr(RUNNING.get())
    }

    fn online() -> CpuSet {
        CpuSet::only(CpuId(0))
    }

    fn on_cpus(_: &CpuSet, _: IpiReason, f: &(dyn Fn(CpuId) + Sync)) {
        f(CpuId(0));
    }

    fn table(frame: Frame) -> &'static Table {
        MEMORY.with_borrow_mut(|memory| *memory.entry(frame).or_insert_with(|| Box::leak(Box::new(Table::new()))))
    }

    fn zero_frame(frame: Frame) {
        Self::fill_frame(frame, &[]);
    }

    fn copy_frame(from: Frame, to: Frame) {
        (0..ENTRIES).for_each(|word| Self::table(to).set_word(word, Self::table(from).word(word)));
    }

    fn fill_frame(frame: Frame, bytes: &[u8]) {
        for index in 0..ENTRIES {
            let rest = bytes.get(index * 8..).unwrap_or(&[]);
            let mut word = [0; 8];
            let count = rest.len().min(8);
            word[..count].copy_from_slice(&rest[..count]);
            Self::table(frame).set_word(index, u64::from_le_bytes(word));
        }
    }

    fn first_frame_of(pages: &'static [u8]) -> Option<Frame> {
        let (image, first) = IMAGE.get();
        assert!(!pages.is_empty() && pages.len().is_multiple_of(4096), "whole pages are asked about");
        let at = image.chunks_exact(4096).position(|kept| core::ptr::eq(kept.as_ptr(), pages.as_ptr()))?;
        Some(Frame::from_number(first + at))
    }

    fn sync_instructions(frame: Frame) {
        LOG.with_borrow_mut(|log| log.push(Event::Synced(frame)));
    }

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
