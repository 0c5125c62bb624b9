//! `ctx` and `yield`: context switches between two members of a pair.
//!
//! One operation is one hand-over: one member wakes the other and goes to sleep. With the partner on another CPU each
//! hand-over leaves one CPU idle and wakes the other, so that each member goes user, idle, user.

use std::{
    io::{self, PipeReader, PipeWriter, pipe},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use super::{
    Sample, Workload,
    team::{self, Gate, Kind},
};
use crate::sys::{
    self, cpu,
    futex::{self, Scope},
    memory::SharedPage,
};

/// Hand-overs before the measured region.
const WARM_UP: u64 = 64;

/// How long the others idle before: longer than it takes a kernel to let a CPU that idles leave its address space.
const SETTLING: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
enum Place {
    Same,
    Other,
    Anywhere,
}

impl Place {
    /// Where that member belongs: two members to a pair, pairs spread over the CPUs. `None` is anywhere.
    fn cpu(self, cpus: &[usize], member: usize) -> Option<usize> {
        match self {
            Place::Same => Some(cpus[member / 2 % cpus.len()]),
            Place::Other => Some(cpus[member % cpus.len()]),
            Place::Anywhere => None,
        }
    }
}

/// One side of a pair.
trait Partner {
    fn wake_other(&mut self) -> io::Result<()>;
    fn await_turn(&mut self) -> io::Result<()>;
}

struct Piped<'a> {
    from_other: &'a PipeReader,
    to_other: &'a PipeWriter,
}

impl Partner for Piped<'_> {
    fn wake_other(&mut self) -> io::Result<()> {
        sys::write_byte(self.to_other)
    }

    fn await_turn(&mut self) -> io::Result<()> {
        sys::read_byte(self.from_other)
    }
}

/// The word names the side whose turn it is. Side 0 begins, so a word starts right as zero.
struct Turns<'a> {
    word: &'a AtomicU32,
    side: u32,
    scope: Scope,
}

impl Partner for Turns<'_> {
    fn wake_other(&mut self) -> io::Result<()> {
        // Pairs with the Acquire load below, on the other side.
        self.word.store(1 - self.side, Ordering::Release);
        futex::wake(self.word, 1, self.scope).map(drop)
    }

    fn await_turn(&mut self) -> io::Result<()> {
        // Pairs with the Release store above, on the other side.
        while self.word.load(Ordering::Acquire) != self.side {
            futex::wait(self.word, 1 - self.side, self.scope, None)?;
        }
        Ok(())
    }
}

/// Side 0 serves, side 1 returns; each does `rounds` of its own hand-overs.
fn play(side: usize, rounds: u64, partner: &mut impl Partner) -> io::Result<()> {
    for _ in 0..rounds {
        if side == 0 {
            partner.wake_other()?;
            partner.await_turn()?;
        } else {
            partner.await_turn()?;
            partner.wake_other()?;
        }
    }
    Ok(())
}

fn member(side: usize, rounds: u64, gate: &Gate, partner: &mut impl Partner) -> io::Result<()> {
    play(side, WARM_UP / 2, partner)?;
    gate.pass()?;
    play(side, rounds, partner)
}

/// Runs the members from where the first of them belongs, and lets the other CPUs settle, so that what is counted happens
/// on the members' CPUs.
fn beside_nobody(place: Place, cpus: &[usize], run: impl FnOnce() -> io::Result<Sample>) -> io::Result<Sample> {
    let home = place.cpu(cpus, 0).map_or(cpus.to_vec(), |home| vec![home]);
    cpu::bound_to(&home, || {
        thread::sleep(SETTLING);
        run()
    })
}

fn settle(place: Place, cpus: &[usize], member: usize) -> io::Result<()> {
    place.cpu(cpus, member).map_or(Ok(()), cpu::pin)
}

type Variant = (Kind, Place, usize);

fn over_pipes((kind, place, pairs): Variant, ops: u64) -> io::Result<(u64, Sample)> {
    let cpus = cpu::allowed()?;
    let rounds = ops.div_ceil(2 * pairs as u64);
    let pipes = (0..2 * pairs).map(|_| pipe()).collect::<io::Result<Vec<_>>>()?;
    let body = |number: usize, gate: &Gate| {
        settle(place, &cpus, number)?;
        let mut partner = Piped { from_other: &pipes[number].0, to_other: &pipes[number ^ 1].1 };
        member(number % 2, rounds, gate, &mut partner)
    };
    let sample = beside_nobody(place, &cpus, || team::run(kind, 2 * pairs, body))?;
    Ok((rounds * 2 * pairs as u64, sample))
}

fn over_futexes((kind, place, pairs): Variant, ops: u64) -> io::Result<(u64, Sample)> {
    let cpus = cpu::allowed()?;
    let rounds = ops.div_ceil(2 * pairs as u64);
    let words = (0..pairs).map(|_| SharedPage::new()).collect::<io::Result<Vec<_>>>()?;
    let body = |number: usize, gate: &Gate| {
        settle(place, &cpus, number)?;
        let mut partner = Turns { word: &words[number / 2][0], side: (number % 2) as u32, scope: kind.scope() };
        member(number % 2, rounds, gate, &mut partner)
    };
    let sample = beside_nobody(place, &cpus, || team::run(kind, 2 * pairs, body))?;
    Ok((rounds * 2 * pairs as u64, sample))
}

/// Two processes on one CPU that yield to each other. One operation is one yield.
fn yields(ops: u64) -> io::Result<(u64, Sample)> {
    let home = cpu::allowed()?[0];
    let each = ops.div_ceil(2);
    let sample = team::run(Kind::Processes, 2, |_, gate| {
        cpu::pin(home)?;
        (0..WARM_UP).for_each(|_| sys::sched_yield());
        gate.pass()?;
        (0..each).for_each(|_| sys::sched_yield());
        Ok(())
    })?;
    Ok((2 * each, sample))
}

pub(super) fn workloads(pairs: usize) -> Vec<Workload> {
    let kinds = [("threads", Kind::Threads), ("processes", Kind::Processes)];
    let places = [("same", Place::Same), ("other", Place::Other), ("anywhere", Place::Anywhere)];
    let suffix = if pairs == 1 { String::new() } else { format!("-x{pairs}") };
    let mut all = Vec::new();
    for (kind_name, kind) in kinds {
        for (place_name, place) in places {
            let cpus_needed = if matches!(place, Place::Other) { 2 } else { 1 };
            // Through idle an emulated CPU may be asleep on its host too, which takes it long to wake.
            let ops = if matches!(place, Place::Same) { 10_000 } else { 2_000 };
            let variant = (kind, place, pairs);
            let name = |means| format!("ctx-{kind_name}-{means}-{place_name}{suffix}");
            all.push(Workload::new(name("pipe"), ops, move |ops| over_pipes(variant, ops)).on_cpus(cpus_needed));
            all.push(Workload::new(name("futex"), ops, move |ops| over_futexes(variant, ops)).on_cpus(cpus_needed));
        }
    }
    all.push(Workload::new("yield", 10_000, yields));
    all
}
