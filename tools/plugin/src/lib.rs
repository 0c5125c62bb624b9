//! A plugin for QEMU's TCG, written against its C interface. Three tools, by `mode=`:
//!
//! * `tlb`: the TLB sanitizer;
//! * `count`: what each CPU executes between two marks of a program;
//! * `lines`: how often each line of memory moves between CPUs meanwhile.
//!
//! `-plugin liblazuli_plugin.so,mode=tlb,ram=0x40000000`, with `-object memory-backend-memfd,id=ram,size=512M,share=on
//! -machine memory-backend=ram`; `ram` is the physical address at which the board has its memory.
//! `-plugin liblazuli_plugin.so,mode=count,out=FILE` or `mode=lines,out=FILE`: a line of JSON for each region. On a board
//! with GICv2 `sgir` is the physical address of GICD_SGIR, a store to which is an SGI. `from=reset` has the first region
//! of `mode=count` begin at once.

mod api;
mod count;
mod decode;
mod lines;
mod ram;
mod tlb;

use std::ffi::{c_char, c_int, c_void};

/// The version of the interface that this is written for, which QEMU reads first. 4 came with QEMU 10.0; an older one
/// says so and gives up.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 4;

/// Called by QEMU when the plugin is loaded; anything but 0 makes it give up.
///
/// # Safety
/// QEMU passes `count` C strings at `values`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    count: c_int,
    values: *const *const c_char,
) -> c_int {
    // SAFETY: our caller's promise.
    let options = unsafe { api::options(count, values) };
    let tool = api::connect().and_then(|()| Options::parse(&options)?.tool());
    match tool {
        Ok(tool) => {
            api::start(id, tool);
            0
        }
        Err(error) => {
            eprintln!("lazuli plugin: {error}");
            1
        }
    }
}

/// What the options say.
#[derive(Default, Debug, PartialEq, Eq)]
struct Options {
    mode: String,
    ram: u64,
    sgir: Option<u64>,
    out: String,
    from_reset: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || number(value).ok_or(format!("{word}: that is no number"));
            match name {
                "mode" => options.mode = value.to_owned(),
                "ram" => options.ram = number()?,
                "sgir" => options.sgir = Some(number()?),
                "out" => options.out = value.to_owned(),
                "from" if matches!(value, "mark" | "reset") => options.from_reset = value == "reset",
                _ => return Err(format!("{word}: known are mode=, ram=, sgir=, out= and from=mark or from=reset")),
            }
        }
        Ok(options)
    }

    fn tool(self) -> Result<Box<dyn api::Tool>, String> {
        match self.mode.as_str() {
            "tlb" => Ok(Box::new(tlb::Sanitizer::new(self.ram))),
            "count" | "lines" if self.out.is_empty() => Err("out=FILE is missing: where do the counts go?".to_owned()),
            "count" => Ok(Box::new(count::Counter::new(&self.out, self.sgir, self.from_reset)?)),
            "lines" => Ok(Box::new(lines::Ownership::new(&self.out)?)),
            other => Err(format!("mode={other} is none of tlb, count, lines")),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_or_refused_with_what_is_known() {
        let options = parse(&["mode=count", "out=/x", "sgir=0x8000f00", "ram=16", "from=reset"]).unwrap();
        assert!(options.from_reset && !parse(&["from=mark"]).unwrap().from_reset);
        assert!(parse(&["from=boot"]).unwrap_err().contains("from=reset"));
        assert_eq!((options.sgir, options.ram, options.out.as_str()), (Some(0x0800_0f00), 16, "/x"));
        assert!(parse(&["colour=blue"]).unwrap_err().contains("mode="));
        assert!(parse(&["ram=blue"]).unwrap_err().contains("no number"));
        let refused = |words: &[&str]| parse(words).unwrap().tool().err().unwrap();
        assert!(refused(&["mode=fast"]).contains("tlb, count, lines"));
        assert!(refused(&["mode=count"]).contains("out=FILE"));
    }
}
