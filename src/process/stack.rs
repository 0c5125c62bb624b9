//! The first stack of a program: arguments, environment and the auxiliary vector.

use alloc::vec::Vec;

use linux_raw_sys::auxvec as aux;

use crate::errno::Errno;

/// The most bytes of arguments and environment, pointers included.
pub const LIMIT: usize = 512 << 10;
/// The most bytes of one of them, its zero included, as in Linux (`MAX_ARG_STRLEN`).
pub const STRING_LIMIT: usize = 128 << 10;

/// What a program is told when it starts.
pub struct Arguments<'a> {
    /// The path it was started by.
    pub path: &'a [u8],
    /// Its arguments, its own name first.
    pub arguments: &'a [Vec<u8>],
    /// Its environment.
    pub environment: &'a [Vec<u8>],
    /// Sixteen bytes that nobody can guess.
    pub random: [u8; 16],
}

/// A stack's contents, and where they begin.
pub struct Image {
    /// The address of the first byte: the stack pointer.
    pub start: u64,
    /// The bytes up to the end of the stack.
    pub bytes: Vec<u8>,
}

/// Builds the stack that ends at `top`. `facts` is the auxiliary vector without the entries that
/// point into the stack.
///
/// From the top down: strings, alignment, the vector, environment and argument pointers, and the
/// number of arguments at the stack pointer, which is a multiple of 16 (AAPCS64 6.4.5.1).
pub fn build(top: u64, arguments: &Arguments<'_>, facts: &[(u32, u64)]) -> Result<Image, Errno> {
    let mut strings = Strings { bytes: Vec::new() };
    let platform = strings.add(b"aarch64\0")?;
    let random = strings.add(&arguments.random)?;
    let path = strings.add_string(arguments.path)?;
    let argument_offsets = strings.add_all(arguments.arguments)?;
    let environment_offsets = strings.add_all(arguments.environment)?;

    let strings_start = (top - strings.bytes.len() as u64) & !15;
    let address = |offset: u64| strings_start + offset;
    let mut words = Vec::new();
    words.push(argument_offsets.len() as u64);
    words.extend(argument_offsets.iter().map(|&offset| address(offset)));
    words.push(0);
    words.extend(environment_offsets.iter().map(|&offset| address(offset)));
    words.push(0);
    for &(kind, value) in facts {
        words.extend([u64::from(kind), value]);
    }
    let pointers = [(aux::AT_PLATFORM, platform), (aux::AT_RANDOM, random), (aux::AT_EXECFN, path)];
    for (kind, offset) in pointers {
        words.extend([u64::from(kind), address(offset)]);
    }
    words.extend([u64::from(aux::AT_NULL), 0]);

    let words_size = words.len() as u64 * 8;
    let start = (strings_start - words_size) & !15;
    let mut bytes = Vec::with_capacity((top - start) as usize);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes.resize((strings_start - start) as usize, 0);
    bytes.extend_from_slice(&strings.bytes);
    if bytes.len() > LIMIT {
        return Err(Errno::E2BIG);
    }
    Ok(Image { start, bytes })
}

struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    /// Adds bytes; says at which offset they are.
    fn add(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        if self.bytes.len() + bytes.len() > LIMIT {
            return Err(Errno::E2BIG);
        }
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(offset as u64)
    }

    fn add_string(&mut self, string: &[u8]) -> Result<u64, Errno> {
        let offset = self.add(string)?;
        self.add(b"\0")?;
        Ok(offset)
    }

    fn add_all(&mut self, strings: &[Vec<u8>]) -> Result<Vec<u64>, Errno> {
        strings.iter().map(|string| self.add_string(string)).collect()
    }
}
