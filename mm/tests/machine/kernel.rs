//! A tiny kernel on the lying machine: tasks, run queues, switches, exec, exit, borrowing.
//!
//! It keeps the contract that the mm layer states, and nothing more. Its tests break that contract
//! only where they say so.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use crate::{Machine, Mm, MmRef, MmUser, Page, PageRange, Scheme, System};

use super::baton::{Status, ThreadId};
use super::hotplug::{self, Power};
use super::{Event, Lying, State, World, this_thread, world};

/// A user of an address space.
pub type User = MmUser<Lying>;
/// A reference to one.
pub type Reference = MmRef<Lying>;

/// Each task's own address space, by thread.
#[derive(Default)]
pub struct Owners(Mutex<Vec<Option<Arc<User>>>>);

impl Owners {
    fn get(&self, thread: ThreadId) -> Option<Arc<User>> {
        self.0.lock().expect("no thread unwinds").get(thread).cloned().flatten()
    }

    fn set(&self, thread: ThreadId, owner: Option<Arc<User>>) {
        let mut owners = self.0.lock().expect("no thread unwinds");
        if owners.len() <= thread {
            owners.resize(thread + 1, None);
        }
        owners[thread] = owner;
    }
}

fn me() -> ThreadId {
    this_thread().expect("the director is no task")
}

fn mm_of(owner: Option<&Arc<User>>) -> Option<&Mm<Lying>> {
    owner.map(|user| user.deref().deref())
}

/// The idle thread of a CPU.
pub fn idle() {
    let mut since = None;
    loop {
        let state = world().lock();
        if state.over {
            return;
        }
        let cpu = state.threads[me()].cpu;
        let work = state.first_ready(cpu).is_some();
        let leaves = state.cores[cpu].power == Power::Leaving;
        drop(state);
        if work {
            since = None;
            schedule();
        } else if leaves {
            since = None;
            hotplug::leave(world());
        } else {
            if world().setup.config.scheme == Scheme::Qsbr {
                let alarm = masked(|| Lying::system().before_sleep(&mut since));
                let mut state = world().lock();
                let cpu = state.threads[me()].cpu;
                state.cores[cpu].alarm = alarm;
            }
            sleep();
        }
    }
}

/// Waits for an interrupt.
fn sleep() {
    let asleep = |asleep: bool| {
        let mut state = world().lock();
        let cpu = state.threads[me()].cpu;
        state.cores[cpu].asleep = asleep;
    };
    asleep(true);
    world().step(Event::Idle, |_, _| ());
    asleep(false);
}

/// A new task in the queue of a CPU.
pub fn spawn(world: &'static World, name: &'static str, cpu: usize, body: impl FnOnce() + Send + 'static) -> ThreadId {
    let thread = world.start_thread(name, cpu, || {
        // It starts in the middle of a switch, as every task resumes.
        let pinned = start_pinned();
        finish_switch();
        drop(pinned);
        body();
        exit();
    });
    enqueue(&mut world.lock(), thread, cpu);
    thread
}

/// Puts a thread into a CPU's queue. Who takes it from there has observed what we stored: the
/// queue's lock is a release and an acquire. The director has observed everything.
pub(super) fn enqueue(state: &mut State, thread: ThreadId, cpu: usize) {
    let cpu = state.open_cpu(cpu);
    let seen = match this_thread() {
        Some(me) => state.threads[me].cpu..state.threads[me].cpu + 1,
        None => 0..state.cpus.len(),
    };
    for from in seen {
        state.memory.collect_stores(from);
        state.memory.hand_over(from, cpu);
    }
    state.cores[cpu].queue.push_back(thread);
}

/// Preemption is off from the first moment, before any step.
fn start_pinned() -> impl Drop {
    struct Pin;
    impl Drop for Pin {
        fn drop(&mut self) {
            world().lock().threads[me()].pins -= 1;
        }
    }
    world().lock().threads[me()].pins += 1;
    Pin
}

