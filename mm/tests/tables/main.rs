//! Page tables, regions and faults, on a machine of one honest CPU.

extern crate mm as under_test;

#[path = "../support/fake.rs"]
pub mod fake;
pub mod leaks;
pub mod order;
pub mod property;
pub mod ranges;
pub mod running;
pub mod walker;
