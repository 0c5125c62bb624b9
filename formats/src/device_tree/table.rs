//! A list of bounded length, for what must be known before there is a heap.

use core::ops::{Deref, DerefMut};

/// At most `N` values, kept in place.
#[derive(Clone, Copy, Debug)]
pub struct Table<T, const N: usize> {
    items: [T; N],
    len: usize,
}

/// The table has no room for another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Copy + Default, const N: usize> Table<T, N> {
    /// An empty table.
    pub fn new() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }

    /// Appends a value, or says that there is no room.
    pub fn push(&mut self, item: T) -> Result<(), Full> {
        *self.items.get_mut(self.len).ok_or(Full)? = item;
        self.len += 1;
        Ok(())
    }
}

impl<T: Copy + Default, const N: usize> Default for Table<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Deref for Table<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T, const N: usize> DerefMut for Table<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}
