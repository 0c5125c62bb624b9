//! Handles: the only way to hold an `Mm`. With `slot`, one of the two files of the mm layer with raw
//! pointers.
//!
//! [`MmUser`] is one `mm_users`, [`MmRef`] one `mm_count`. Neither can be copied; dropping one
//! gives it back. A last [`MmRef`] dropped where waiting is not allowed goes to the reaper.

#![expect(unsafe_code, reason = "counted references are raw memory whose life no borrow describes")]

use alloc::boxed::Box;
use core::fmt;
use core::mem;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use crate::lazy;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::sync::{AtomicPtr, Ordering, fence};

/// One `mm_count`: keeps the struct and the root table, not the mappings.
pub struct MmRef<M: Machine>(NonNull<Mm<M>>);

// SAFETY: an `Mm` is made of atomics and a lock, and its count is atomic: any CPU may use it and
// give the reference back.
unsafe impl<M: Machine> Send for MmRef<M> {}
// SAFETY: as for Send.
unsafe impl<M: Machine> Sync for MmRef<M> {}

impl<M: Machine> MmRef<M> {
    /// Becomes a user, unless the users are gone for good.
    pub fn try_user(&self) -> Option<MmUser<M>> {
        // The users' common `mm_count` is not ours to borrow: the new user would give it back.
        // It shares theirs, as every user does, because the users never reached zero meanwhile.
        self.try_grab_user().then(|| MmUser(self.0))
    }

    /// Gives the reference back, where a user is known to have another.
    #[inline]
    pub(crate) fn put_beside_user(self) {
        self.drop_count_of_several();
        mem::forget(self);
    }

    /// The reference that [`MmRef::into_raw`] dissolved.
    ///
    /// # Safety
    /// The pointer came from `into_raw`, and this is its only return.
    unsafe fn from_raw(mm: *mut Mm<M>) -> Option<Self> {
        NonNull::new(mm).map(Self)
    }

    fn into_raw(self) -> *mut Mm<M> {
        let raw = self.0.as_ptr();
        mem::forget(self);
        raw
    }
}

impl<M: Machine> Deref for MmRef<M> {
    type Target = Mm<M>;

    fn deref(&self) -> &Mm<M> {
        // SAFETY: this reference is one of `mm_count`, and the struct lives while that is not 0.
        unsafe { self.0.as_ref() }
    }
}

impl<M: Machine> Clone for MmRef<M> {
    fn clone(&self) -> Self {
        self.grab();
        Self(self.0)
    }
}

impl<M: Machine> Drop for MmRef<M> {
    #[inline]
    fn drop(&mut self) {
        if self.drop_count() {
            lazy::final_drop(DeadMm(self.0));
        }
    }
}

impl<M: Machine> fmt::Debug for MmRef<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// One `mm_users`: a thread that runs in the address space, or a holder that may touch it.
pub struct MmUser<M: Machine>(NonNull<Mm<M>>);

// SAFETY: as for `MmRef`.
unsafe impl<M: Machine> Send for MmUser<M> {}
// SAFETY: as for `MmRef`.
unsafe impl<M: Machine> Sync for MmUser<M> {}

impl<M: Machine> MmUser<M> {
    /// The first user of a new `Mm`, whose counts are both 1.
    pub(crate) fn first(mm: Box<Mm<M>>) -> Self {
        Self(NonNull::from(Box::leak(mm)))
    }

    /// An `mm_count` of one's own, which may outlive the users.
    pub fn grab_ref(&self) -> MmRef<M> {
        self.grab();
        MmRef(self.0)
    }

    /// Gives this user back: what dropping does, by name.
    pub fn put(self) {}
}

impl<M: Machine> Deref for MmUser<M> {
    type Target = Mm<M>;

    fn deref(&self) -> &Mm<M> {
        // SAFETY: the users hold one `mm_count` between them while there is a user, as this one is.
        unsafe { self.0.as_ref() }
    }
}

impl<M: Machine> Clone for MmUser<M> {
    fn clone(&self) -> Self {
        self.grab_user();
        Self(self.0)
    }
}

impl<M: Machine> Drop for MmUser<M> {
    fn drop(&mut self) {
        if self.drop_user() {
            // The users' common reference, now ours to give back.
            drop(MmRef(self.0));
        }
    }
}

impl<M: Machine> fmt::Debug for MmUser<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// An `Mm` without references. What it needs now is a safe moment, and then [`DeadMm::free`].
#[must_use = "a dead Mm is freed, or leaked on purpose"]
pub(crate) struct DeadMm<M: Machine>(NonNull<Mm<M>>);

