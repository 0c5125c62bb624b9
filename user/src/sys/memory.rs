//! Anonymous mappings that end when their owner does.

use std::{io, ops::Deref, ptr, sync::atomic::AtomicU32};

use super::check;

/// The only page size that Lazuli knows, and the one that the measurements count in.
pub const PAGE: usize = 4096;

/// One anonymous mapping, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

// SAFETY: a mapping is memory, and memory belongs to the whole process. All access goes through raw pointers or atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method writes through a shared reference except by volatile bytes that only the caller reads.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Readable and writable zeroes of this process alone.
    pub fn private(length: usize) -> io::Result<Self> {
        Self::new(length, libc::MAP_PRIVATE)
    }

    /// Readable and writable zeroes that children share after a fork.
    pub fn shared(length: usize) -> io::Result<Self> {
        Self::new(length, libc::MAP_SHARED)
    }

    fn new(length: usize, sharing: i32) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks unused addresses, so no object is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, sharing | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    /// The first byte.
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// The length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Asks for 4 KiB pages. A kernel that knows no huge pages may refuse: then there is nothing to turn off.
    pub fn without_huge_pages(&self) {
        // SAFETY: the range is this mapping, and the advice changes no contents.
        unsafe { libc::madvise(self.start.cast(), self.length, libc::MADV_NOHUGEPAGE) };
    }

    /// Changes what the whole mapping allows.
    pub fn protect(&self, protection: i32) -> io::Result<()> {
        // SAFETY: the range is this mapping, to which no Rust reference is handed out except by `SharedPage`.
        check(unsafe { libc::mprotect(self.start.cast(), self.length, protection) }.into()).map(drop)
    }

    /// Changes what the page of that number allows.
    pub fn protect_page(&self, page: usize, protection: i32) -> io::Result<()> {
        // SAFETY: as in `protect`; the page was checked to lie inside this mapping.
        check(unsafe { libc::mprotect(self.page(page).cast(), PAGE, protection) }.into()).map(drop)
    }

    /// Writes one byte into the page of that number. The mapping must be writable.
    pub fn touch(&self, page: usize) {
        // SAFETY: the address was checked to lie inside this mapping.
        unsafe { self.page(page).write_volatile(1) };
    }

    fn page(&self, page: usize) -> *mut u8 {
        assert!(page * PAGE < self.length, "page {page} lies outside the mapping");
        self.start.wrapping_add(page * PAGE)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and its owner is going.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// A page of words that threads and forked children see alike.
#[derive(Debug)]
pub struct SharedPage(Mapping);

impl SharedPage {
    /// A page of zeroes.
    pub fn new() -> io::Result<Self> {
        Mapping::shared(PAGE).map(Self)
    }
}

impl Deref for SharedPage {
    type Target = [AtomicU32; PAGE / 4];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping is a page of zeroes, aligned, writable and alive as long as self. Zero is a word.
        unsafe { &*self.0.start().cast() }
    }
}
