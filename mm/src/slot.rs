//! The `loaded` slot of a CPU: which `Mm` TTBR0 holds, for others to compare and to tag.
//!
//! The value is the address of an `Mm`; bit 0 is a tag. Under `handoff` whoever drops the last
//! reference sets it in every slot that names the `Mm`, and so hands each of those CPUs a share of
//! the free; the CPU finds the tag when it leaves. Every comparison masks it.

#![expect(unsafe_code, reason = "a slot names an `Mm` that no borrow keeps alive; the protocol does")]

use core::ptr;

use crate::handle::DeadMm;
use crate::machine::Machine;
use crate::mm::Mm;
use crate::sync::{AtomicPtr, Ordering};

const TAG: usize = 1;

/// One CPU's slot. Only the CPU itself changes the address in it, with interrupts masked.
pub(crate) struct Slot<M: Machine>(AtomicPtr<Mm<M>>);

impl<M: Machine> Slot<M> {
    /// A slot of a CPU that starts on `init_mm`.
    pub(crate) fn new(init_mm: &'static Mm<M>) -> Self {
        Self(AtomicPtr::new(ptr::from_ref(init_mm).cast_mut()))
    }

    /// Whether it names `mm`, tagged or not.
    #[inline]
    pub(crate) fn names(&self, mm: *const Mm<M>) -> bool {
        // Acquire: pairs with the Release in `publish` and `swap`; who sees another `Mm` here also
        // sees that the walks of the former are over (mm/litmus/leave.litmus).
        ptr::addr_eq(untagged(self.0.load(Ordering::Acquire)), mm)
    }

    /// Whether it is tagged.
    pub(crate) fn is_tagged(&self) -> bool {
        // Relaxed: a hint for who then asks the CPU itself.
        self.0.load(Ordering::Relaxed).addr() & TAG != 0
    }

    /// Shows the `Mm` that it names. Only for the slot's own CPU, with interrupts masked.
    #[inline]
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Mm<M>) -> T) -> T {
        debug_assert!(M::irqs_masked(), "only its own CPU may look behind a slot");
        // Relaxed: this CPU itself stored the address.
        let named = untagged(self.0.load(Ordering::Relaxed));
        // SAFETY: no scheme frees an `Mm` that a slot names, and the slot changes only if `look` itself
        // changes it; then `look` answers for the rest (`CpuState::publish_and_trim`).
        look(unsafe { &*named })
    }

    /// Names `next`: its root is loaded, and the walks of the former one are over.
    #[inline]
    pub(crate) fn publish(&self, next: &Mm<M>) {
        // Release: pairs with the Acquire in `names`.
        self.0.store(ptr::from_ref(next).cast_mut(), Ordering::Release);
    }

    /// As [`publish`](Self::publish), where the former may have been tagged. Gives it back if its
    /// last share was this CPU's.
    ///
    /// A plain store would lose a tag that is set between looking and storing, and with it the
    /// `Mm` for ever; hence the swap (mm/litmus/tag.litmus).
    #[inline]
    pub(crate) fn swap(&self, next: &Mm<M>) -> Option<DeadMm<M>> {
        // AcqRel: Release as in `publish`; Acquire pairs with the Release in `tag` (mm/litmus/share.litmus).
        let former = self.0.swap(ptr::from_ref(next).cast_mut(), Ordering::AcqRel);
        if former.addr() & TAG == 0 {
            return None;
        }
        // SAFETY: the tag was set by `tag` for a dead `Mm` and adds one share, which is this one:
        // nobody frees the `Mm` while a share is out, and the swap took the tag once.
        unsafe { DeadMm::give_share_back(untagged(former)) }
    }

    /// Tags the slot if it names `dead`. The caller has added the share before.
    pub(crate) fn tag(&self, dead: &Mm<M>) -> bool {
        let plain = ptr::from_ref(dead).cast_mut();
        let tagged = plain.map_addr(|address| address | TAG);
        // AcqRel: Release pairs with the Acquire in `swap`. The failure is Acquire too: it means
        // that the CPU has left, and the free that may follow must come after its walks.
        self.0.compare_exchange(plain, tagged, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn untagged<M: Machine>(value: *mut Mm<M>) -> *mut Mm<M> {
    value.map_addr(|address| address & !TAG)
}