impl<M: Machine> DeadMm<M> {
    /// Frees the struct. The root table is gone already, and no slot names the `Mm`.
    pub(crate) fn free(self) {
        // SAFETY: it was allocated by `Box` in `MmUser::first`; `mm_count` reached 0 once, which
        // made this value, the only one of it, and it is consumed here.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }

    /// Keeps it for ever: a check failed, and a CPU may still walk its tables.
    pub(crate) fn leak(self) {}

    /// Starts counting shares: one is the caller's own, until [`DeadMm::close_shares`].
    pub(crate) fn open_shares(&self) {
        // Relaxed: nobody else knows of shares before a slot is tagged, which is a Release.
        self.shares.store(1, Ordering::Relaxed);
    }

    /// Adds a share for a slot that is about to be tagged.
    pub(crate) fn add_share(&self) {
        // Relaxed: ordered before the tag by its Release.
        self.shares.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the share of a tag that was not set back. Never the last: the caller's own is out.
    pub(crate) fn take_back_share(&self) {
        // Relaxed: the caller's own share is given back later, with Release.
        self.shares.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the caller's own share back. If it was the last, nobody has the `Mm` loaded.
    pub(crate) fn close_shares(self) -> Option<Self> {
        // SAFETY: the share is the caller's, from `open_shares`; `self` is consumed.
        unsafe { Self::give_share_back(self.0.as_ptr()) }
    }

    /// Gives one share back; the last one gives the `Mm` itself.
    ///
    /// # Safety
    /// The share is the caller's, and it uses the pointer no more.
    pub(crate) unsafe fn give_share_back(mm: *mut Mm<M>) -> Option<Self> {
        // SAFETY: the `Mm` lives while a share is out, and the caller's is.
        let shares = unsafe { &(*mm).shares };
        // Release: pairs with the fence below, in whoever gives back the last: all other CPUs have
        // left the root before.
        if shares.fetch_sub(1, Ordering::Release) != 1 {
            return None;
        }
        fence(Ordering::Acquire);
        NonNull::new(mm).map(Self)
    }

    /// Puts it on the list that starts at `head`.
    pub(crate) fn push_to(self, head: &AtomicPtr<Mm<M>>) {
        let mut first = head.load(Ordering::Relaxed);
        loop {
            self.next_dead.store(first, Ordering::Relaxed);
            // Release: pairs with the Acquire in `take_all`; the link is visible with the head.
            match head.compare_exchange_weak(first, self.0.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Whether nothing is on the list, at a look that writes nothing.
    pub(crate) fn is_empty(head: &AtomicPtr<Mm<M>>) -> bool {
        // Relaxed: a hint. Who acts on it takes the list, with Acquire.
        head.load(Ordering::Relaxed).is_null()
    }

    /// Takes the whole list at once, so that no pop can meet a head that came back (ABA).
    pub(crate) fn take_all(head: &AtomicPtr<Mm<M>>) -> DeadList<M> {
        // Acquire: pairs with the Release in `push_to`.
        DeadList(head.swap(ptr::null_mut(), Ordering::Acquire))
    }
}

impl<M: Machine> Deref for DeadMm<M> {
    type Target = Mm<M>;

    fn deref(&self) -> &Mm<M> {
        // SAFETY: the struct is freed only by `free`, which consumes this value.
        unsafe { self.0.as_ref() }
    }
}

/// Dead `Mm`s taken off a list.
#[must_use = "dead Mms are freed, or put back"]
pub(crate) struct DeadList<M: Machine>(*mut Mm<M>);

impl<M: Machine> DeadList<M> {
    /// Shows each.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Mm<M>> {
        let mut next = self.0;
        core::iter::from_fn(move || {
            // SAFETY: what is on the list is dead and not freed, and nobody else has it; null ends it.
            let mm = unsafe { next.as_ref() }?;
            next = mm.next_dead.load(Ordering::Relaxed);
            Some(mm)
        })
    }
}

impl<M: Machine> Iterator for DeadList<M> {
    type Item = DeadMm<M>;

    fn next(&mut self) -> Option<DeadMm<M>> {
        let dead = DeadMm(NonNull::new(self.0)?);
        self.0 = dead.next_dead.load(Ordering::Relaxed);
        Some(dead)
    }
}

/// A place that holds one `mm_count`, or none: how a CPU keeps its lazy reference.
pub(crate) struct RefSlot<M: Machine>(AtomicPtr<Mm<M>>);

impl<M: Machine> RefSlot<M> {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Keeps a reference. The slot is empty.
    pub(crate) fn put(&self, reference: MmRef<M>) {
        // Relaxed: the slot is used by one CPU only.
        let before = self.0.swap(reference.into_raw(), Ordering::Relaxed);
        debug_assert!(before.is_null(), "a lazy reference was overwritten");
    }

    /// Takes the reference out, if there is one.
    #[inline]
    pub(crate) fn take(&self) -> Option<MmRef<M>> {
        if self.0.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // SAFETY: what is in the slot came from `into_raw` in `put`, and the swap takes it once.
        unsafe { MmRef::from_raw(self.0.swap(ptr::null_mut(), Ordering::Relaxed)) }
    }
}

/// A place that holds one dead `Mm`, or none: what a CPU was the last to leave.
pub(crate) struct DeadSlot<M: Machine>(AtomicPtr<Mm<M>>);

impl<M: Machine> DeadSlot<M> {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Keeps a dead `Mm`. The place is empty.
    pub(crate) fn put(&self, dead: DeadMm<M>) {
        // Relaxed: the place is used by one CPU only.
        let before = self.0.swap(dead.0.as_ptr(), Ordering::Relaxed);
        debug_assert!(before.is_null(), "a dead Mm was overwritten");
    }

    /// Takes it out, if there is one.
    #[inline]
    pub(crate) fn take(&self) -> Option<DeadMm<M>> {
        if self.0.load(Ordering::Relaxed).is_null() {
            return None;
        }
        NonNull::new(self.0.swap(ptr::null_mut(), Ordering::Relaxed)).map(DeadMm)
    }
}

impl<M: Machine> Mm<M> {
    /// An `mm_count` from a borrow: the borrow proves that there is one.
    pub(crate) fn to_ref(&self) -> MmRef<M> {
        self.grab();
        MmRef(NonNull::from(self))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use crate::Mm;
    use crate::fake::Fake;

    #[test]
    fn a_handle_is_printed_as_what_it_holds() {
        Fake::start(20);
        let user = Mm::<Fake>::create().unwrap();
        let reference = user.grab_ref();
        let printed = format!("Mm({:?}, users 1, count 2)", user.root());
        assert_eq!([format!("{user:?}"), format!("{reference:?}")], [printed.clone(), printed]);
    }
}
