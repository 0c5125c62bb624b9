//! Lazy address spaces, one scheme each boot: who is lazy on what, and what it costs to be.
//!
//! The numbers (T01 …) name the scenarios of docs/lazy-tlb.md.
//!
//! What a CPU does unasked (under `qsbr`, when it idles for long), and when a batch is full, depends on how the emulator runs
//! the others and on who died before: there, only what must hold all the same is expected.
//@ scheme: every
//@ sanitize: tlb
#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lazuli::arch::jumps;
use lazuli::arch::user_copy::copy_from_user;
use lazuli::machine::Kernel;
use lazuli::testing::mms::*;
use lazuli::{expect, kernel_tests, percpu, sched, trace};
use mm::config::Target;
use mm::{Counter, CpuId, Machine, Scheme};

kernel_tests! {
    every_jump_goes_where_the_options_say,
    t24_every_cpu_starts_on_init_mm,
    t01_idle_and_back_costs_no_switch,
    t02_another_task_costs_one_switch,
    t03_kernel_threads_pass_laziness_on,
    t04_lifetimes_leave_nothing_behind,
    t05_a_drop_where_it_ran_sends_no_ipi,
    t06_a_drop_elsewhere_finds_the_lazy_cpu,
    t07_a_holder_drops_long_after_the_exit,
    t08_users_never_rise_from_zero,
    t09_borrowing_what_is_lazily_loaded,
    t17_the_dropping_cpu_is_lazy_itself,
    t18_every_cpu_is_lazy,
}

/// Each place that asks for the scheme's part goes to the one answer that was chosen at boot.
fn every_jump_goes_where_the_options_say() -> Outcome {
    let answers = jumps::answers(&Kernel::system().config, trace::is_wanted());
    let mut chosen: BTreeMap<u64, usize> = BTreeMap::new();
    for jump in jumps::all() {
        let number = chosen.entry(jump.place()).or_default();
        if jump.is_chosen(&answers) {
            expect!(jump.stands(), true, "{:#x} goes there: {jump:?}", jump.place());
            *number += 1;
        }
    }
    expect!(chosen.len() >= 4, true, "{} places ask", chosen.len());
    expect!(chosen.values().all(|&number| number == 1), true, "each place has one answer: {chosen:?}");
    Ok(())
}

fn t24_every_cpu_starts_on_init_mm() -> Outcome {
    let init_mm = Kernel::system().init_mm();
    for cpu in 0..percpu::count() {
        expect!(is_loaded(cpu, init_mm), true, "CPU {cpu} has init_mm loaded");
    }
    Ok(())
}