/// The second half of a switch, on the new task's stack.
fn finish_switch() {
    let unfinished = {
        let mut state = world().lock();
        let cpu = state.threads[me()].cpu;
        state.cores[cpu].masked = false;
        std::mem::take(&mut state.cores[cpu].unfinished)
    };
    world().step(Event::Unmask, |_, _| ());
    if unfinished {
        System::<Lying>::finish_switch();
    }
}

/// Runs the next task of this CPU, idle if there is none. Comes back when this one runs again.
pub fn schedule() {
    let world = world();
    let me = me();
    let pinned = Lying::pin();
    let masked = Lying::mask_irqs();
    let Some((cpu, next)) = choose(world, me) else { return };
    let (own, other) = (world.owners.get(me), world.owners.get(next));
    let unfinished = System::<Lying>::switch_to(mm_of(own.as_ref()), mm_of(other.as_ref()));
    drop((own, other));
    world.step(Event::Switch(next), |state, _| {
        state.cores[cpu].unfinished = unfinished;
        state.memory.hand_over(state.threads[next].cpu, cpu);
        state.cores[cpu].current = next;
        state.threads[next].cpu = cpu;
        state.threads[me].departing = false;
    });
    let finished = world.lock().threads[me].status == Status::Finished;
    world.give_up_baton();
    if finished {
        // The stack is left for good; what it holds is the CPU's, not the task's.
        std::mem::forget((pinned, masked));
        return;
    }
    world.wait_for_baton(me);
    std::mem::forget(masked);
    finish_switch();
    drop(pinned);
}

/// Takes the next task out of the CPU's queue and puts this one where it belongs. `None` if this
/// one goes on.
fn choose(world: &World, me: ThreadId) -> Option<(usize, ThreadId)> {
    let mut state = world.lock();
    let cpu = state.threads[me].cpu;
    let idle = state.cores[cpu].idle;
    let stays = state.threads[me].status == Status::Runnable && !state.threads[me].departing;
    let next = match state.first_ready(cpu) {
        Some(index) => state.cores[cpu].queue.remove(index).expect("just found"),
        None if stays => return None,
        None => idle,
    };
    state.threads[me].departing = true;
    if stays && me != idle {
        enqueue(&mut state, me, cpu);
    }
    Some((cpu, next))
}

/// The timer, perhaps: preempts a task that may be preempted, and moves it as a balancer would.
pub fn tick() {
    let Some(me) = this_thread() else { return };
    let world = world();
    wake_reaper_in_time(world);
    let mut state = world.lock();
    let cpu = state.threads[me].cpu;
    let thread = &state.threads[me];
    // One that is on its way out already is preempted soon enough.
    let may = thread.pins == 0 && !thread.departing && !state.cores[cpu].masked && me != state.cores[cpu].idle;
    let leaves = state.cores[cpu].power == Power::Leaving;
    if !may || !(leaves || state.rng.one_in(world.setup.lies.preempt)) {
        return;
    }
    let to = if leaves {
        0
    } else if state.rng.one_in(world.setup.lies.balance) {
        state.rng.below(world.setup.cpus)
    } else {
        cpu
    };
    drop(state);
    if to == cpu { schedule() } else { migrate(to) }
}

/// Something waits for the reaper until a time that has come.
fn wake_reaper_in_time(world: &World) {
    let mut state = world.lock();
    let now = state.now_ns();
    if state.reaper_due.take_if(|due| *due <= now).is_some() {
        drop(state);
        wake_reaper();
    }
}

/// The timer interrupts user code, where mm's switch is not under way.
pub(super) fn user_tick() {
    masked(|| Lying::system().tick_from_user());
}

/// Sleeps until [`wake`].
pub fn block() {
    let mut state = world().lock();
    let thread = &mut state.threads[me()];
    if std::mem::take(&mut thread.woken) {
        return;
    }
    thread.status = Status::Blocked;
    thread.departing = true;
    drop(state);
    schedule();
}

