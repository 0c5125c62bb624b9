//! Device trees made by hand (Devicetree Specification, chapter 5), to be right or wrong on purpose.

use alloc::vec::Vec;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
const HEADER_LEN: usize = 40;

/// A node under construction: properties first, then children. The first is the root.
pub struct Tree {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Tree {
    /// A tree whose root is empty.
    pub fn root() -> Self {
        let mut tree = Self { structure: Vec::new(), strings: Vec::new() };
        tree.begin("");
        tree
    }

    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.structure.extend(name.bytes().chain([0]));
        self.pad();
    }

    fn property(mut self, name: &str, value: &[u8]) -> Self {
        let name_offset = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        self.word(PROPERTY);
        self.word(value.len() as u32);
        self.word(name_offset);
        self.structure.extend(value);
        self.pad();
        self
    }

    /// A property without a value.
    pub fn flag(self, name: &str) -> Self {
        self.property(name, &[])
    }

    /// A property that holds a string.
    pub fn text(self, name: &str, value: &str) -> Self {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.property(name, &bytes)
    }

    /// A property that holds cells.
    pub fn numbers(self, name: &str, cells: &[u32]) -> Self {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &bytes)
    }

    /// How the children's `reg` is written.
    pub fn cells(self, address: u32, size: u32) -> Self {
        self.numbers("#address-cells", &[address]).numbers("#size-cells", &[size])
    }

    /// A child.
    pub fn node(mut self, name: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        self.begin(name);
        let mut filled = fill(self);
        filled.word(END_NODE);
        filled
    }

    /// The blob, with these memory reservations.
    pub fn finish(mut self, reservations: &[(u64, u64)]) -> Vec<u8> {
        self.word(END_NODE);
        self.word(END);
        let reservations: Vec<u8> = reservations
            .iter()
            .chain([&(0, 0)])
            .flat_map(|&(base, len)| [base.to_be_bytes(), len.to_be_bytes()])
            .flatten()
            .collect();
        let structure_at = HEADER_LEN + reservations.len();
        let strings_at = structure_at + self.structure.len();
        let total = strings_at + self.strings.len();
        let lengths = [self.strings.len(), self.structure.len()];
        let header = [0xd00d_feed, total, structure_at, strings_at, HEADER_LEN, 17, 16, 0, lengths[0], lengths[1]];
        let mut blob: Vec<u8> = header.iter().flat_map(|&word| (word as u32).to_be_bytes()).collect();
        blob.extend(reservations);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }
}

/// Changes the first letter of each occurrence of a word.
pub fn deface(blob: &mut [u8], word: &str) {
    let hits: Vec<usize> = (0..blob.len() - word.len()).filter(|&at| blob[at..].starts_with(word.as_bytes())).collect();
    hits.into_iter().for_each(|at| blob[at] = b'X');
}
