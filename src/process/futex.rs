//! Futexes: threads that wait for a word of user memory to change.
//!
//! A waiter compares the word and joins its bucket under the bucket's lock; a waker changes the
//! word before it takes that lock. So either the waiter sees the change or the waker the waiter.
//!
//! Most who wake find nobody, and those do without the lock: a waiter announces itself in the bucket before it compares the
//! word, and a waker looks for such after it has changed it, each with a full fence in between. Whichever fence comes second,
//! what follows it sees what the other side did first (mm/litmus/futex.litmus).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use mm::{PAGE_SIZE, USER_END};

use crate::arch::user_copy::read_user_u32;
use crate::errno::Errno;
use crate::heap;
use crate::process::memory::{self, SharedFrame};
use crate::process::thread;
use crate::sched::{self, Patience, Thread, WaitError};
use crate::sync::{SpinLock, SpinLockGuard};

/// Who may meet at a futex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Threads of one address space (`FUTEX_PRIVATE_FLAG`).
    Private,
    /// Whoever has the memory mapped.
    Shared,
}

/// What makes two futexes the same. Nothing else can get the same key while it is kept: who waits runs in the address
/// space, and the frame is held.
#[derive(Clone, PartialEq, Eq)]
enum Key {
    /// An address in an address space, which its root table's frame names.
    Private { root: usize, address: u64 },
    /// A place in a frame that several address spaces may have.
    Shared { frame: SharedFrame, offset: u64 },
}

impl Key {
    /// That of nobody who waits: no table has frame 0.
    const NONE: Key = Key::Private { root: 0, address: 0 };

    fn of(address: u64, scope: Scope) -> Result<Key, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if address >= USER_END {
            return Err(Errno::EFAULT);
        }
        match scope {
            Scope::Private => Ok(Key::in_this_mm(address)),
            Scope::Shared => Key::of_memory(address),
        }
    }

    #[inline]
    fn in_this_mm(address: u64) -> Key {
        Key::Private { root: memory::current().root().number(), address }
    }

    /// Not inlined: most futexes are private.
    #[inline(never)]
    fn of_memory(address: u64) -> Result<Key, Errno> {
        // Brings the page in, so that it has a frame.
        read_user_u32(address).map_err(|_| Errno::EFAULT)?;
        let frame = memory::shared_frame(address);
        Ok(frame.map_or(Key::in_this_mm(address), |frame| Key::Shared { frame, offset: address % PAGE_SIZE }))
    }

    fn bucket(&self) -> &'static Bucket {
        let mixed = match *self {
            Key::Private { root, address } => address >> 2 ^ (root as u64) << 7,
            Key::Shared { ref frame, offset } => offset >> 2 ^ (frame.number() as u64) << 10,
        };
        // Fibonacci hashing: the high bits of a product by the golden ratio are well mixed.
        &BUCKETS[(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKET_BITS)) as usize]
    }
}

const BUCKET_BITS: u32 = 8;
static BUCKETS: [Bucket; 1 << BUCKET_BITS] = [const { Bucket::new() }; 1 << BUCKET_BITS];

/// Who waits in a bucket, first come first. With a tag of its own, so that an empty one is made of zeroes, which take no room in
/// the image: an empty `Vec` is not.
#[repr(u8)]
enum Waiters {
    Nobody,
    List(Vec<Queued>),
}

impl Waiters {
    fn list(&mut self) -> &mut Vec<Queued> {
        if let Waiters::Nobody = self {
            *self = Waiters::List(Vec::new());
        }
        match self {
            Waiters::List(list) => list,
            Waiters::Nobody => unreachable!("it has just been made a list"),
        }
    }
}

/// A thread in a bucket.
struct Queued {
    waiter: Arc<Waiter>,
    thread: Arc<Thread>,
}

/// Who waits at the futexes that have the same hash. A line of memory each: neighbours have nothing to do with each other.
#[repr(align(64))]
struct Bucket {
    waiters: SpinLock<Waiters>,
    /// How many are in the list or about to join it. Relaxed: fences order it, see above.
    announced: AtomicUsize,
}

impl Bucket {
    const fn new() -> Self {
        Self { waiters: SpinLock::new(Waiters::Nobody), announced: AtomicUsize::new(0) }
    }

