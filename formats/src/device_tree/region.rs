//! Ranges of physical memory. Nothing but arithmetic.

const PAGE: u64 = 4096;

/// A range of physical memory or device registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// The first byte.
    pub base: u64,
    /// How many bytes.
    pub len: u64,
}

impl Region {
    /// A region, if it ends within the 48 bits that the kernel can map.
    pub fn new(base: u64, len: u64) -> Option<Self> {
        (base.checked_add(len)? <= 1 << 48).then_some(Self { base, len })
    }

    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.base + self.len
    }

    /// What lies below `hole` and what lies above it. Either may be empty.
    pub fn without(self, hole: Self) -> [Self; 2] {
        let below_end = self.end().min(hole.base.max(self.base));
        let above_base = self.base.max(hole.end().min(self.end()));
        [Self { base: self.base, len: below_end - self.base }, Self { base: above_base, len: self.end() - above_base }]
    }

    /// The whole pages inside.
    pub fn inward(self) -> Self {
        let base = self.base.next_multiple_of(PAGE);
        let end = self.end() / PAGE * PAGE;
        Self { base, len: end.saturating_sub(base) }
    }

    /// The whole pages that it touches.
    pub fn outward(self) -> Self {
        let base = self.base / PAGE * PAGE;
        Self { base, len: self.end().next_multiple_of(PAGE) - base }
    }
}
