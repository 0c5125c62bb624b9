//! Questions to the VideoCore, by the mailbox's property channel (github.com/raspberrypi/firmware/wiki).

use core::arch::asm as assembly;
use core::ptr::NonNull;

use aarch64_cpu::asm::barrier;
use safe_mmio::fields::{ReadPure, ReadWrite, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};

use crate::arch::mmu;
use crate::platform;
use crate::sync::SpinLock;

#[repr(C)]
struct Registers {
    read: ReadWrite<u32>,
    _reserved_0: [u32; 5],
    read_status: ReadPure<u32>,
    _reserved_1: u32,
    write: WriteOnly<u32>,
    _reserved_2: [u32; 5],
    write_status: ReadPure<u32>,
}

/// Status: the queue has no room to write, or nothing to read.
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;
/// The channel of property requests.
const PROPERTY: u32 = 8;
const GET_CLOCK_RATE: u32 = 0x0003_0002;
const SUCCESS: u32 = 0x8000_0000;
/// The VideoCore sees the first GiB of RAM here, past its own caches.
const UNCACHED_ALIAS: u64 = 0xc000_0000;
const FIRST_GIB: u64 = 1 << 30;
/// How often a status is read before the VideoCore is given up: some tenths of a second.
const PATIENCE: u32 = 1_000_000;

/// A clock, by the VideoCore's number for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clock {
    /// That of the PL011s.
    Uart = 2,
    /// The VideoCore's own, from which the mini UART lives.
    Core = 4,
}

/// A request. It fills the cache line it lies in, since the VideoCore writes behind the caches' back.
#[repr(C, align(64))]
struct Request([u32; 16]);

static REQUEST: SpinLock<Request> = SpinLock::new(Request([0; 16]));

/// How fast a clock runs, in Hz. None without a mailbox or without an answer.
pub(super) fn clock_rate(clock: Clock) -> Option<u32> {
    let region = platform::get().mailbox?;
    let base = mmu::map_device(region.base, region.len.max(size_of::<Registers>() as u64));
    let registers = NonNull::new(base)?.cast::<Registers>();
    // SAFETY: mapped device registers that only this function uses, one CPU at a time: there is no other yet.
    let registers = unsafe { UniqueMmioPointer::new(registers) };
    let mut request = REQUEST.lock();
    // Size and state of the message; a question, the room for its answer, the clock, the answer; the end.
    request.0[..8].copy_from_slice(&[32, 0, GET_CLOCK_RATE, 8, 0, clock as u32, 0, 0]);
    exchange(registers, &mut request)?;
    (request.0[1] == SUCCESS && request.0[6] != 0).then_some(request.0[6])
}

/// Lets the VideoCore answer in place.
fn exchange(mut registers: UniqueMmioPointer<'_, Registers>, request: &mut Request) -> Option<()> {
    let line = core::ptr::from_mut(request);
    let pa = mmu::virt_to_phys(line as u64);
    let message = u32::try_from(UNCACHED_ALIAS | pa).ok().filter(|_| pa < FIRST_GIB)? | PROPERTY;
    write_back(line);
    wait(|| field_shared!(registers, write_status).read() & FULL == 0)?;
    field!(registers, write).write(message);
    loop {
        wait(|| field_shared!(registers, read_status).read() & EMPTY == 0)?;
        if field!(registers, read).read() == message {
            break;
        }
    }
    // Whatever was fetched meanwhile is stale.
    write_back(line);
    Some(())
}

/// Cleans and invalidates the request's line to the point of coherency. The compiler takes its words to have changed.
fn write_back(line: *mut Request) {
    barrier::dsb(barrier::SY);
    // SAFETY: cache maintenance of memory that is ours; the request is what it was, or what the VideoCore made of it.
    unsafe { assembly!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    barrier::dsb(barrier::SY);
}

fn wait(ready: impl Fn() -> bool) -> Option<()> {
    (0..PATIENCE).any(|_| ready()).then_some(())
}
