//! Who is called for which interrupt.
//!
//! The controller knows no kernel service, and services know no controller registers: they meet in
//! this table. Each entry is written once, before its interrupt is enabled, and read without a lock.

use spin::once::Once;

use crate::sync::Relax;

/// Runs with interrupts masked, on the CPU that took the interrupt; gets the INTID.
pub type Handler = fn(u32);

/// INTIDs 0 to 1019: SGIs, PPIs and SPIs. Above are special numbers and what we never enable.
const COUNT: usize = 1020;

static HANDLERS: [Once<Handler, Relax>; COUNT] = [const { Once::new() }; COUNT];

/// Names the handler of an interrupt, once and for all CPUs.
///
/// # Panics
/// If the interrupt has another handler already.
pub fn register(intid: u32, handler: Handler) {
    let mut is_new = false;
    HANDLERS[intid as usize].call_once(|| {
        is_new = true;
        handler
    });
    assert!(is_new, "interrupt {intid} has a handler already");
}

/// Calls the handler of an interrupt that was acknowledged.
///
/// # Panics
/// If there is none: it was never enabled, so controller and kernel disagree.
pub(super) fn dispatch(intid: u32) {
    match HANDLERS.get(intid as usize).and_then(Once::get) {
        Some(handler) => handler(intid),
        None => panic!("interrupt {intid} was never enabled"),
    }
}
