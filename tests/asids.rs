//! ASIDs on target: rollover while CPUs are lazy, and invalidations that must reach them.
//!
//! With few ASIDs, so that a rollover is never far away.
//@ scheme: every
//@ append: asid_bits=4
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lazuli::arch::user_copy::{copy_from_user, copy_to_user};
use lazuli::machine::Kernel;
use lazuli::sched::Thread;
use lazuli::testing::mms::*;
use lazuli::{expect, kernel_tests, percpu, sched};
use mm::pte::Protection;
use mm::{Counter, Machine, MmUser, PAGE_SIZE};

kernel_tests! {
    t25_a_lazy_cpu_keeps_its_number,
    t27_rollover_while_others_are_freed,
    t28_a_number_used_again_hits_nothing_old,
    t29_an_unmapped_page_is_gone_on_a_lazy_cpu,
    t40_a_page_made_read_only_is_so_everywhere,
}

/// Steps that a thread on the other CPU takes one at a time, asleep (and so its CPU lazy) in between.
#[derive(Default)]
struct Steps {
    wanted: AtomicU64,
    done: AtomicU64,
    passed: AtomicBool,
}

impl Steps {
    /// In the thread: waits for step `step`.
    fn wait_for(&self, step: u64) {
        while self.wanted.load(Ordering::Acquire) < step {
            sleep(MS / 2);
        }
    }

    fn done(&self, step: u64, passed: bool) {
        self.passed.store(passed, Ordering::Relaxed);
        self.done.store(step, Ordering::Release);
    }

    /// In the test: lets the thread take step `step`; says whether it passed.
    fn take(&self, step: u64) -> Result<bool, alloc::string::String> {
        self.wanted.store(step, Ordering::Release);
        until("the thread takes its step", || self.done.load(Ordering::Acquire) == step)?;
        Ok(self.passed.load(Ordering::Relaxed))
    }
}

/// A thread of `mm` on the other CPU that runs `step(n)` for n = 1 to `steps`, whenever it is told to.
fn stepper(mm: &MmUser<Kernel>, steps: u64, step: fn(u64) -> bool) -> (Arc<Steps>, Arc<Thread>) {
    let state = Arc::new(Steps::default());
    let shared = state.clone();
    let thread = spawn(other_cpu(), Some(mm.clone()), move || {
        for number in 1..=steps {
            shared.wait_for(number);
            shared.done(number, step(number));
        }
        leave_mm();
    });
    (state, thread)
}

fn reads(word: u64) -> bool {
    let mut bytes = [0; 8];
    copy_from_user(&mut bytes, PAGE).is_ok() && u64::from_le_bytes(bytes) == word
}

/// Runs new address spaces on this CPU until the generation has ended `times` more.
fn roll_over(times: u64) -> Outcome {
    let before = total(Counter::AsidRollovers);
    for _ in 0..times * 600 {
        if total(Counter::AsidRollovers) - before >= times {
            return Ok(());
        }
        visit(0, &new_mm())?;
    }
    Err("the generation never ended; boot with asid_bits=8 or less".into())
}

fn t25_a_lazy_cpu_keeps_its_number() -> Outcome {
    if percpu::count() == 1 {
        return Ok(());
    }
    fn root_and_asid_match(_: u64) -> bool {
        let mm = sched::current_mm().expect("the thread owns one");
        let loaded = Kernel::read_ttbr0();
        Some(loaded.asid()) == mm.context().asid() && loaded.root() == mm.root() && reads(25)
    }
    let mm = mapped(25);
    let (steps, thread) = stepper(&mm, 5, root_and_asid_match);
    expect!(steps.take(1)?, true, "before any rollover");
    for step in 2..=5 {
        roll_over(2)?;
        // Elsewhere it is given its number anew: the same one, because a CPU is lazy on it.
        visit(0, &mm)?;
        expect!(steps.take(step)?, true, "back from lazy after a rollover, step {step}");
    }
    join(&thread)
}

fn t27_rollover_while_others_are_freed() -> Outcome {
    for _ in 0..10 {
        let mms: [_; 4] = core::array::from_fn(|_| mapped(27));
        for (index, mm) in mms.iter().enumerate() {
            visit(index % percpu::count(), mm)?;
        }
        let thread = spawn(other_cpu(), None, move || drop(mms));
        roll_over(1)?;
        join(&thread)?;
    }
    displace_all()?;
    settle()?;
    expect!(total(Counter::MmsLeaked), 0, "leaked");
    Ok(())
}

fn t28_a_number_used_again_hits_nothing_old() -> Outcome {
    static WRONG: AtomicU64 = AtomicU64::new(0);
    // The same address, other content each time: an entry left from an earlier owner of the number shows.
    for word in 1..=200 {
        let thread = spawn(other_cpu(), Some(mapped(word)), move || {
            if !reads(word) {
                WRONG.fetch_add(1, Ordering::Relaxed);
            }
            leave_mm();
        });
        join(&thread)?;
    }
    expect!(WRONG.load(Ordering::Relaxed), 0, "reads that hit another's page");
    Ok(())
}

fn t29_an_unmapped_page_is_gone_on_a_lazy_cpu() -> Outcome {
    let mm = mapped(29);
    let (steps, thread) = stepper(&mm, 2, |_| reads(29));
    expect!(steps.take(1)?, true, "the page can be read");
    mm.space().unmap(&mm, PAGE, PAGE_SIZE).map_err(|error| alloc::format!("{error:?}"))?;
    expect!(steps.take(2)?, false, "the page can be read after it was unmapped elsewhere");
    join(&thread)
}

fn t40_a_page_made_read_only_is_so_everywhere() -> Outcome {
    fn writes(step: u64) -> bool {
        copy_to_user(PAGE, &step.to_le_bytes()).is_ok()
    }
    let mm = mapped(40);
    let (steps, thread) = stepper(&mm, 3, writes);
    expect!(steps.take(1)?, true, "the page can be written");
    let protect =
        |protection| mm.space().protect(&mm, PAGE, PAGE_SIZE, protection).map_err(|error| alloc::format!("{error:?}"));
    protect(Protection::READ)?;
    expect!(steps.take(2)?, false, "the page can be written after it was made read-only");
    protect(Protection::READ_WRITE)?;
    expect!(steps.take(3)?, true, "the page can be written again");
    join(&thread)
}
