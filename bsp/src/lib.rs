//! Boards as data.
#![no_std]
