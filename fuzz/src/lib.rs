//! Damages what the kernel reads from outside, and sees that the readers bear it.
//!
//! [`readers`] calls one reader each and asserts what must hold of whatever it makes of the bytes. [`mutate`] breaks sound
//! input in the ways that the format suggests, [`campaign`] does so over and over, from a seed. The same readers are the
//! targets of cargo-fuzz (`targets/`). Input that once made a reader fail is kept in `corpus/` and tried by `tests/`.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod mutate;
pub mod readers;

use formats::samples;
use mutate::Encoding;

/// A format: what is damaged, how, and who reads it.
#[derive(Clone, Copy)]
pub struct Format {
    /// Its name, and its folder's in `corpus/`.
    pub name: &'static str,
    /// Sound input.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Reads it, and panics if something does not hold.
    pub read: fn(&[u8]),
    /// How its numbers are written.
    numbers: &'static [Encoding],
    /// Words that mean something in it.
    words: &'static [&'static str],
}

/// All of them.
pub const FORMATS: [Format; 4] = [
    Format {
        name: "device_tree",
        samples: samples::trees,
        read: readers::device_tree,
        numbers: &[Encoding::Big32, Encoding::Big32, Encoding::Big64],
        words: &[
            "reg\0",
            "ranges\0",
            "status\0",
            "okay\0",
            "#address-cells\0",
            "#size-cells\0",
            "phandle\0",
            "no-map\0",
        ],
    },
    Format {
        name: "command_line",
        samples: samples::lines,
        read: readers::command_line,
        numbers: &[Encoding::Decimal],
        words: &[
            "\"",
            " ",
            "=",
            " -- ",
            "\n",
            "\u{a0}",
            "lazy_tlb=",
            "qsbr",
            "eager",
            "tlbi=auto",
            "tlbi.exit=retire",
            "asid_bits=",
            "lazy_tlb.trim=dying",
            "lazy_tlb.exit=init",
            "init=/",
            "8250.",
        ],
    },
    Format {
        name: "cpio",
        samples: || vec![samples::archive::archives()],
        read: readers::cpio,
        numbers: &[Encoding::Hexadecimal],
        words: &["070701", "070702", "TRAILER!!!\0", "./", "../", "/", "\0\0\0\0"],
    },
    Format {
        name: "elf",
        samples: || vec![samples::program::fixed(), samples::program::movable(), samples::program::dynamic()],
        read: readers::elf,
        numbers: &[Encoding::Little16, Encoding::Little32, Encoding::Little64, Encoding::Little64],
        words: &["\u{7f}ELF", "\u{2}\u{1}\u{1}\0"],
    },
];
