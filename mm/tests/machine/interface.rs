//! The machine, as `mm` sees it: every call is a step.

use crate::pte::Table;
use crate::{Complaint, Counter, CpuId, CpuSet, CpuState, Frame, IpiReason, Machine, Point, Sequence, System, Ttbr};

use super::{Event, State, World, interrupts, kernel, this_cpu, this_thread, world};

/// The machine, as `mm` sees it.
pub struct Lying;

/// Preemption is off.
pub struct Pinned(());

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(me) = this_thread() {
            world().lock().threads[me].pins -= 1;
        }
    }
}

/// Interrupts are masked; restores what was before.
pub struct Masked {
    before: bool,
}

impl Drop for Masked {
    fn drop(&mut self) {
        if this_thread().is_some() && !self.before {
            interrupts::unmask(world());
        }
    }
}

impl Machine for Lying {
    type Pinned = Pinned;
    type IrqsMasked = Masked;

    fn system() -> &'static System<Self> {
        world().system()
    }

    fn cpu_state() -> &'static CpuState<Self> {
        &world().system().cpus()[this_cpu()]
    }

    fn pin() -> Pinned {
        world().step(Event::Pin, |state, _| {
            if let Some(me) = this_thread() {
                state.threads[me].pins += 1;
            }
        });
        Pinned(())
    }

    fn mask_irqs() -> Masked {
        let mask = |state: &mut State, cpu: usize| std::mem::replace(&mut state.cores[cpu].masked, true);
        Masked { before: world().step(Event::Mask, mask) }
    }

    fn irqs_masked() -> bool {
        let state = world().lock();
        this_thread().is_some_and(|me| state.cores[state.threads[me].cpu].masked)
    }

    fn may_wait() -> bool {
        this_thread().is_some() && !Self::irqs_masked()
    }

    fn may_lock() -> bool {
        !Self::irqs_masked()
    }

    fn relax() {
        world().step(Event::Spin, |_, _| ());
    }

    fn run(sequence: Sequence, operand: u64) {
        if sequence == Sequence::LoadRoot {
            world().expect(Ttbr(operand).root());
        }
        for &op in sequence.ops() {
            world().step(Event::Op(op, operand), |state, cpu| state.execute(cpu, op, operand));
        }
        world().lock().timeline.ran(sequence, operand);
    }

    fn read_ttbr0() -> Ttbr {
        let cpu = this_cpu();
        world().lock().cpus[cpu].ttbr()
    }

    fn online() -> CpuSet {
        let state = world().lock();
        let is_online = |cpu: &CpuId| state.cores.get(cpu.index()).is_none_or(|core| core.online);
        CpuSet::first(world().setup.cpus).iter().filter(is_online).collect()
    }

    fn on_cpus(targets: &CpuSet, reason: IpiReason, f: &(dyn Fn(CpuId) + Sync)) {
        interrupts::on_cpus(world(), targets, reason, f);
    }

    fn table(frame: Frame) -> &'static Table {
        world().expect(frame);
        world().lock().memory.table(frame)
    }

    fn zero_frame(frame: Frame) {
        world().fill(frame, |_| 0);
    }

    fn copy_frame(from: Frame, to: Frame) {
        let source = world().lock().memory.peek(from);
        world().fill(to, |word| source.word(word));
    }

    fn fill_frame(frame: Frame, bytes: &[u8]) {
        world().fill(frame, |word| {
            let mut value = [0; 8];
            let rest = bytes.get(word * 8..).unwrap_or(&[]);
            let count = rest.len().min(8);
            value[..count].copy_from_slice(&rest[..count]);
            u64::from_le_bytes(value)
        });
    }

    fn sync_instructions(_: Frame) {}

    fn wake_reaper() {
        kernel::wake_reaper();
    }

    fn wake_reaper_at(time: u64) {
        let mut state = world().lock();
        state.reaper_due = Some(state.reaper_due.map_or(time, |due| due.min(time)));
    }

    fn out_of_frames() {
        world().system().free_all_dead();
    }

    fn now_ns() -> u64 {
        world().lock().now_ns()
    }

    fn event(counter: Counter, about: impl FnOnce() -> u64) {
        let about = about();
        world().lock().about[counter as usize] = about;
    }

    fn complain(complaint: Complaint) {
        let mut state = world().lock();
        state.complaints.push(complaint);
        if !state.expected.contains(&complaint) {
            world().fail(state, &format!("the mm layer complains: {complaint:?}"));
        }
    }

    fn point(point: Point) {
        world().step(Event::At(point), |_, _| ());
        world().stop_if_asked(point);
    }
}

impl World {
    /// The mm layer names a frame: is there such a one? Who follows an `Mm` that was freed finds none.
    fn expect(&self, frame: Frame) {
        let state = self.lock();
        if !state.memory.has(frame) {
            self.fail(
                state,
                &format!("the mm layer reaches for {frame:?}, which does not exist: by an `Mm` that was freed?"),
            );
        }
    }

    /// A frame begins a new use: from here on, whoever still reaches its former one is caught.
    fn fill(&'static self, frame: Frame, word: impl Fn(usize) -> u64) {
        self.step(Event::Reuse(frame), |state, _| state.memory.reuse(frame, word));
    }
}
