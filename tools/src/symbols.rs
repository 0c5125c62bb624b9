//! Names for addresses: `function file:line`, read from the kernel's debug information.

use std::path::Path;

use addr2line::{Loader, demangle_auto};
use anyhow::{Result, anyhow};

/// The symbols of one ELF file.
pub(crate) struct Symbols(Loader);

impl Symbols {
    /// Reads the debug information of the ELF at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Loader::new(path).map(Self).map_err(|error| anyhow!("no symbols from {}: {error}", path.display()))
    }

    /// Names the code at `address`, functions inlined there included, innermost first.
    pub(crate) fn describe(&self, address: u64) -> Option<String> {
        let mut names = Vec::new();
        if let Ok(mut frames) = self.0.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.and_then(|f| f.demangle().ok().map(|n| short_name(&n)));
                let place = frame.location.and_then(|l| Some(format!(" {}:{}", short_path(l.file?), l.line?)));
                names.push(format!("{}{}", name.unwrap_or_else(|| "?".to_owned()), place.unwrap_or_default()));
            }
        }
        if names.is_empty() {
            // Assembly carries no frames, but its labels are in the symbol table.
            names.push(self.label(address)?);
        }
        Some(names.join(", inlined in "))
    }

    /// The function in whose source the code at `address` stands: of those that it was inlined in, the first that is not
    /// Rust's own. So it stays the same when a compiler inlines otherwise.
    pub(crate) fn function(&self, address: u64) -> Option<String> {
        let mut inner = None;
        if let Ok(mut frames) = self.0.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let foreign =
                    frame.location.and_then(|l| l.file).is_some_and(|f| short_path(f).starts_with("library/"));
                let name = frame.function.and_then(|f| f.demangle().ok().map(|n| short_name(&n)));
                match name {
                    Some(name) if !foreign => return Some(name),
                    name => inner = inner.or(name),
                }
            }
        }
        inner.or_else(|| self.label(address))
    }

    /// The functions that the code at `address` stands in, innermost first, each with its file and line.
    pub(crate) fn frames(&self, address: u64) -> Vec<(String, String, u32)> {
        let mut found = Vec::new();
        if let Ok(mut frames) = self.0.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.and_then(|f| f.demangle().ok().map(|n| short_name(&n)));
                let place = frame.location.and_then(|l| Some((short_path(l.file?).to_owned(), l.line?)));
                found.extend(name.zip(place).map(|(name, (file, line))| (name, file, line)));
            }
        }
        found
    }

    /// The name in the symbol table.
    fn label(&self, address: u64) -> Option<String> {
        Some(short_name(&demangle_auto(self.0.find_symbol(address)?.into(), None)))
    }
}

/// Drops the hash that Rust adds to a name.
fn short_name(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path.to_owned(),
        _ => name.to_owned(),
    }
}

/// Paths as one would open them from here; those of libraries from the library's own name on.
fn short_path(path: &str) -> &str {
    let here = std::env::current_dir().unwrap_or_default();
    if let Some(rest) = here.to_str().and_then(|here| path.strip_prefix(here)) {
        return rest.trim_start_matches('/');
    }
    let after = |mark: &str| path.split_once(mark).map(|(_, rest)| rest);
    // Cargo keeps libraries below a folder per registry, and rustc the standard library below one per commit.
    let below = |mark: &str| after(mark).and_then(|rest| rest.split_once('/')).map(|(_, rest)| rest);
    below("/registry/src/").or_else(|| below("/rustc/")).or_else(|| after("/rustlib/src/rust/")).unwrap_or(path)
}

/// Adds names to the backtrace lines (`  at 0xffff…`) of a console that arrives piece by piece.
pub(crate) struct Annotator<'a> {
    symbols: Option<&'a Symbols>,
    line: Vec<u8>,
}

impl<'a> Annotator<'a> {
    /// Without symbols the console passes unchanged.
    pub(crate) fn new(symbols: Option<&'a Symbols>) -> Self {
        Self { symbols, line: Vec::new() }
    }

    /// Takes the next bytes and returns them at once, with names put before the line ends.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(symbols) = self.symbols else {
            return bytes.to_vec();
        };
        self.feed_with(bytes, &|address| symbols.describe(address))
    }

    fn feed_with(&mut self, bytes: &[u8], describe: &dyn Fn(u64) -> Option<String>) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            // A carriage return may stand before the line feed; the name belongs before both.
            if byte == b'\r' || byte == b'\n' {
                let name = backtrace_address(&self.line).and_then(describe);
                out.extend(name.map(|name| format!(" {name}")).unwrap_or_default().bytes());
                self.line.clear();
            } else {
                self.line.push(byte);
            }
            out.push(byte);
        }
        out
    }
}

/// The address of a backtrace line, `  at 0x…` and nothing behind it.
fn backtrace_address(line: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(line).ok()?.strip_prefix("  at ")?.trim_end().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[&str]) -> String {
        let mut annotator = Annotator::new(None);
        let describe = |address: u64| (address != 0).then(|| format!("f{address:x} src/a.rs:1"));
        let bytes = pieces.iter().flat_map(|p| annotator.feed_with(p.as_bytes(), &describe)).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_backtrace_lines_get_names_even_when_cut_in_pieces() {
        assert_eq!(fed(&["panic\n  at 0xff", "10\r\n"]), "panic\n  at 0xff10 fff10 src/a.rs:1\r\n");
        assert_eq!(fed(&["x  at 0x10\n  at 0x0\n  at 0xzz\n"]), "x  at 0x10\n  at 0x0\n  at 0xzz\n");
    }

    #[test]
    fn a_prompt_without_line_end_is_passed_on_at_once() {
        assert_eq!(fed(&["$ "]), "$ ");
    }

    #[test]
    fn this_very_program_can_be_symbolised() {
        let symbols = Symbols::open(&std::env::current_exe().unwrap()).unwrap();
        // Position independent: the address in the file is the run-time address less the load offset.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let base = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let function: fn(&str) -> String = short_name;
        let name = symbols.describe(function as usize as u64 - base).unwrap();
        assert!(name.contains("short_name") && name.contains("symbols.rs:"), "{name}");
    }

    #[test]
    fn names_and_paths_are_short() {
        assert_eq!(short_name("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(short_name("a::hash"), "a::hash");
        assert_eq!(short_path("/rustc/abc/library/core/src/panic.rs"), "library/core/src/panic.rs");
        assert_eq!(short_path("/t/lib/rustlib/src/rust/library/alloc/src/a.rs"), "library/alloc/src/a.rs");
        assert_eq!(short_path("/h/.cargo/registry/src/index-1/spin-0.12/src/a.rs"), "spin-0.12/src/a.rs");
    }
}
