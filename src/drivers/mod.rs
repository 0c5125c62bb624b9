//! Devices: interrupt controller, serial port, power.

pub mod gic;
pub mod interrupt;
pub mod power;
pub mod uart;
