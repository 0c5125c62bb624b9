//! Files in use: a system call of one thread keeps open what another thread closes meanwhile.
//!
//! To take a reference for each use, under a lock or not, would write one line of memory from every CPU that runs a thread
//! of the process. So a thread writes into a place of its own which file it uses, and who closes the file pays: it looks
//! at the places of all threads, and hands a reference to each that uses it.
//!
//! | the thread that uses the file   | who closes it                        |
//! |---------------------------------|--------------------------------------|
//! | 1. announce it                  | 1. take it out of the table          |
//! | 2. full fence                   | 2. full fence                        |
//! | 3. look whether it is still in  | 3. look who has announced it         |
//! | 4. gone: start over             | 4. hand over a reference to each     |
//!
//! Whichever fence comes second, the step after it sees what the other side did before its own: either the thread finds
//! the file gone, or who closes it finds the announcement. The hand-over is a compare-and-swap of the announcement, so that
//! a thread which has just ended its use gets nothing, and one that gets a reference finds it when it ends its use.
//! (Compare M. Michael, "Hazard Pointers", IEEE TPDS 15(6), 2004.)

use alloc::sync::Arc;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering, fence};

use crate::fs::file::OpenFile;

/// In an announcement: its thread owns a reference to the file.
const HANDED_OVER: usize = 1;

const _: () = assert!(align_of::<OpenFile>() > HANDED_OVER, "an address has room for the bit");

/// Where a thread announces which file it uses: one at a time.
pub struct Using(AtomicPtr<OpenFile>);

/// The threads that may use a file that is about to be closed.
pub trait Users {
    /// Visits the place of each.
    fn each(&self, visit: impl FnMut(&Using));
}

impl Using {
    /// No file.
    pub const fn nothing() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The file that `place` holds, for as long as the guard lives. `None` if it holds none.
    ///
    /// # Safety
    ///
    /// Only the thread whose place this is calls it, and ends one use before it begins the next. What `place` holds is null or
    /// an [`Arc`] as a pointer, and who takes that out calls [`hand_over`] before the reference is dropped.
    #[inline]
    pub unsafe fn begin<'a>(&'a self, place: &'a AtomicPtr<OpenFile>) -> Option<InUse<'a>> {
        let mut file = place.load(Ordering::Relaxed);
        while !file.is_null() {
            // Release: who finds this announcement instead of the last one knows that the use of that is over, as if it had found
            // none. That the place is looked at later is the fence's work.
            self.0.store(file, Ordering::Release);
            // Pairs with the fence in `hand_over`.
            fence(Ordering::SeqCst);
            // Acquire: pairs with the Release of who opened it.
            let now = place.load(Ordering::Acquire);
            if now == file {
                // SAFETY: it was in its place after it had been announced, so who takes it out sees that, and the thread is
                // given a reference before the last other one goes.
                return Some(InUse::Announced { file: unsafe { &*file }, by: self });
            }
            self.end();
            file = now;
        }
        None
    }

    fn end(&self) {
        // Release: the use comes before the last reference goes, if who closes it finds no announcement. Acquire: as in `Arc`,
        // for what is dropped here. Both pair with `give`.
        let announced = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        if announced.addr() & HANDED_OVER != 0 {
            // SAFETY: `give` left us a reference to what the pointer without the bit points to.
            drop(unsafe { Arc::from_raw(announced.map_addr(|address| address & !HANDED_OVER)) });
        }
    }

    /// Gives the thread a reference, if this is what it uses.
    fn give(&self, file: &Arc<OpenFile>) {
        let announced = Arc::as_ptr(file).cast_mut();
        // Acquire: if it is announced no more, what the thread did with it is over.
        if self.0.load(Ordering::Acquire) != announced {
            return;
        }
        let owned = Arc::into_raw(file.clone()).cast_mut().map_addr(|address| address | HANDED_OVER);
        let given = self.0.compare_exchange(announced, owned, Ordering::AcqRel, Ordering::Acquire);
        if given.is_err() {
            // SAFETY: the reference that was meant for the thread, which has ended its use and has not seen it.
            drop(unsafe { Arc::from_raw(announced) });
        }
    }
}

/// Makes sure that all who use a file, which is in its place no more, go on having it when the caller drops it.
pub fn hand_over(file: &Arc<OpenFile>, users: &impl Users) {
    // Pairs with the fence in `begin`.
    fence(Ordering::SeqCst);
    users.each(|using| using.give(file));
}

/// An open file, for as long as one system call uses it.
pub enum InUse<'a> {
    /// The caller's process has no other thread that could close it meanwhile.
    Borrowed(&'a OpenFile),
    /// It may be closed at any time: who does sees the announcement.
    Announced {
        /// The file.
        file: &'a OpenFile,
        /// Where the thread that uses it says so.
        by: &'a Using,
    },
}

impl Deref for InUse<'_> {
    type Target = OpenFile;

    #[inline]
    fn deref(&self) -> &OpenFile {
        match self {
            InUse::Borrowed(file) | InUse::Announced { file, .. } => file,
        }
    }
}

impl Drop for InUse<'_> {
    #[inline]
    fn drop(&mut self) {
        if let InUse::Announced { by, .. } = self {
            by.end();
        }
    }
}