    fn lock(&self) -> BucketGuard<'_> {
        self.waiters.lock()
    }

    /// A thread is about to compare a word and perhaps join.
    fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `has_waiters`.
        fence(Ordering::SeqCst);
    }

    /// A thread that was announced is gone from here.
    fn retract(&self) {
        self.announced.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a thread may wait here for a word that the caller has changed.
    #[inline]
    fn has_waiters(&self) -> bool {
        // Pairs with the fence in `announce`.
        fence(Ordering::SeqCst);
        self.announced.load(Ordering::Relaxed) != 0
    }
}

/// A thread as one that waits. Each makes it when it first does, and keeps it: the heap is everybody's.
pub struct Waiter {
    /// What it waits for. Changes under the lock of the bucket that it leaves.
    wanted: SpinLock<Wanted>,
    /// Set (Release) by the waker that took it out of its bucket; pairs with the Acquire in `await_wake`.
    woken: AtomicBool,
}

struct Wanted {
    key: Key,
    bits: u32,
}

impl Default for Waiter {
    /// Of a thread that waits for nothing.
    fn default() -> Self {
        Self { wanted: SpinLock::new(Wanted { key: Key::NONE, bits: 0 }), woken: AtomicBool::new(false) }
    }
}

impl Waiter {
    fn is_at(&self, key: &Key) -> bool {
        self.wanted.lock().key == *key
    }
}

impl Queued {
    fn wants(&self, key: &Key, bits: u32) -> bool {
        let wanted = self.waiter.wanted.lock();
        wanted.bits & bits != 0 && wanted.key == *key
    }

    fn wake(&self) {
        self.waiter.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Waits until somebody wakes the futex with one of `bits`, if its word is `expected`.
#[inline(never)]
pub fn wait(address: u64, scope: Scope, expected: u32, bits: u32, patience: Patience) -> Result<(), Errno> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let waiter = thread::current().waiter()?;
    let key = Key::of(address, scope)?;
    let bucket = key.bucket();
    bucket.announce();
    join(bucket, waiter, Wanted { key, bits }, address, expected).inspect_err(|_| bucket.retract())?;
    let result = await_wake(waiter, patience);
    // A frame that the key held is held no longer.
    waiter.wanted.lock().key = Key::NONE;
    result
}

/// Makes the running thread one that waits in this bucket, if the word is `expected`.
fn join(bucket: &Bucket, waiter: &Arc<Waiter>, wanted: Wanted, address: u64, expected: u32) -> Result<(), Errno> {
    let mut locked = bucket.lock();
    if read_user_u32(address).map_err(|_| Errno::EFAULT)? != expected {
        return Err(Errno::EAGAIN);
    }
    let waiters = locked.list();
    heap::reserve(waiters, 1)?;
    *waiter.wanted.lock() = wanted;
    // Relaxed: nobody finds it before the bucket is unlocked.
    waiter.woken.store(false, Ordering::Relaxed);
    waiters.push(Queued { waiter: waiter.clone(), thread: sched::current_arc() });
    Ok(())
}

/// Waits until a waker takes the waiter out of its bucket, or takes it out itself.
fn await_wake(waiter: &Arc<Waiter>, patience: Patience) -> Result<(), Errno> {
    loop {
        if waiter.woken.load(Ordering::Acquire) {
            return Ok(());
        }
        // An `unpark` of somebody else may come in between, also a late one of the last wait: look again.
        if let Err(error) = sched::park(patience) {
            return if leave(waiter) { Err(ended(error, patience)) } else { Ok(()) };
        }
    }
}

fn ended(error: WaitError, patience: Patience) -> Errno {
    match (error, patience.deadline_ns) {
        (WaitError::TimedOut, _) => Errno::ETIMEDOUT,
        (WaitError::Interrupted, None) => Errno::RESTART,
        (WaitError::Interrupted, Some(_)) => Errno::RESTART_UNLESS_HANDLED,
    }
}

/// Takes a waiter out of its bucket; `false` if a waker was faster.
fn leave(waiter: &Arc<Waiter>) -> bool {
    loop {
        let key = waiter.wanted.lock().key.clone();
        let mut bucket = key.bucket().lock();
        // It may have been moved between the two locks.
        if waiter.is_at(&key) {
            let waiters = bucket.list();
            let index = waiters.iter().position(|other| Arc::ptr_eq(&other.waiter, waiter));
            let taken = index.map(|index| waiters.remove(index));
            if taken.is_some() {
                key.bucket().retract();
            }
            drop(bucket);
            return taken.is_some();
        }
    }
}

/// Wakes up to `count` waiters that wait for one of `bits`; says how many.
pub fn wake(address: u64, scope: Scope, count: usize, bits: u32) -> Result<usize, Errno> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(address, scope)?;
    let bucket = key.bucket();
    if !bucket.has_waiters() {
        return Ok(0);
    }
    Ok(wake_some(bucket, &key, count, bits))
}

