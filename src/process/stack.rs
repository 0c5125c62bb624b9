//! The first stack of a program: arguments, environment and the auxiliary vector.

use alloc::vec::Vec;

use linux_raw_sys::auxvec as aux;

use crate::errno::Errno;
use crate::heap;

/// The most bytes of arguments and environment, pointers included.
pub const LIMIT: usize = 512 << 10;
/// The most bytes of one of them, its zero included, as in Linux (`MAX_ARG_STRLEN`).
pub const STRING_LIMIT: usize = 128 << 10;

/// Strings, each ended by a zero, one after another: one block of memory, however many there are.
#[derive(Default)]
pub struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    /// The strings of a list.
    pub fn of<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Errno> {
        let mut all = Self::default();
        strings.into_iter().try_for_each(|string| all.push(string))?;
        Ok(all)
    }

    /// Adds a string, which holds no zero.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        if self.bytes.len() + string.len() > LIMIT {
            return Err(Errno::E2BIG);
        }
        heap::reserve(&mut self.bytes, string.len() + 1)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All, in order, without their zeroes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|&byte| byte == 0).take(self.count)
    }
}

/// What a program is told when it starts.
pub struct Arguments<'a> {
    /// The path it was started by.
    pub path: &'a [u8],
    /// Its arguments, its own name first.
    pub arguments: &'a Strings,
    /// Its environment.
    pub environment: &'a Strings,
    /// Sixteen bytes that nobody can guess.
    pub random: [u8; 16],
}

/// A stack's contents, and where they begin.
pub struct Image {
    /// The address of the first byte: the stack pointer.
    pub start: u64,
    /// What lies there: numbers and addresses.
    pub words: Vec<u64>,
    /// What follows: the strings. From their end to the end of the stack there are zeroes.
    pub strings: Vec<u8>,
}

/// What points into the stack, besides the strings: platform, random bytes, path.
const OWN_FACTS: usize = 3;
const PLATFORM: &[u8] = b"aarch64\0";

/// Builds the stack that ends at `top`. `facts` is the auxiliary vector without the entries that
/// point into the stack.
///
/// From the top down: strings, alignment, the vector, environment and argument pointers, and the
/// number of arguments at the stack pointer, which is a multiple of 16 (AAPCS64 6.4.5.1).
pub fn build(top: u64, arguments: &Arguments<'_>, facts: &[(u32, u64)]) -> Result<Image, Errno> {
    let Arguments { path, arguments, environment, random } = arguments;
    let parts: [&[u8]; 6] = [PLATFORM, random, path, b"\0", &arguments.bytes, &environment.bytes];
    let strings_size: usize = parts.iter().map(|part| part.len()).sum();
    let pairs = facts.len() + OWN_FACTS + 1;
    let words_size = 8 * (1 + arguments.count + 1 + environment.count + 1 + 2 * pairs);
    if strings_size + words_size > LIMIT {
        return Err(Errno::E2BIG);
    }
    let strings_start = (top - strings_size as u64) & !15;
    let start = (strings_start - words_size as u64) & !15;
    let (mut words, mut strings) = (Vec::new(), Vec::new());
    heap::reserve(&mut words, (strings_start - start) as usize / 8)?;
    heap::reserve(&mut strings, strings_size)?;
    let mut put = |word: u64| words.push(word);

    let [platform, random, path, _, first_argument, first_variable] =
        core::array::from_fn(|index| strings_start + parts[..index].iter().map(|part| part.len() as u64).sum::<u64>());
    put(arguments.count as u64);
    for (strings, first) in [(arguments, first_argument), (environment, first_variable)] {
        let mut at = first;
        for string in strings.iter() {
            put(at);
            at += string.len() as u64 + 1;
        }
        put(0);
    }
    let own = [(aux::AT_PLATFORM, platform), (aux::AT_RANDOM, random), (aux::AT_EXECFN, path), (aux::AT_NULL, 0)];
    for &(kind, value) in facts.iter().chain(&own) {
        put(kind.into());
        put(value);
    }
    words.resize((strings_start - start) as usize / 8, 0);
    parts.iter().for_each(|part| strings.extend_from_slice(part));
    Ok(Image { start, words, strings })
}
