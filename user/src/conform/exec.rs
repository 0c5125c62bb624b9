//! execve: what a new program is given, and what it keeps.
//!
//! The new program is this one, told by its first argument to describe itself (`report`). An emulator of user mode
//! alone cannot pass these: it hands execve to a host that does not know our programs.

use std::{env, ffi::CString, io::Read, process::Command, ptr};

use super::{
    Case, Notes,
    files::open,
    notes::{KERNEL, UNMAPPED, answer, at, call, into, must, pipe},
};
use crate::{probe::handle, sys::process};

pub(super) const CASES: &[Case] = &[
    ("arguments", arguments),
    ("inherits", inherits),
    ("memory", memory),
    ("errors", errors),
    ("threads-go", threads_go),
    ("command", command),
];

/// The first argument that turns this program into the child of these cases.
const CHILD: &str = "--as-child";

const KEPT: u64 = 50;
const CLOSED_ON_EXEC: u64 = 51;

fn own_path() -> String {
    env::current_exe().expect("/proc/self/exe").to_string_lossy().into_owned()
}

/// Executes this program with an environment of one variable. Only comes back if that fails.
pub(super) fn become_child(what: &str, extra: &[&str]) -> i64 {
    let text = |s: &str| CString::new(s).expect("no zero bytes");
    let path = text(&own_path());
    let words: Vec<_> = ["conform", CHILD, what].iter().chain(extra).map(|word| text(word)).collect();
    let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(ptr::null());
    let variable = text("COLOUR=lapis lazuli");
    let envp = [variable.as_ptr(), ptr::null()];
    call(libc::SYS_execve, &[at(path.as_c_str()), argv.as_ptr() as u64, at(&envp)])
}

/// What a child says, in one word, that prepares itself and then becomes this program anew.
fn ask(what: &str, extra: &[&str], prepare: impl FnOnce()) -> String {
    let (text, ended) = ask_lines(what, extra, prepare);
    format!("{text}{ended}").replace([' ', '\n'], "_")
}

/// What such a child says, line by line, and how it ends.
fn ask_lines(what: &str, extra: &[&str], prepare: impl FnOnce()) -> (String, String) {
    let (reader, writer) = pipe(0);
    let child = process::spawn(|| {
        prepare();
        must(libc::SYS_dup3, &[writer, 1, 0]);
        become_child(what, extra) as i32
    });
    must(libc::SYS_close, &[writer]);
    let mut text = vec![0u8; 64 * 1024];
    let mut length = 0;
    while let count @ 1.. = must(libc::SYS_read, &[reader, into(&mut text[length..]), 4096]) as usize {
        length += count;
    }
    let ended = process::wait(child.expect("a child")).expect("the child").1;
    (String::from_utf8_lossy(&text[..length]).into_owned(), format!("{ended:?}"))
}

/// Runs in the new program: says on standard output what it found. Gives false if that was not asked for.
pub fn report(arguments: &[String]) -> bool {
    if arguments.first().map(String::as_str) != Some(CHILD) {
        return false;
    }
    match arguments.get(1).map(String::as_str) {
        Some("arguments") => report_arguments(&arguments[2..]),
        Some("auxiliary") => report_auxiliary(),
        Some("inherits") => report_inherits(),
        Some("numbers") => println!("{}", must(libc::SYS_gettid, &[]) == must(libc::SYS_getpid, &[])),
        _ => println!("here"),
    }
    true
}

fn report_arguments(rest: &[String]) {
    let name = env::args().next().unwrap_or_default();
    let colour = env::var("COLOUR").unwrap_or_default();
    let long = rest.iter().map(String::len).max().unwrap_or(0);
    println!("{name} {} {long} {} {colour}", rest.len(), env::vars().count());
}

fn auxiliary(kind: u64) -> u64 {
    // SAFETY: reads the vector that the kernel passed at start; a kind that is not there gives zero.
    unsafe { libc::getauxval(kind) }
}

fn report_auxiliary() {
    // SAFETY: both are addresses of bytes that the kernel put on the stack: 16 of them, and a terminated name.
    let (random, name) = unsafe {
        let random = (auxiliary(libc::AT_RANDOM) as *const [u8; 16]).as_ref();
        let name = (auxiliary(libc::AT_EXECFN) as *const libc::c_char).as_ref();
        (random.copied(), name.map(|name| std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()))
    };
    println!("pagesize {}", auxiliary(libc::AT_PAGESZ));
    println!("random {}", random.is_some_and(|bytes| bytes != [0; 16]));
    println!("execfn {}", name == Some(own_path()));
    println!("entry {}", auxiliary(libc::AT_ENTRY) != 0);
    println!("phdr {}", auxiliary(libc::AT_PHDR) != 0);
    println!("phent {}", auxiliary(libc::AT_PHENT));
    println!("clktck {}", auxiliary(libc::AT_CLKTCK));
    println!("fp {}", auxiliary(libc::AT_HWCAP) & 3);
    println!("secure {}", auxiliary(libc::AT_SECURE));
    println!("uid {}", auxiliary(libc::AT_UID));
}

