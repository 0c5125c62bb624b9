//! `Mm`: one user address space, and the two counts that keep it alive.
//!
//! `mm_users` counts who may touch the mappings; at 0 they are torn down, and it never rises
//! again. `mm_count` counts who needs the struct and the root table; all users together hold one.
//! At 0 the root table, the ASID context and the struct go, by way of the scheme.

use alloc::boxed::Box;
use core::fmt;
use core::ptr;

use crate::addr::Frame;
use crate::asid::Context;
use crate::cpumask::CpuMask;
use crate::handle::MmUser;
use crate::machine::{Machine, Mark, Point, note, point};
use crate::space::Space;
use crate::stats::Counter;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Lock, LockGuard, Ordering, fence};

/// A word on a cache line of its own, so that counting does not slow who reads the neighbours.
#[repr(align(64))]
struct OwnLine<T>(T);

/// Far above any honest count, far below the wrap.
const COUNT_LIMIT: u32 = 1 << 30;

/// One user address space.
pub struct Mm<M: Machine> {
    count: OwnLine<AtomicU32>,
    users: OwnLine<AtomicU32>,
    context: Context,
    root: Frame,
    holders: CpuMask,
    /// Next on the reaper's list, once dead.
    pub(crate) next_dead: AtomicPtr<Mm<M>>,
    /// Shares in the free, once dead, under `handoff`: one for each tagged slot, one for the dropper.
    pub(crate) shares: AtomicU32,
    /// When the last reference went, in nanoseconds.
    pub(crate) died_at: AtomicU64,
    /// The epoch that every CPU must have seen, once dead, under `qsbr`.
    pub(crate) epoch: AtomicU64,
    space: Lock<Space<M>, M>,
}

impl<M: Machine> Mm<M> {
    /// A new, empty address space with its first user, or `None` if no frame is left for its root.
    ///
    /// First frees dead ones that wait for the reaper, where that may wait for other CPUs.
    pub fn create() -> Option<MmUser<M>> {
        M::system().help_reaper();
        let root = M::system().frames.alloc_root()?;
        M::mark(Mark::RootMade, root);
        let pinned = M::pin();
        note(M::cpu_state(), Counter::MmsMade, || root.address().0);
        drop(pinned);
        Some(MmUser::first(Box::new(Self::with_root(root))))
    }

    /// `init_mm`: an empty root under ASID 0 that lives for ever.
    pub(crate) fn init(root: Frame) -> &'static Self {
        Box::leak(Box::new(Self::with_root(root)))
    }

    fn with_root(root: Frame) -> Self {
        Self {
            count: OwnLine(AtomicU32::new(1)),
            users: OwnLine(AtomicU32::new(1)),
            context: Context::new(),
            root,
            holders: CpuMask::new(),
            next_dead: AtomicPtr::new(ptr::null_mut()),
            shares: AtomicU32::new(0),
            died_at: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            space: Lock::new(Space::new(root)),
        }
    }

    /// The root table.
    pub fn root(&self) -> Frame {
        self.root
    }

    /// The ASID context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// `mm_cpumask`: the CPUs that may have it loaded or its entries cached.
    pub fn holders(&self) -> &CpuMask {
        &self.holders
    }

    /// The mappings, locked. The caller is, or borrows from, a user.
    pub fn space(&self) -> LockGuard<'_, Space<M>, M> {
        self.space.lock()
    }

    /// Whether this is `init_mm`.
    #[inline]
    pub fn is_init(&self) -> bool {
        ptr::eq(self, M::system().init_mm())
    }

    /// `mm_users` now; for tests and people, never to decide.
    pub fn users(&self) -> u32 {
        self.users.0.load(Ordering::Relaxed)
    }

    /// `mm_count` now; for tests and people, never to decide.
    pub fn count(&self) -> u32 {
        self.count.0.load(Ordering::Relaxed)
    }

    /// Whether the last user is gone: the mappings go, and nobody runs in it again. A `false` may be
    /// outdated.
    pub(crate) fn is_dying(&self) -> bool {
        self.users() == 0
    }

    /// Whether the last reference is gone. A `true` is final.
    pub(crate) fn is_dead(&self) -> bool {
        self.count() == 0
    }

    /// Takes an `mm_count`. The caller has one already, or is a user.
    pub(crate) fn grab(&self) {
        // Relaxed: the reference the caller has keeps the count from reaching 0 meanwhile.
        let before = self.count.0.fetch_add(1, Ordering::Relaxed);
        check_count("mm_count taken", before);
    }

    /// Gives an `mm_count` back; says whether it was the last.
    #[must_use]
    pub(crate) fn drop_count(&self) -> bool {
        // Release: pairs with the Acquire below in whoever drops the last: all that holders did
        // with the `Mm`, setting their mask bits included, comes before the free (mm/litmus/count.litmus).
        let before = self.count.0.fetch_sub(1, Ordering::Release);
        check_count("mm_count given back", before);
        if before != 1 {
            return false;
        }
        fence(Ordering::Acquire);
        true
    }

    /// Gives an `mm_count` back that is not the last: the `Mm` has a user.
    #[inline]
    pub(crate) fn drop_count_of_several(&self) {
        // Release: as in `drop_count`.
        let before = self.count.0.fetch_sub(1, Ordering::Release);
        check_count("mm_count of a user given back", before.wrapping_sub(1));
    }

    /// Takes an `mm_users`. The caller has one already.
    pub(crate) fn grab_user(&self) {
        // Relaxed: as in `grab`.
        let before = self.users.0.fetch_add(1, Ordering::Relaxed);
        check_count("mm_users taken", before);
    }

    /// Takes an `mm_users` unless there is none any more (rule 5: at zero it never rises).
    #[must_use]
    pub(crate) fn try_grab_user(&self) -> bool {
        // Relaxed: success means that the mappings live; the mm lock orders what is in them.
        self.users.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |users| (users != 0).then(|| users + 1)).is_ok()
    }

    /// Gives an `mm_users` back. The last one tears the mappings down and says so: the users'
    /// common `mm_count` is then the caller's.
    #[must_use]
    pub(crate) fn drop_user(&self) -> bool {
        // Release and Acquire: as in `drop_count`, for the mappings.
        let before = self.users.0.fetch_sub(1, Ordering::Release);
        check_count("mm_users given back", before);
        if before != 1 {
            return false;
        }
        fence(Ordering::Acquire);
        point::<M>(Point::UsersZero);
        Space::tear_down(self);
        point::<M>(Point::TornDown);
        true
    }
}

/// Refuses to go on with a count that never was.
#[inline]
fn check_count(change: &'static str, before: u32) {
    /// Kept apart: the message would have every switch that counts make room for it.
    #[cold]
    fn refuse(change: &'static str, before: u32) -> ! {
        panic!("{change} at {before}")
    }
    if !(1..COUNT_LIMIT).contains(&before) {
        refuse(change, before);
    }
}

impl<M: Machine> fmt::Debug for Mm<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mm({:?}, users {}, count {})", self.root, self.users(), self.count())
    }
}
