//! What is recorded with `trace=on`: who is counted is recorded, in order, whole, and the oldest gives way.
//@ append: trace=on
//@ cpu: cortex-a72
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use lazuli::arch::timer;
use lazuli::ipi::{self, Reason};
use lazuli::sync::IrqGuard;
use lazuli::testing::mms::*;
use lazuli::trace::event::{Event, Kind};
use lazuli::trace::ring::RECORDS;
use lazuli::trace::{self, Record};
use lazuli::{expect, kernel_tests, percpu};
use mm::{Counter, Scheme};

kernel_tests! {
    whatever_is_counted_is_recorded,
    a_cpus_records_are_in_order,
    a_switch_names_the_mm_and_the_thread,
    an_ipi_is_recorded_on_both_sides,
    the_oldest_records_give_way,
    no_reader_sees_half_a_record,
}

/// Counters that no record stands for: a switch says as much.
const SILENT: [Counter; 7] = [
    Counter::Ttbr0Writes,
    Counter::LazyGrabs,
    Counter::LazyDrops,
    Counter::MaskBitsSet,
    Counter::MaskBitsCleared,
    Counter::BitsTrimmed,
    Counter::FreeLatency,
];

/// The records that a CPU's ring has now.
fn records(cpu: usize) -> Vec<Record> {
    trace::numbers(cpu).into_iter().flatten().filter_map(|number| trace::read(cpu, number)).collect()
}

/// Those of them that were written after `number`.
fn records_after(cpu: usize, number: u64) -> Vec<Record> {
    records(cpu).into_iter().filter(|record| record.number > number).collect()
}

/// The number of the newest record of a CPU.
fn newest(cpu: usize) -> u64 {
    trace::numbers(cpu).map_or(0, |numbers| *numbers.end())
}

fn whatever_is_counted_is_recorded() -> Outcome {
    for word in 0..4 {
        let mm = mapped(word);
        visit(other_cpu(), &mm)?;
        drop(mm);
    }
    displace_all()?;
    settle()?;
    // The first test: no ring is full yet, so every record since the start is there.
    expect!(newest(0) < RECORDS, true, "records of CPU 0: {}", newest(0));
    for &counter in Counter::ALL.iter().filter(|counter| !SILENT.contains(counter)) {
        // Masked: the CPU that compares does nothing in between. The others idle, and what they do at times (`qsbr`)
        // may need a second look.
        let compare = || {
            let _masked = IrqGuard::new();
            let recorded = (0..percpu::count()).flat_map(records).filter(|record| record.event == Event::Mm(counter));
            (recorded.count() as u64, total(counter))
        };
        until("all that is counted is recorded", || {
            let (recorded, counted) = compare();
            recorded == counted
        })
        .map_err(|why| alloc::format!("{counter:?}: {why}: {:?}", compare()))?;
    }
    expect!(total(Counter::MmsFreed) > 0, true, "something was freed");
    Ok(())
}

fn a_cpus_records_are_in_order() -> Outcome {
    for cpu in 0..percpu::count() {
        let all = records(cpu);
        expect!(all.is_empty(), false, "CPU {cpu} has records");
        for pair in all.windows(2) {
            expect!(pair[1].number, pair[0].number + 1, "the number after {:?}", pair[0]);
            expect!(pair[1].ticks >= pair[0].ticks, true, "{:?} comes after {:?}", pair[1], pair[0]);
        }
        expect!(all.iter().all(|record| record.cpu == cpu), true, "all are of CPU {cpu}");
    }
    Ok(())
}

