//! The chain loader: starts on a Raspberry Pi 4 what a host sends over the serial line, as firmware would.
//!
//! It stays at the level it was entered at, with MMU and caches off, and starts no other CPU: to the kernel that it
//! starts the machine looks as the firmware left it. The protocol is that of `tools/src/push.rs`:
//!
//! ```text
//! board: "LZRDY\n", again and again
//! host:  "LZLD", length, CRC-32 of the image, CRC-32 of these two                    board: K and ff
//! host:  for each 1024 bytes, the last filled up: index, bytes, CRC-32 of both       board: K and the index, or NN
//! host:  a block with index ffff_ffff                                                board: K and ff, or NN
//! ```
//!
//! All numbers have 32 bits, the least byte first; an answer has that of the index, so that one that comes late is not
//! taken for the answer to what was sent since. NN asks for the same again; a block that comes twice does no harm, and
//! one that never comes is zero. In the end the image is checked as a whole, and started if it is what the host meant;
//! else the loader begins anew.
#![no_std]
#![no_main]

mod crc;
mod port;

use core::arch::{asm, global_asm};

use crc::Crc;
use port::{Ports, Silence};

/// Where images go: clear of this loader, and far below where the firmware puts tree and archive.
const IMAGE: usize = 0x0200_0000;
const MOST: usize = 0x0600_0000;
const BLOCK: usize = 1024;
const MAGIC: [u8; 4] = *b"LZLD";
/// The index of a block that ends the image.
const END: u32 = u32::MAX;
const READY: &[u8] = b"LZRDY\n";
const GOOD: u8 = b'K';
const AGAIN: [u8; 2] = *b"NN";

global_asm!(
    ".section .text.header, \"ax\"",
    ".global image_header",
    "image_header:",
    "b 1f",
    ".long 0",
    ".quad 0",
    ".quad __image_size",
    ".quad 0b1010",
    ".quad 0, 0, 0",
    ".ascii \"ARM\\x64\"",
    ".long 0",
    "1: msr daifset, #0xf",
    "adrp x1, __stack_top",
    "add x1, x1, :lo12:__stack_top",
    "mov sp, x1",
    "adrp x1, __bss_start",
    "add x1, x1, :lo12:__bss_start",
    "adrp x2, __bss_end",
    "add x2, x2, :lo12:__bss_end",
    "2: cmp x1, x2",
    "b.hs 3f",
    "stp xzr, xzr, [x1], #16",
    "b 2b",
    "3: b {main}",
    main = sym main,
);

/// What firmware passes on is passed on: the tree in x0.
extern "C" fn main(tree: u64) -> ! {
    let mut ports = Ports::new();
    loop {
        if receive(&mut ports).is_ok() {
            ports.flush();
            start(tree);
        }
    }
}

/// Receives an image, or finds that the host has gone.
fn receive(ports: &mut Ports) -> Result<(), Silence> {
    let (length, sum) = header(ports);
    // SAFETY: RAM of every Pi, which nothing else uses: neither this loader nor, so low, the firmware's tree.
    let image = unsafe { core::slice::from_raw_parts_mut(IMAGE as *mut u8, length) };
    maintain(image);
    image.fill(0);
    let mut buffer = [0; BLOCK];
    loop {
        let received = receive_block(ports, &mut buffer)?;
        if received == Some(END) {
            break;
        }
        let start = received.map_or(usize::MAX, |index| (index as usize).saturating_mul(BLOCK));
        match (received, image.get_mut(start..).filter(|room| !room.is_empty())) {
            (Some(index), Some(room)) => {
                let len = room.len().min(BLOCK);
                room[..len].copy_from_slice(&buffer[..len]);
                answer(ports, good(index));
            }
            _ => {
                ports.drain();
                answer(ports, AGAIN);
            }
        }
    }
    maintain(image);
    if Crc::of(image) != sum {
        return Err(Silence);
    }
    answer(ports, good(END));
    Ok(())
}

/// The answer to a block that is whole.
fn good(index: u32) -> [u8; 2] {
    [GOOD, index as u8]
}

fn answer(ports: &Ports, answer: [u8; 2]) {
    answer.iter().for_each(|&byte| ports.write(byte));
}

/// Announces itself until a sound header comes.
fn header(ports: &mut Ports) -> (usize, u32) {
    loop {
        ports.announce(READY);
        let Ok((length, sum)) = try_header(ports) else { continue };
        answer(ports, good(END));
        return (length, sum);
    }
}

fn try_header(ports: &mut Ports) -> Result<(usize, u32), Silence> {
    let mut magic = [0; 4];
    while magic != MAGIC {
        magic = [magic[1], magic[2], magic[3], ports.read()?];
    }
    let (length, sum, check) = (word(ports)?, word(ports)?, word(ports)?);
    let mut crc = Crc::new();
    length.to_le_bytes().into_iter().chain(sum.to_le_bytes()).for_each(|byte| crc.add(byte));
    let fits = (1..=MOST).contains(&(length as usize));
    if crc.value() == check && fits { Ok((length as usize, sum)) } else { Err(Silence) }
}

/// Receives a block and says which it is, if it is whole.
fn receive_block(ports: &mut Ports, block: &mut [u8; BLOCK]) -> Result<Option<u32>, Silence> {
    let first = ports.read_patiently()?;
    Ok(rest_of_block(ports, first, block).ok().flatten())
}

fn rest_of_block(ports: &mut Ports, first: u8, block: &mut [u8; BLOCK]) -> Result<Option<u32>, Silence> {
    let index = [first, ports.read()?, ports.read()?, ports.read()?];
    for byte in block.iter_mut() {
        *byte = ports.read()?;
    }
    let check = word(ports)?;
    let mut crc = Crc::new();
    index.iter().chain(block.iter()).for_each(|&byte| crc.add(byte));
    Ok((crc.value() == check).then_some(u32::from_le_bytes(index)))
}

fn word(ports: &mut Ports) -> Result<u32, Silence> {
    let mut bytes = [0; 4];
    for byte in &mut bytes {
        *byte = ports.read()?;
    }
    Ok(u32::from_le_bytes(bytes))
}

/// Cleans and invalidates every cache line of the image. Ours are uncached accesses: a stale line would hide what was
/// received once the kernel turns its caches on, and a dirty one be written over it.
fn maintain(image: &[u8]) {
    let line = 16;
    for at in image.as_ptr_range().start.addr() / line..=image.as_ptr_range().end.addr() / line {
        // SAFETY: cache maintenance of the image's memory, by steps that no line is shorter than.
        unsafe { asm!("dc civac, {}", in(reg) at * line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers, and maintenance of the instruction cache.
    unsafe { asm!("dsb sy", "ic iallu", "dsb sy", "isb", options(nostack, preserves_flags)) };
}

/// Enters the image as the boot protocol says: the tree in x0, and x1 to x3 zero.
fn start(tree: u64) -> ! {
    // SAFETY: an image is there whose checksum is the one that the host named; this loader is over.
    unsafe {
        asm!("br {image}", image = in(reg) IMAGE, in("x0") tree, in("x1") 0, in("x2") 0, in("x3") 0, options(noreturn))
    }
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
