//! The guest's memory, where QEMU has it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The guest's memory.
///
/// The interface reads memory only by virtual addresses, and only those that the CPU may read in its present exception
/// level: no table while a program runs. So QEMU is told to keep the memory in a file without a name
/// (`memory-backend-memfd`), by which its place in this process is known.
pub(crate) struct Ram {
    words: &'static [AtomicU64],
    /// The physical address of the first.
    base: u64,
}

impl Ram {
    /// Finds it. `base` is the physical address at which the board has its memory.
    ///
    /// # Errors
    /// If QEMU was not told to keep it so.
    pub(crate) fn find(base: u64) -> Result<Self, String> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
        let Range { start, end } = memory_file(&maps).ok_or(
            "the guest's memory is not to be found; give QEMU \
             -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram",
        )?;
        // SAFETY: QEMU has mapped the range for as long as the machine exists, which is as long as the process; it is
        // aligned to pages, and other threads and we ourselves touch it by whole words or bytes, in any order.
        let words = unsafe { std::slice::from_raw_parts(start as *const AtomicU64, (end - start) / 8) };
        Ok(Self { words, base })
    }

    /// The aligned eight bytes at a physical address, if that is memory.
    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        let index = usize::try_from(address.checked_sub(self.base)? / 8).ok()?;
        // Relaxed: what orders it against the guest's stores is that the guest's CPU waits for our callback.
        Some(u64::from_le(self.words.get(index)?.load(Ordering::Relaxed)))
    }
}

/// Where /proc/self/maps has the file that `memory-backend-memfd` makes.
fn memory_file(maps: &str) -> Option<Range<usize>> {
    let line = maps.lines().find(|line| line.contains("/memfd:memory-backend-memfd"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_by_the_name_of_its_file() {
        let maps = "7f00-7f10 rw-p 00000000 00:00 0 [heap]\n\
                    7fa000000000-7fa020000000 rw-s 00000000 00:01 17 /memfd:memory-backend-memfd (deleted)\n";
        assert_eq!(memory_file(maps), Some(0x7fa0_0000_0000..0x7fa0_2000_0000));
        assert_eq!(memory_file("7f00-7f10 rw-p 00000000 00:00 0 [heap]\n"), None);
    }
}