fn a_switch_names_the_mm_and_the_thread() -> Outcome {
    let cpu = other_cpu();
    let mm = mapped(1);
    let root = mm.root().address().0;
    let before = newest(cpu);
    visit(cpu, &mm)?;
    let all = records_after(cpu, before);
    let place = |counter| {
        let is_it = |record: &Record| record.event == Event::Mm(counter) && record.words[0] == root;
        all.iter().position(is_it).ok_or_else(|| alloc::format!("no {counter:?} of {root:#x}"))
    };
    let (loaded, left) = (place(Counter::SwitchKernelOther)?, place(Counter::SwitchUserKernel)?);
    expect!(loaded < left, true, "it is loaded before it is left");
    expect!(all[loaded].words[1], trace::event::name_word("test"), "the thread's name");
    let unlazied = place(Counter::Unlazied);
    if !leaves_unasked() {
        expect!(unlazied.is_ok(), scheme() == Scheme::Eager || leaves_at_exit(), "init_mm is loaded at once");
    }
    Ok(())
}

/// Whether a task that ends loads `init_mm` (`lazy_tlb.exit=init`).
fn leaves_at_exit() -> bool {
    use lazuli::machine::Kernel;
    use mm::Machine;
    Kernel::system().config.unlazy_at_exit
}

fn an_ipi_is_recorded_on_both_sides() -> Outcome {
    let (own, cpu) = (0, other_cpu());
    if cpu == own {
        return Ok(());
    }
    let (own_before, before) = (newest(own), newest(cpu));
    ipi::on_each_cpu_mask(Reason::Call, &mask(cpu), |_| (), 0, true);
    let (sender, target) = (records_after(own, own_before), records_after(cpu, before));
    let find = |records: &[Record], kind, with: u64| -> Result<Record, String> {
        let is_it =
            |record: &&Record| record.event == Event::Kernel(kind) && record.words == [Reason::Call as u64, with];
        records.iter().find(is_it).copied().ok_or_else(|| alloc::format!("no {kind:?}"))
    };
    let [send, done] = [find(&sender, Kind::IpiSend, cpu as u64)?, find(&sender, Kind::IpiDone, 0)?];
    let [handle, ack] = [find(&target, Kind::IpiHandle, own as u64)?, find(&target, Kind::IpiAck, own as u64)?];
    let times = [send, handle, ack, done].map(|record| record.ticks);
    expect!(times.is_sorted(), true, "send, handle, ack, done at {times:?}");
    Ok(())
}

fn the_oldest_records_give_way() -> Outcome {
    let before = newest(0);
    for number in 0..RECORDS + 100 {
        trace::record(Event::Kernel(Kind::Name), number, 0);
    }
    let numbers = trace::numbers(0).ok_or("there is no ring")?;
    expect!(numbers.end() - numbers.start() + 1, RECORDS, "records that are kept");
    expect!(*numbers.end() >= before + RECORDS + 100, true, "all that were written are counted: {numbers:?}");
    expect!(trace::read(0, numbers.start() - 1), None, "the one before the oldest");
    expect!(trace::read(0, numbers.end() + 1), None, "the one after the newest");
    expect!(trace::read(0, *numbers.end()).is_some(), true, "the newest is there");
    Ok(())
}

fn no_reader_sees_half_a_record() -> Outcome {
    const LONG: u64 = 200 * MS;
    let cpu = other_cpu();
    if cpu == 0 {
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let writer = spawn(cpu, None, move || {
        let mut number = 1u64;
        while !told.load(Ordering::Relaxed) {
            trace::record(Event::Kernel(Kind::Name), number, !number);
            number += 1;
        }
    });
    let before = newest(cpu);
    until("the ring is full of them", || newest(cpu) > before + RECORDS)?;
    let mut torn = None;
    let mut whole = 0;
    let end = timer::now_ns() + LONG;
    while timer::now_ns() < end {
        // The oldest: the writer is about to overwrite them.
        let oldest = trace::numbers(cpu).map_or(1, |numbers| *numbers.start());
        let found = (oldest..oldest + 3).filter_map(|number| trace::read(cpu, number));
        for record in found.filter(|record| record.event == Event::Kernel(Kind::Name)) {
            whole += 1;
            torn = torn.or((record.words[1] != !record.words[0]).then_some(record));
        }
    }
    stop.store(true, Ordering::Relaxed);
    join(&writer)?;
    expect!(torn, None, "a record of two halves");
    expect!(whole > 0, true, "records were read");
    Ok(())
}
