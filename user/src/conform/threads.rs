//! Threads: clone, thread-local storage, affinity, and registers that survive a switch.

use std::{
    arch::{asm, naked_asm},
    cell::Cell,
    sync::{
        Barrier,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use super::{
    Case, Notes,
    notes::{KERNEL, answer, at, call, into, must},
};
use crate::sys::{cpu, memory::Mapping, process, sched_yield};

pub(super) const CASES: &[Case] = &[
    ("join", join),
    ("local", local),
    ("clone", clone),
    ("clone-vfork", clone_vfork),
    ("ids", ids),
    ("many", many),
    ("affinity", affinity),
    ("affinity-arguments", affinity_arguments),
    ("vector-registers", vector_registers),
];

fn join(notes: &mut Notes) {
    notes.note("value", thread::spawn(|| 6 * 7).join().unwrap_or(0));
    let mut numbers = vec![1, 2, 3];
    thread::scope(|scope| drop(scope.spawn(|| numbers.push(4))));
    notes.note("borrowed", format!("{numbers:?}").replace(' ', ""));
}

fn local(notes: &mut Notes) {
    thread_local!(static NUMBER: Cell<u32> = const { Cell::new(1) });
    let meeting = Barrier::new(4);
    let seen: Vec<u32> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let meeting = &meeting;
                scope.spawn(move || {
                    NUMBER.set(NUMBER.get() + number * 10);
                    meeting.wait();
                    sched_yield();
                    NUMBER.get()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).collect()
    });
    notes.note("each-has-its-own", format!("{seen:?}").replace(' ', ""));
    notes.note("main-keeps-its-own", NUMBER.get());
}

static SEEN_LOCAL: AtomicU64 = AtomicU64::new(0);
static SEEN_ID: AtomicU32 = AtomicU32::new(0);

/// What every thread of a process shares.
const THREAD: i32 = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;

/// A thread without a C library behind it: it may use no thread-local storage, not even errno.
extern "C" fn bare_thread() -> ! {
    let local: u64;
    // SAFETY: EL0's own register.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) local, options(nomem, nostack)) };
    SEEN_LOCAL.store(local, SeqCst);
    SEEN_ID.store(call(libc::SYS_gettid, &[]) as u32, SeqCst);
    loop {
        call(libc::SYS_exit, &[0]);
    }
}

/// clone(flags, stack, where the parent finds the id, thread-local base, word to clear); the child runs `entry`.
#[unsafe(naked)]
extern "C" fn clone_thread(_flags: u64, _stack: u64, _parent: u64, _local: u64, _clear: u64, _entry: u64) -> i64 {
    naked_asm!("mov x8, #220", "svc #0", "cbnz x0, 1f", "br x5", "1: ret")
}

fn clone(notes: &mut Notes) {
    let stack = Mapping::private(64 * 1024).expect("a stack");
    let top = stack.start() as u64 + 64 * 1024;
    let (mut parent_word, mut clear_word) = (0u32, AtomicU32::new(1));
    let flags =
        THREAD | libc::CLONE_SYSVSEM | libc::CLONE_SETTLS | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID;
    let entry = bare_thread as extern "C" fn() -> ! as usize as u64;
    let id = clone_thread(flags as u64, top, into(&mut parent_word), 0x1234_5678, into(&mut clear_word), entry);
    notes.note("id-is-another", id > 0 && id as u64 != must(libc::SYS_gettid, &[]));
    // The kernel clears the word and wakes one waiter when the thread is gone: a shared futex, by address.
    while clear_word.load(SeqCst) != 0 {
        call(libc::SYS_futex, &[at(&clear_word), libc::FUTEX_WAIT as u64, 1, 0]);
    }
    notes.note("cleared", clear_word.load(SeqCst));
    notes.note("parent-word", i64::from(parent_word) == id);
    notes.note("own-id", i64::from(SEEN_ID.load(SeqCst)) == id);
    notes.note("local-base", format!("{:#x}", SEEN_LOCAL.load(SeqCst)));
}

/// A thread like the other, which takes its time.
extern "C" fn slow_thread() -> ! {
    let moment = [0u64, 20_000_000];
    call(libc::SYS_nanosleep, &[at(&moment), 0]);
    SEEN_LOCAL.store(1, SeqCst);
    loop {
        call(libc::SYS_exit, &[0]);
    }
}

/// The caller waits for the end of a thread as it would for that of a process.
fn clone_vfork(notes: &mut Notes) {
    let stack = Mapping::private(64 * 1024).expect("a stack");
    let top = stack.start() as u64 + 64 * 1024;
    let entry = slow_thread as extern "C" fn() -> ! as usize as u64;
    let id = clone_thread((THREAD | libc::CLONE_VFORK) as u64, top, 0, 0, 0, entry);
    notes.note("has-ended", SEEN_LOCAL.load(SeqCst));
    notes.note("id-is-another", id > 0 && id as u64 != must(libc::SYS_gettid, &[]));
}

fn ids(notes: &mut Notes) {
    let pid = must(libc::SYS_getpid, &[]);
    let (process, id, group) =
        thread::spawn(|| (must(libc::SYS_getpid, &[]), must(libc::SYS_gettid, &[]), must(libc::SYS_getpgid, &[0])))
            .join()
            .expect("a thread");
    notes.note("same-process", process == pid);
    notes.note("another-thread", id != pid);
    notes.note("same-group", group == must(libc::SYS_getpgid, &[0]));
}

fn many(notes: &mut Notes) {
    let sum = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..32 {
            let sum = &sum;
            scope.spawn(move || sum.fetch_add(number, SeqCst));
        }
    });
    notes.note("sum-of-32", sum.load(SeqCst));
    let ok = (0..100).all(|number| thread::spawn(move || number).join().is_ok_and(|value| value == number));
    notes.note("hundred-in-a-row", ok);
}

