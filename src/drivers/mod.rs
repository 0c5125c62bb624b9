//! Devices: interrupt controller, serial port, power.

mod bcm_pm;
pub mod gic;
pub mod interrupt;
pub mod power;
pub mod uart;