/// Wakes a task, to run on this CPU.
pub fn wake(world: &World, thread: ThreadId, cpu: usize) {
    let mut state = world.lock();
    match state.threads[thread].status {
        Status::Blocked => {
            state.threads[thread].status = Status::Runnable;
            enqueue(&mut state, thread, cpu);
        }
        Status::Runnable => state.threads[thread].woken = true,
        Status::Finished => {}
    }
}

/// Lets the others of this CPU run.
pub fn yield_now() {
    schedule();
}

/// Goes on on another CPU.
pub fn migrate(cpu: usize) {
    let mut state = world().lock();
    let me = me();
    if state.threads[me].cpu == cpu {
        return;
    }
    state.threads[me].departing = true;
    enqueue(&mut state, me, cpu);
    drop(state);
    schedule();
}

fn exit() {
    exit_mm();
    // Never preempted again: a finished task does not come back from `schedule`.
    let pinned = Lying::pin();
    world().lock().threads[me()].status = Status::Finished;
    schedule();
    std::mem::forget(pinned);
}

/// A new, empty address space.
pub fn create() -> User {
    let user = Mm::<Lying>::create().expect("the machine has frames enough");
    let mut state = world().lock();
    let state = &mut *state;
    state.oracle.watch(&state.memory, &user);
    user
}

/// This task runs in `new` from now on, and gives up what it ran in before (exec; for a kernel
/// thread, borrowing).
pub fn exec(new: User) {
    give_up(replace(Some(new)));
}

/// This task has no address space of its own any more, and gives it up.
pub fn exit_mm() {
    give_up(replace(None));
}

/// As [`exit_mm`], but keeps the user (a kernel thread gives back what it borrowed).
pub fn leave() -> User {
    replace(None).expect("the task has an address space")
}

/// Changes the task's own address space. Preemption is off, so that the scheduler never sees task
/// and slot disagree.
fn replace(new: Option<User>) -> Option<User> {
    let (world, me) = (world(), me());
    let old = world.owners.get(me);
    let new = new.map(Arc::new);
    let pinned = Lying::pin();
    Lying::system().transition(mm_of(old.as_ref()), mm_of(new.as_ref()));
    world.owners.set(me, new);
    drop(pinned);
    old.map(|old| Arc::into_inner(old).expect("only the task itself holds it"))
}

fn give_up(user: Option<User>) {
    if let Some(user) = user {
        put(user);
    }
}

/// Gives a user back. If it is the last, the mappings go.
pub fn put(user: User) {
    let all = Page::from_number(0)..Page::END;
    let number = begin_change(&user, all.clone());
    drop(user);
    world().lock().oracle.changed(number, &all);
}

/// The oracle allows both old and new entries of these pages until the change ends.
pub(super) fn begin_change(mm: &Mm<Lying>, pages: PageRange) -> usize {
    let mut state = world().lock();
    let number = state.oracle.number_of(mm.root()).expect("a living Mm is watched");
    state.oracle.change(number, pages);
    number
}

/// The task's own address space, once more.
pub fn own() -> Option<User> {
    world().owners.get(me()).map(|user| User::clone(&user))
}

/// The task's own address space, borrowed: it does not change while the task itself looks.
pub(super) fn own_borrowed() -> Option<Arc<User>> {
    world().owners.get(me())
}

/// Does something with interrupts masked.
pub fn masked<T>(what: impl FnOnce() -> T) -> T {
    let masked = Lying::mask_irqs();
    let result = what();
    drop(masked);
    result
}

/// The task stops here until the director lets it go on.
pub fn stand_still() {
    world().hold();
}

/// Something was left for the reaper.
pub fn wake_reaper() {
    let reaper = world().lock().reaper;
    if let Some(reaper) = reaper {
        wake(world(), reaper, 0);
    }
}

/// The reaper's thread: frees what could not be freed where it died.
pub fn reap_until_the_end() {
    while !world().lock().ending {
        block();
        Lying::system().reap();
    }
    Lying::system().free_all_dead();
}