fn affinity(notes: &mut Notes) {
    let cpus = cpu::allowed().expect("cpus");
    let moved = |cpu: usize| cpu::pin(cpu).is_ok() && cpu::current().is_ok_and(|now| now == cpu);
    notes.note("moves-at-once", cpus.iter().all(|&cpu| moved(cpu)));
    let last = *cpus.last().expect("a cpu");
    notes.note("reads-back", cpu::allowed().is_ok_and(|set| set == [last]));
    let child = process::spawn(|| cpu::allowed().is_ok_and(|set| set == [last]).into());
    notes.note("child-inherits", format!("{:?}", process::wait(child.expect("a child")).expect("the child").1));
    let inherited = thread::spawn(move || cpu::allowed().is_ok_and(|set| set == [last]));
    notes.note("thread-inherits", inherited.join().unwrap_or(false));
    notes.note("back", cpu::pin_to(&cpus).is_ok() && cpu::allowed().is_ok_and(|set| set == cpus));
}

fn affinity_arguments(notes: &mut Notes) {
    let mut set = [0u64; 128];
    let size = 1024;
    notes.call("empty-set", libc::SYS_sched_setaffinity, &[0, size, at(&set)]);
    set[127] = 1 << 63;
    notes.call("no-such-cpu", libc::SYS_sched_setaffinity, &[0, size, at(&set)]);
    notes.call("nobody", libc::SYS_sched_setaffinity, &[0x3f_ffff, size, at(&set)]);
    notes.call("kernel-pointer", libc::SYS_sched_setaffinity, &[0, size, KERNEL]);
    let filled = call(libc::SYS_sched_getaffinity, &[0, size, into(&mut set)]);
    notes.note("get-fills-whole-words", filled > 0 && filled % 8 == 0);
    notes.call("get-odd-size", libc::SYS_sched_getaffinity, &[0, 12, into(&mut set)]);
    notes.call("get-no-room", libc::SYS_sched_getaffinity, &[0, 0, into(&mut set)]);
    notes.call("get-nobody", libc::SYS_sched_getaffinity, &[0x3f_ffff, size, into(&mut set)]);
    notes.call("get-kernel-pointer", libc::SYS_sched_getaffinity, &[0, size, KERNEL]);
    notes.call("yield", libc::SYS_sched_yield, &[]);
}

/// Fills all vector registers with a byte, yields again and again, and says how many rounds kept them.
///
/// x0: the byte, x1: rounds. Callee-saved registers are put back.
#[unsafe(naked)]
extern "C" fn hold_vectors(_byte: u64, _rounds: u64) -> u64 {
    naked_asm!(
        "sub sp, sp, #64",
        "stp d8, d9, [sp]",
        "stp d10, d11, [sp, #16]",
        "stp d12, d13, [sp, #32]",
        "stp d14, d15, [sp, #48]",
        "mov x9, x0",
        "mov x10, x1",
        "mov x11, #0",
        "mov x8, #124", // sched_yield
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "dup v\\n\\().16b, w9",
        ".endr",
        "2: svc #0",
        // And all registers together: any bit that one of them lost, or gained, shows.
        "mov v16.16b, v0.16b",
        "mov v17.16b, v0.16b",
        ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "and v16.16b, v16.16b, v\\n\\().16b",
        "orr v17.16b, v17.16b, v\\n\\().16b",
        ".endr",
        "uminv b16, v16.16b",
        "umaxv b17, v17.16b",
        "umov w12, v16.b[0]",
        "umov w13, v17.b[0]",
        "cmp w12, w9",
        "ccmp w13, w9, #0, eq",
        "cinc x11, x11, eq",
        "dup v16.16b, w9",
        "dup v17.16b, w9",
        "subs x10, x10, #1",
        "b.ne 2b",
        "mov x0, x11",
        "ldp d8, d9, [sp]",
        "ldp d10, d11, [sp, #16]",
        "ldp d12, d13, [sp, #32]",
        "ldp d14, d15, [sp, #48]",
        "add sp, sp, #64",
        "ret",
    )
}

fn vector_registers(notes: &mut Notes) {
    const ROUNDS: u64 = 500;
    let home = cpu::allowed().expect("cpus")[0];
    let hold = move |byte| {
        cpu::pin(home).expect("a cpu");
        hold_vectors(byte, ROUNDS)
    };
    let kept = thread::scope(|scope| {
        let threads = [0x11, 0x22, 0x44].map(|byte| scope.spawn(move || hold(byte)));
        threads.map(|thread| thread.join().unwrap_or(0))
    });
    notes.note("kept-by-threads", answer(kept.iter().sum::<u64>() as i64));
    let children =
        [0x33u64, 0x55].map(|byte| process::spawn(move || i32::from(hold(byte) == ROUNDS)).expect("a child"));
    let good = children.map(|child| format!("{:?}", process::wait(child).expect("the child").1));
    notes.note("kept-by-processes", good.join("-"));
}
