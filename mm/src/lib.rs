//! The mm layer of Lazuli.
#![no_std]