// Functions of their own, as `wait` and `requeue` are: who finds nobody does not pay for the registers that they need.

#[inline(never)]
fn wake_some(bucket: &Bucket, key: &Key, count: usize, bits: u32) -> usize {
    wake_in(bucket.lock().list(), key, count, bits)
}

fn wake_in(waiters: &mut Vec<Queued>, key: &Key, count: usize, bits: u32) -> usize {
    let mut woken = 0;
    let mut index = 0;
    while woken < count && index < waiters.len() {
        if waiters[index].wants(key, bits) {
            let queued = waiters.remove(index);
            key.bucket().retract();
            queued.wake();
            woken += 1;
        } else {
            index += 1;
        }
    }
    woken
}

/// What `FUTEX_REQUEUE` is asked to do.
pub struct Requeue {
    /// The futex whose waiters are meant.
    pub from: u64,
    /// Where those go that are not woken.
    pub to: u64,
    /// How many are woken.
    pub wake: usize,
    /// How many are moved.
    pub moved: usize,
    /// What the first futex's word must be, if it matters.
    pub expected: Option<u32>,
}

/// Wakes some waiters and moves others to another futex; says how many in all.
///
/// The target is announced before the word is compared and before the first is woken, as a waiter announces itself before it
/// looks. Were it announced only when one moves there, whoever is woken first could take and leave the lock that the
/// target stands for, find nobody announced, and never wake those who are about to be moved.
#[inline(never)]
pub fn requeue(request: &Requeue, scope: Scope) -> Result<usize, Errno> {
    let (from, to) = (Key::of(request.from, scope)?, Key::of(request.to, scope)?);
    to.bucket().announce();
    let result = wake_and_move(request, &from, &to);
    to.bucket().retract();
    result
}

fn wake_and_move(request: &Requeue, from: &Key, to: &Key) -> Result<usize, Errno> {
    let (mut source, mut target) = lock_two(from, to);
    if let Some(expected) = request.expected
        && read_user_u32(request.from).map_err(|_| Errno::EFAULT)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let source = source.list();
    let mut target = target.as_mut().map(|target| target.list());
    if let Some(target) = &mut target {
        heap::reserve(target, request.moved.min(source.len()))?;
    }
    let woken = wake_in(source, from, request.wake, u32::MAX);
    let mut moved = 0;
    let mut index = 0;
    while moved < request.moved && index < source.len() {
        if !source[index].waiter.is_at(from) {
            index += 1;
            continue;
        }
        source[index].waiter.wanted.lock().key = to.clone();
        moved += 1;
        match &mut target {
            Some(target) => {
                // There before it is gone from here; both locks are held.
                to.bucket().announce();
                target.push(source.remove(index));
                from.bucket().retract();
            }
            // The same bucket: it stays where it is.
            None => index += 1,
        }
    }
    Ok(woken + moved)
}

type BucketGuard<'a> = SpinLockGuard<'a, Waiters>;

/// Locks the buckets of both, in the order of their addresses so that two callers cannot wait for
/// each other. The second is `None` if they are the same bucket.
fn lock_two(from: &Key, to: &Key) -> (BucketGuard<'static>, Option<BucketGuard<'static>>) {
    let (source, target) = (from.bucket(), to.bucket());
    match core::ptr::from_ref(source).cmp(&core::ptr::from_ref(target)) {
        core::cmp::Ordering::Equal => (source.lock(), None),
        core::cmp::Ordering::Less => {
            let first = source.lock();
            (first, Some(target.lock()))
        }
        core::cmp::Ordering::Greater => {
            let first = target.lock();
            (source.lock(), Some(first))
        }
    }
}