fn t01_idle_and_back_costs_no_switch() -> Outcome {
    const ROUNDS: u64 = 20;
    /// TTBR0 writes, switches away, grabs, drops and long idles that the thread saw; and what it read.
    static SEEN: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
    let cpu = other_cpu();
    let mm = mapped(0x1234_5678_9abc_def0);
    let counters = [
        Counter::Ttbr0Writes,
        Counter::SwitchUserKernel,
        Counter::LazyGrabs,
        Counter::LazyDrops,
        Counter::IdleUnlazied,
    ];
    let thread = spawn(cpu, Some(mm.clone()), move || {
        let before = counters.map(|counter| count_on(cpu, counter));
        (0..ROUNDS).for_each(|_| sleep(MS));
        for (seen, (counter, before)) in SEEN.iter().zip(counters.into_iter().zip(before)) {
            seen.store(count_on(cpu, counter) - before, Ordering::Relaxed);
        }
        let mut word = [0; 8];
        if copy_from_user(&mut word, PAGE).is_ok() {
            SEEN[5].store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        leave_mm();
    });
    join(&thread)?;
    let [writes, away, grabs, drops, unlazied, word] =
        [0, 1, 2, 3, 4, 5].map(|index| SEEN[index].load(Ordering::Relaxed));
    // Not each sleep is one: a CPU that its host does not run may find the time over already.
    expect!(away >= ROUNDS / 2, true, "{away} switches to the kernel side in {ROUNDS} sleeps");
    let (wanted_writes, wanted_counts) = match scheme() {
        Scheme::Refcount => (0, away),
        Scheme::Shootdown | Scheme::Handoff => (0, 0),
        // But for a CPU that the emulator let idle for so long that it left.
        Scheme::Qsbr => (2 * unlazied, 0),
        Scheme::Eager => (2 * away, 0),
    };
    expect!(writes, wanted_writes, "TTBR0 writes for {away} visits to the kernel side");
    expect!((grabs, drops), (wanted_counts, wanted_counts), "shared read-modify-writes of mm_count");
    expect!(word, 0x1234_5678_9abc_def0, "what the page holds");
    Ok(())
}

fn t02_another_task_costs_one_switch() -> Outcome {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let cpu = other_cpu();
    let (a, b) = (new_mm(), new_mm());
    visit(cpu, &a)?;
    let lazy_on_a = a.count();
    let before = count_on(cpu, Counter::Ttbr0Writes);
    let thread = spawn(cpu, Some(b), move || {
        WRITES.store(count_on(cpu, Counter::Ttbr0Writes), Ordering::Relaxed);
        leave_mm();
    });
    join(&thread)?;
    expect!(WRITES.load(Ordering::Relaxed) - before, 1, "TTBR0 writes from lazy on A to B");
    // All users of A hold one reference between them; the lazy CPU held one more where they are counted.
    let counted = scheme() == Scheme::Refcount && lazy_after_exit();
    expect!((lazy_on_a, a.count()), (1 + u32::from(counted), 1), "mm_count of A, before and after");
    Ok(())
}

fn t03_kernel_threads_pass_laziness_on() -> Outcome {
    let cpu = other_cpu();
    let mm = new_mm();
    visit(cpu, &mm)?;
    let counters = [Counter::Ttbr0Writes, Counter::LazyGrabs, Counter::LazyDrops];
    let before = counters.map(|counter| count_on(cpu, counter));
    for _ in 0..3 {
        join(&spawn(cpu, None, || {}))?;
    }
    if !leaves_unasked() {
        expect!(
            counters.map(|counter| count_on(cpu, counter)),
            before,
            "writes, grabs and drops between kernel threads"
        );
        expect!(is_loaded(cpu, &mm), lazy_after_exit(), "the last kernel thread's CPU is still lazy");
    }
    Ok(())
}

fn t04_lifetimes_leave_nothing_behind() -> Outcome {
    const LIFETIMES: usize = 3_000;
    // What displaced the others may stay, where CPUs are lazy on the dead; nothing else, or the two rounds are not alike.
    let rest = || until("no more than one is dead", || Kernel::system().dead.now() <= 1);
    displace_all()?;
    settle().and_then(|()| rest())?;
    let (frames, made, freed) = (Kernel::system().frames.free(), total(Counter::MmsMade), total(Counter::MmsFreed));
    let thread = spawn(other_cpu(), None, || {
        for word in 0..LIFETIMES {
            // Loaded, left and dropped, as exec and exit do it.
            drop(sched::replace_mm(Some(mapped(word as u64))));
            leave_mm();
        }
    });
    join(&thread)?;
    displace_all()?;
    settle().and_then(|()| rest())?;
    let made = total(Counter::MmsMade) - made;
    expect!(made >= LIFETIMES as u64, true, "{made} address spaces made");
    // The two rounds of `displace_all` are alike: what the first left lazily loaded, the second frees.
    expect!(total(Counter::MmsFreed) - freed, made, "address spaces freed");
    // The stacks of threads that just ended are kept for the next ones: a few of four frames each.
    let gone = frames.saturating_sub(Kernel::system().frames.free());
    expect!(gone <= 16 * 4, true, "{gone} frames gone in {LIFETIMES} lifetimes of five frames each");
    expect!(total(Counter::MmsLeaked), 0, "leaked");
    Ok(())
}

fn t05_a_drop_where_it_ran_sends_no_ipi() -> Outcome {
    let cpu = other_cpu();
    let before = shoots();
    let thread = spawn(cpu, None, || {
        drop(sched::replace_mm(Some(new_mm())));
        leave_mm();
    });
    join(&thread)?;
    expect!(shoots() - before, 0, "IPIs for an address space that never left its CPU");
    displace_all()?;
    settle()
}

fn t06_a_drop_elsewhere_finds_the_lazy_cpu() -> Outcome {
    let cpu = other_cpu();
    if cpu == 0 {
        return Ok(());
    }
    displace_all()?;
    let mm = new_mm();
    visit(cpu, &mm)?;
    let lazy = is_loaded(cpu, &mm);
    let (ipis, found, freed) = (shoots(), total(Counter::ShootFoundLazy), total(Counter::MmsFreed));
    drop(mm);
    if !leaves_unasked() && Kernel::system().config.batch == 0 {
        expect!(lazy, lazy_after_exit(), "the CPU that ran it is lazy on it");
        let by_mask = Kernel::system().config.target == Target::Mask;
        let asked = u64::from(shoots_at_the_drop() && (lazy || by_mask));
        let shot = u64::from(shoots_at_the_drop() && lazy);
        expect!((shoots() - ipis, total(Counter::ShootFoundLazy) - found), (asked, shot), "IPIs sent, lazy CPUs found");
        expect!(total(Counter::MmsFreed) - freed, u64::from(frees_at_the_drop()), "freed at the drop");
        let on_init = is_loaded(cpu, Kernel::system().init_mm());
        expect!(on_init, frees_at_the_drop() || !lazy, "the CPU has left it for init_mm");
    }
    visit(cpu, &new_mm())?;
    until("the address space is freed", || total(Counter::MmsFreed) - freed >= 1)
}

fn t07_a_holder_drops_long_after_the_exit() -> Outcome {
    displace_all()?;
    let mm = new_mm();
    let holder = mm.grab_ref();
    (0..percpu::count().min(2)).try_for_each(|cpu| visit(cpu, &mm))?;
    // Under `tlbi.exit=retire` the teardown finds them; else the final drop.
    let (found, freed) = (total(Counter::ShootFoundLazy), total(Counter::MmsFreed));
    drop(mm);
    sleep(5 * MS);
    expect!((holder.users(), holder.try_user().is_none()), (0, true), "users, and that nobody can become one");
    let dropper = percpu::count() - 1;
    let thread = spawn(dropper, None, move || drop(holder));
    join(&thread)?;
    let lazies = if shoots_at_the_drop() && lazy_after_exit() { percpu::count().min(2) as u64 } else { 0 };
    if !leaves_unasked() && Kernel::system().config.batch == 0 {
        expect!(total(Counter::ShootFoundLazy) - found, lazies, "lazy CPUs found");
    }
    displace_all()?;
    settle()?;
    expect!(total(Counter::MmsFreed) > freed, true, "it was freed");
    Ok(())
}

fn t08_users_never_rise_from_zero() -> Outcome {
    let mm = mapped(8);
    let reference = mm.grab_ref();
    let winner = reference.try_user().ok_or("a live address space takes another user")?;
    drop(mm);
    expect!(winner.space().tables().resident(), 1, "pages kept by the last user");
    drop(winner);
    expect!(reference.try_user().is_none(), true, "no user after the last");
    expect!(reference.space().tables().resident(), 0, "pages after the last user");
    Ok(())
}

fn t09_borrowing_what_is_lazily_loaded() -> Outcome {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    static HELD: AtomicBool = AtomicBool::new(false);
    let cpu = other_cpu();
    let mm = mapped(9);
    visit(cpu, &mm)?;
    let (before, count) = (count_on(cpu, Counter::Ttbr0Writes), mm.count());
    let borrowed = mm.clone();
    let thread = spawn(cpu, None, move || {
        drop(sched::replace_mm(Some(borrowed)));
        let mut word = [0; 8];
        HELD.store(copy_from_user(&mut word, PAGE).is_ok() && word[0] == 9, Ordering::Relaxed);
        leave_mm();
        WRITES.store(count_on(cpu, Counter::Ttbr0Writes), Ordering::Relaxed);
    });
    join(&thread)?;
    if !leaves_unasked() {
        let writes = if lazy_after_exit() { 0 } else { 2 };
        expect!(WRITES.load(Ordering::Relaxed) - before, writes, "TTBR0 writes to borrow and give back");
        expect!(is_loaded(cpu, &mm), lazy_after_exit(), "the CPU is still lazy on it");
    }
    expect!(HELD.load(Ordering::Relaxed), true, "the borrower could read the mapping");
    expect!((mm.count(), mm.users()), (count, 1), "counts after the borrower");
    Ok(())
}

fn t17_the_dropping_cpu_is_lazy_itself() -> Outcome {
    displace_all()?;
    let mm = new_mm();
    visit(0, &mm)?;
    let (ipis, found) = (shoots(), count_on(0, Counter::ShootFoundLazy));
    // The tests run in a kernel thread of CPU 0.
    drop(mm);
    if Kernel::system().config.batch == 0 {
        let shot = u64::from(shoots_at_the_drop() && lazy_after_exit());
        let seen = (shoots() - ipis, count_on(0, Counter::ShootFoundLazy) - found);
        expect!(seen, (0, shot), "IPIs, and lazy found here");
    }
    if !leaves_unasked() && Kernel::system().config.batch == 0 {
        let left = frees_at_the_drop() || !lazy_after_exit();
        expect!(is_loaded(0, Kernel::system().init_mm()), left, "CPU 0 left it");
    }
    displace_all()?;
    settle()
}

fn t18_every_cpu_is_lazy() -> Outcome {
    displace_all()?;
    let mm = new_mm();
    let cpus = percpu::count();
    (0..cpus).try_for_each(|cpu| visit(cpu, &mm))?;
    expect!((0..cpus).all(|cpu| mm.holders().holds(CpuId(cpu as u16))), true, "every CPU is in the mask");
    let (ipis, found) = (shoots(), total(Counter::ShootFoundLazy));
    drop(mm);
    if !leaves_unasked() && Kernel::system().config.batch == 0 {
        let shot = if shoots_at_the_drop() && lazy_after_exit() { cpus as u64 } else { 0 };
        let by_mask = shoots_at_the_drop() && Kernel::system().config.target == Target::Mask;
        let asked = if by_mask { cpus as u64 } else { shot };
        expect!(shoots() - ipis, asked.saturating_sub(1), "IPIs: one for each CPU but this");
        expect!(total(Counter::ShootFoundLazy) - found, shot, "lazy CPUs found");
        let on_init: Vec<_> = (0..cpus).filter(|&cpu| is_loaded(cpu, Kernel::system().init_mm())).collect();
        let left = frees_at_the_drop() || !lazy_after_exit();
        expect!(on_init.len(), if left { cpus } else { 0 }, "CPUs on init_mm");
    }
    displace_all()?;
    settle()
}