fn report_inherits() {
    let open = |descriptor| answer(call(libc::SYS_fcntl, &[descriptor, libc::F_GETFD as u64]));
    let handler = |signal: i32| {
        let mut old = [9u64; 4];
        must(libc::SYS_rt_sigaction, &[signal as u64, 0, into(&mut old), 8]);
        old[0]
    };
    let mut mask = 0u64;
    must(libc::SYS_rt_sigprocmask, &[0, 0, into(&mut mask), 8]);
    println!("kept {} closed {}", open(KEPT), open(CLOSED_ON_EXEC));
    println!("ignored {} handled {}", handler(libc::SIGUSR1), handler(libc::SIGUSR2));
    println!("mask {mask:#x} cwd {}", env::current_dir().unwrap_or_default().display());
}

fn arguments(notes: &mut Notes) {
    notes.note("few", ask("arguments", &["", "two words"], || ()));
    let long = "x".repeat(100_000);
    notes.note("long", ask("arguments", &[&long], || ()));
    notes.note("many", ask("arguments", &["y"; 5000], || ()));
    let (text, ended) = ask_lines("auxiliary", &[], || ());
    for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        notes.note(&format!("auxiliary-{name}"), value);
    }
    notes.note("auxiliary-ends", ended);
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn inherits(notes: &mut Notes) {
    let says = ask("inherits", &[], || {
        must(libc::SYS_dup3, &[open(b"/dev/null\0"), KEPT, 0]);
        must(libc::SYS_dup3, &[open(b"/dev/null\0"), CLOSED_ON_EXEC, libc::O_CLOEXEC as u64]);
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
        handle(libc::SIGUSR2, 0, nothing);
        must(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, at(&0x800u64), 0, 8]);
        must(libc::SYS_chdir, &[at(b"/dev\0")]);
    });
    notes.note("says", says);
}

/// The parent's memory is not touched by what the child becomes.
fn memory(notes: &mut Notes) {
    let mine = vec![7u8; 100_000];
    notes.note("says", ask("nothing", &[], || ()));
    notes.note("parent-keeps-its-own", mine.iter().all(|&byte| byte == 7));
}

fn errors(notes: &mut Notes) {
    let none = [0u64; 1];
    let mut try_exec = |check: &str, path: u64| notes.call(check, libc::SYS_execve, &[path, at(&none), at(&none)]);
    try_exec("missing", at(b"/no-such-program\0"));
    try_exec("empty-path", at(b"\0"));
    try_exec("directory", at(b"/bin\0"));
    try_exec("device", at(b"/dev/null\0"));
    try_exec("through-a-file", at(b"/dev/null/x\0"));
    try_exec("null", 0);
    try_exec("kernel-pointer", KERNEL);
    try_exec("unmapped", UNMAPPED);
    let path = CString::new(own_path()).expect("no zero bytes");
    let path = at(path.as_c_str());
    notes.call("arguments-at-kernel-pointer", libc::SYS_execve, &[path, KERNEL, at(&none)]);
    notes.call("environment-unmapped", libc::SYS_execve, &[path, at(&none), UNMAPPED]);
    notes.call("argument-at-kernel-pointer", libc::SYS_execve, &[path, at(&[KERNEL, 0]), at(&none)]);
    let long = [vec![b'z'; 200_000], vec![0]].concat();
    // If a kernel takes this, it runs the harmless child.
    let words = [at(b"conform\0"), at(b"--as-child\0"), at(long.as_slice()), 0];
    notes.call("argument-too-long", libc::SYS_execve, &[path, at(&words), at(&none)]);
    notes.note("life-goes-on", must(libc::SYS_getpid, &[]) > 0);
}

/// The other threads end when one of them executes; the new program has the process's number.
fn threads_go(notes: &mut Notes) {
    let says = ask("nothing", &[], || {
        for _ in 0..3 {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
    });
    notes.note("from-first-thread", says);
    let (reader, writer) = pipe(0);
    let child = process::spawn(|| {
        must(libc::SYS_dup3, &[writer, 1, 0]);
        std::thread::spawn(|| become_child("numbers", &[]));
        loop {
            std::thread::park();
        }
    });
    let ended = process::wait(child.expect("a child")).expect("the child").1;
    must(libc::SYS_close, &[writer]);
    let mut text = [0u8; 8];
    let length = must(libc::SYS_read, &[reader, into(&mut text), 8]) as usize;
    notes.note("from-another-thread", format!("{ended:?}"));
    // It is the first thread now, although another one was until then.
    notes.note("from-another-thread-is-first", String::from_utf8_lossy(&text[..length]).trim());
}

/// The standard library's way: a clone that borrows the parent's memory, then execve.
fn command(notes: &mut Notes) {
    let output = Command::new(own_path()).args([CHILD, "nothing"]).output();
    let output = output.map(|output| (output.status.code(), output.stdout));
    notes.note("output", output.is_ok_and(|output| output == (Some(0), b"here\n".to_vec())));
    let missing = Command::new("/no-such-program").spawn();
    notes.note("missing", answer(-i64::from(missing.err().and_then(|error| error.raw_os_error()).unwrap_or(0))));
    let piped = Command::new(own_path()).args([CHILD, "nothing"]).stdout(std::process::Stdio::piped()).spawn();
    let mut text = String::new();
    let mut child = piped.expect("a child");
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    notes.note("piped", text.trim());
    notes.note("status", child.wait().is_ok_and(|status| status.success()));
}
