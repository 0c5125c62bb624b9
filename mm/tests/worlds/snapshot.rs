//! States of the machine as they were, piece by piece: what did not change from one state to the next is kept once, and
//! neither hashed nor put back again.

use std::hash::Hasher;
use std::ops::Range;
use std::rc::Rc;

use mm::lying::told::Digest;

use crate::arena;

/// Bytes of a piece: small, because a step changes a few words here and there.
const PIECE: usize = 1024;

/// A piece of memory as it was.
struct Piece {
    place: Range<usize>,
    bytes: Vec<u8>,
    digest: u128,
}

/// Everything as it was.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    marks: arena::Marks,
    /// By place.
    pieces: Vec<Rc<Piece>>,
}

impl Snapshot {
    /// The memory as it is: the region's bytes in use, and those of the stacks. `before` is the state that was looked at
    /// last; `ignored` are places by which states do not differ, in order.
    pub(crate) fn take(stacks: Vec<Range<usize>>, before: &Self, ignored: &[Range<usize>]) -> Self {
        let mut places: Vec<_> = arena::used().chain(stacks).collect();
        places.sort_by_key(|place| place.start);
        let mut known = before.pieces.iter().peekable();
        let mut pieces = Vec::with_capacity(before.pieces.len());
        for place in places {
            let mut start = place.start;
            while start < place.end {
                let end = (start + 1).next_multiple_of(PIECE).min(place.end);
                while known.next_if(|piece| piece.place.start < start).is_some() {}
                // SAFETY: it lies in the region, and all fibers are suspended.
                let bytes = unsafe { arena::bytes(&(start..end)) };
                let same = known.peek().filter(|piece| piece.place == (start..end) && piece.bytes == bytes);
                pieces.push(same.map_or_else(|| Piece::new(start..end, bytes, ignored), |&piece| piece.clone()));
                start = end;
            }
        }
        Self { marks: arena::Marks::take(), pieces }
    }

    /// Adds what tells this state from others. The machine's own part is not in it: the machine tells of that itself.
    pub(crate) fn add_to(&self, digest: &mut Digest) {
        for piece in self.pieces.iter().filter(|piece| !arena::is_machines(piece.place.start)) {
            digest.add(piece.digest as u64);
            digest.add((piece.digest >> 64) as u64);
        }
    }

    /// Puts everything back. The memory is as `present` says, where that says anything.
    pub(crate) fn put_back(&self, present: &Self) {
        self.marks.put_back();
        let mut there = present.pieces.iter().peekable();
        for piece in &self.pieces {
            while there.next_if(|there| there.place.start < piece.place.start).is_some() {}
            if !there.peek().is_some_and(|there| Rc::ptr_eq(there, piece)) {
                // SAFETY: the bytes came from there, and nobody looks at them while they change: all fibers are suspended,
                // and the explorer keeps no reference to what lies in the region.
                unsafe { arena::write(piece.place.start, &piece.bytes) };
            }
        }
    }
}

impl Piece {
    fn new(place: Range<usize>, bytes: &[u8], ignored: &[Range<usize>]) -> Rc<Self> {
        let mut digest = Digest::default();
        let mut start = place.start;
        for hole in ignored.iter().filter(|hole| hole.start < place.end && place.start < hole.end) {
            digest.write(&bytes[start - place.start..hole.start.max(start) - place.start]);
            start = hole.end.min(place.end);
        }
        digest.write(&bytes[start - place.start..]);
        // The length tells a piece from a longer one that goes on with zeros.
        digest.add(place.end as u64 - place.start as u64);
        Rc::new(Self { place, bytes: bytes.to_vec(), digest: digest.value() })
    }
}
