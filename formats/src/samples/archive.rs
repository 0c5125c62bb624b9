//! cpio archives of the format newc (Documentation/driver-api/early-userspace/buffer-format.rst).

use alloc::format;
use alloc::vec::Vec;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Appends one member.
fn member(archive: &mut Vec<u8>, identity: u32, links: u32, (name, mode): (&str, u32), data: &[u8]) {
    let header = format!(
        "070701{identity:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        0,
        0,
        0x6000_0000,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0
    );
    archive.extend(header.bytes().chain(name.bytes()).chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Two archives with zeroes between them: folders, files, a symbolic link, and a file of two names.
pub fn archives() -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, 1, 2, ("bin", DIRECTORY), &[]);
    member(&mut archive, 2, 1, ("bin/a", FILE), b"#!/bin/b -x\n");
    member(&mut archive, 3, 2, ("bin/b", FILE), &[]);
    member(&mut archive, 3, 2, ("bin/c", FILE), &[7; 13]);
    member(&mut archive, 0, 1, ("TRAILER!!!", 0), &[]);
    archive.resize(archive.len().next_multiple_of(512), 0);
    member(&mut archive, 4, 1, ("./init", LINK), b"bin/a");
    member(&mut archive, 0, 1, ("TRAILER!!!", 0), &[]);
    archive
}
