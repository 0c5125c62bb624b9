//! The Lazuli kernel.
#![no_std]
