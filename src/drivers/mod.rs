//! Devices: interrupt controller, serial ports, pins, power.

pub mod bcm_gpio;
mod bcm_mailbox;
mod bcm_pm;
pub mod gic;
pub mod interrupt;
pub mod power;
pub mod uart;
