//! Names: openat, newfstatat, readlinkat, getdents64, chdir, getcwd, and the files under /dev and /proc.

use std::{collections::BTreeSet, mem};

use super::{
    Case, Notes,
    notes::{CLOSED, HERE, KERNEL, PageEnd, at, call, into, must, pipe},
};
use crate::sys::process;

pub(super) const CASES: &[Case] = &[
    ("openat", openat),
    ("openat-relative", openat_relative),
    ("stat", stat),
    ("fstat", fstat),
    ("readlinkat", readlinkat),
    ("getdents", getdents),
    ("cwd", cwd),
    ("devices", devices),
    ("proc", proc),
    ("written", written),
    ("appended", appended),
];

/// A regular file that exists wherever this program runs, also when it was not started by its full name.
pub(super) const EXECUTABLE: &[u8] = b"/proc/self/exe\0";

const READ_ONLY: u64 = libc::O_RDONLY as u64;

/// Opens a path that must exist. The path ends with a zero byte.
pub(super) fn open(path: &[u8]) -> u64 {
    must(libc::SYS_openat, &[HERE, at(path), READ_ONLY])
}

fn openat(notes: &mut Notes) {
    let mut try_open = |check: &str, path: &[u8], flags: i32| {
        let result = call(libc::SYS_openat, &[HERE, at(path), flags as u64]);
        notes.note(check, if result >= 0 { "opens".to_string() } else { super::notes::answer(result) });
    };
    try_open("file", EXECUTABLE, libc::O_RDONLY);
    try_open("directory", b"/\0", libc::O_RDONLY);
    try_open("directory-as-directory", b"/bin\0", libc::O_DIRECTORY);
    try_open("slashes-and-dots", b"//dev/.//../dev/null\0", libc::O_RDONLY);
    try_open("above-root", b"/../../dev/null\0", libc::O_RDONLY);
    try_open("missing", b"/no-such-file\0", libc::O_RDONLY);
    try_open("missing-directory", b"/no/such/file\0", libc::O_RDONLY);
    try_open("empty-path", b"\0", libc::O_RDONLY);
    try_open("through-a-file", b"/dev/null/x\0", libc::O_RDONLY);
    try_open("file-with-slash", b"/dev/null/\0", libc::O_RDONLY);
    try_open("file-as-directory", b"/dev/null\0", libc::O_DIRECTORY);
    try_open("directory-for-writing", b"/bin\0", libc::O_WRONLY);
    let long = [&[b'a'; 5000][..], b"\0"].concat();
    try_open("path-too-long", &long, libc::O_RDONLY);
    let long_name = [b"/", &[b'a'; 256][..], b"\0"].concat();
    try_open("name-too-long", &long_name, libc::O_RDONLY);
    notes.call("null", libc::SYS_openat, &[HERE, 0, READ_ONLY]);
    notes.call("kernel-pointer", libc::SYS_openat, &[HERE, KERNEL, READ_ONLY]);
    let end = PageEnd::new();
    let tail = end.before_end(4);
    // SAFETY: the four bytes in front of the end are this function's own.
    unsafe { (tail as *mut [u8; 4]).write(*b"/bin") };
    notes.call("path-runs-over-page-end", libc::SYS_openat, &[HERE, tail, READ_ONLY]);
}

fn openat_relative(notes: &mut Notes) {
    let dev = open(b"/dev\0");
    notes.note("from-descriptor", call(libc::SYS_openat, &[dev, at(b"null\0"), READ_ONLY]) >= 0);
    notes.call("missing", libc::SYS_openat, &[dev, at(b"no-such\0"), READ_ONLY]);
    notes.call("closed-descriptor", libc::SYS_openat, &[CLOSED, at(b"null\0"), READ_ONLY]);
    notes.note("absolute-ignores-it", call(libc::SYS_openat, &[CLOSED, at(b"/dev/null\0"), READ_ONLY]) >= 0);
    let null = open(b"/dev/null\0");
    notes.call("from-a-file", libc::SYS_openat, &[null, at(b"null\0"), READ_ONLY]);
}

fn empty_stat() -> libc::stat {
    // SAFETY: plain data, for which all zeroes is a value.
    unsafe { mem::zeroed() }
}

fn kind(stat: &libc::stat) -> &'static str {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFCHR => "character-device",
        libc::S_IFIFO => "pipe",
        _ => "other",
    }
}

fn stat(notes: &mut Notes) {
    let mut found = empty_stat();
    let mut try_stat = |check: &str, path: &[u8]| {
        let result = call(libc::SYS_newfstatat, &[HERE, at(path), into(&mut found), 0]);
        notes.note(check, if result == 0 { kind(&found).to_string() } else { super::notes::answer(result) });
    };
    try_stat("root", b"/\0");
    try_stat("file", EXECUTABLE);
    try_stat("null", b"/dev/null\0");
    try_stat("missing", b"/no-such-file\0");
    try_stat("empty-path", b"\0");
    notes.call("bad-flags", libc::SYS_newfstatat, &[HERE, at(b"/\0"), into(&mut found), 0x8000_0000]);
    notes.call("null-path", libc::SYS_newfstatat, &[HERE, 0, into(&mut found), 0]);
    notes.call("kernel-buffer", libc::SYS_newfstatat, &[HERE, at(b"/\0"), KERNEL, 0]);
    let by_descriptor = [open(EXECUTABLE), at(b"\0"), into(&mut found), libc::AT_EMPTY_PATH as u64];
    notes.call("empty-path-of-descriptor", libc::SYS_newfstatat, &by_descriptor);
    notes.note("that-is-a", kind(&found));
}

fn fstat(notes: &mut Notes) {
    let mut found = empty_stat();
    let file = open(EXECUTABLE);
    notes.call("file", libc::SYS_fstat, &[file, into(&mut found)]);
    notes.note("file-is-a", kind(&found));
    notes.note("size-is-where-the-end-is", must(libc::SYS_lseek, &[file, 0, 2]) == found.st_size as u64);
    notes.note("may-be-executed", found.st_mode & 0o111 != 0);
    let (reader, _writer) = pipe(0);
    notes.call("pipe", libc::SYS_fstat, &[reader, into(&mut found)]);
    notes.note("pipe-is-a", kind(&found));
    notes.call("null", libc::SYS_fstat, &[open(b"/dev/null\0"), into(&mut found)]);
    notes.note("null-is-device", format!("{}:{}", libc::major(found.st_rdev), libc::minor(found.st_rdev)));
    notes.call("closed", libc::SYS_fstat, &[CLOSED, into(&mut found)]);
    notes.call("kernel-buffer", libc::SYS_fstat, &[file, KERNEL]);
    notes.call("across-page-end", libc::SYS_fstat, &[file, PageEnd::new().before_end(64)]);
}

fn readlinkat(notes: &mut Notes) {
    let mut path = [0u8; 512];
    let length = must(libc::SYS_readlinkat, &[HERE, at(EXECUTABLE), into(&mut path), 512]);
    notes.note("exe-is-absolute", path[0] == b'/');
    notes.note("exe-opens", call(libc::SYS_openat, &[HERE, at(&path), READ_ONLY]) >= 0);
    notes.note(
        "cut-to-buffer",
        call(libc::SYS_readlinkat, &[HERE, at(EXECUTABLE), into(&mut path), length - 1]) == length as i64 - 1,
    );
    notes.call("not-a-link", libc::SYS_readlinkat, &[HERE, at(b"/dev/null\0"), into(&mut path), 512]);
    notes.call("missing", libc::SYS_readlinkat, &[HERE, at(b"/no-such\0"), into(&mut path), 512]);
    notes.call("no-room", libc::SYS_readlinkat, &[HERE, at(EXECUTABLE), into(&mut path), 0]);
    notes.call("kernel-buffer", libc::SYS_readlinkat, &[HERE, at(EXECUTABLE), KERNEL, 512]);
    notes.call("kernel-path", libc::SYS_readlinkat, &[HERE, KERNEL, into(&mut path), 512]);
}

/// The names in a directory, read with a buffer of that size.
fn names(directory: u64, size: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut buffer = vec![0u8; size];
    loop {
        let filled = must(libc::SYS_getdents64, &[directory, into(buffer.as_mut_slice()), size as u64]) as usize;
        if filled == 0 {
            return names;
        }
        let mut entries = &buffer[..filled];
        while !entries.is_empty() {
            // inode, offset, record length, type, name: Linux include/linux/dirent.h.
            let length = usize::from(u16::from_le_bytes([entries[16], entries[17]]));
            let name = entries[19..length].split(|&byte| byte == 0).next().unwrap_or(&[]);
            names.insert(String::from_utf8_lossy(name).into_owned());
            entries = &entries[length..];
        }
    }
}

fn getdents(notes: &mut Notes) {
    let mut buffer = [0u8; 64];
    let found = names(open(b"/\0"), 4096);
    for name in [".", "..", "bin", "dev", "proc"] {
        notes.note(&format!("root-has-{name}"), found.contains(name));
    }
    notes.note("small-buffer-finds-the-same", names(open(b"/\0"), 300) == found);
    notes.call("no-room", libc::SYS_getdents64, &[open(b"/\0"), into(&mut buffer), 8]);
    notes.call("file", libc::SYS_getdents64, &[open(EXECUTABLE), into(&mut buffer), 64]);
    notes.call("closed", libc::SYS_getdents64, &[CLOSED, into(&mut buffer), 64]);
    notes.call("kernel-buffer", libc::SYS_getdents64, &[open(b"/\0"), KERNEL, 4096]);
}

fn cwd(notes: &mut Notes) {
    let mut path = [0u8; 64];
    notes.call("chdir-root", libc::SYS_chdir, &[at(b"/\0")]);
    notes.call("getcwd-root", libc::SYS_getcwd, &[into(&mut path), 64]);
    notes.note("root-is", String::from_utf8_lossy(&path[..1]));
    notes.call("chdir-dev", libc::SYS_chdir, &[at(b"dev\0")]);
    notes.call("getcwd-dev", libc::SYS_getcwd, &[into(&mut path), 64]);
    notes.note("dev-is", String::from_utf8_lossy(&path[..4]));
    notes.note("relative-open", call(libc::SYS_openat, &[HERE, at(b"null\0"), READ_ONLY]) >= 0);
    notes.note("parent-open", call(libc::SYS_openat, &[HERE, at(b"../dev/null\0"), READ_ONLY]) >= 0);
    notes.call("getcwd-no-room", libc::SYS_getcwd, &[into(&mut path), 2]);
    notes.call("getcwd-kernel-buffer", libc::SYS_getcwd, &[KERNEL, 64]);
    notes.call("chdir-missing", libc::SYS_chdir, &[at(b"/no-such\0")]);
    notes.call("chdir-file", libc::SYS_chdir, &[at(b"/dev/null\0")]);
    notes.call("chdir-kernel-pointer", libc::SYS_chdir, &[KERNEL]);
}

fn devices(notes: &mut Notes) {
    let mut buffer = [1u8; 100];
    let null = must(libc::SYS_openat, &[HERE, at(b"/dev/null\0"), libc::O_RDWR as u64]);
    notes.call("read-null", libc::SYS_read, &[null, into(&mut buffer), 100]);
    notes.call("write-null", libc::SYS_write, &[null, at(&buffer), 100]);
    notes.call("write-null-unmapped", libc::SYS_write, &[null, 16, 100]);
    notes.call("write-null-kernel-pointer", libc::SYS_write, &[null, KERNEL, 100]);
    let zero = must(libc::SYS_openat, &[HERE, at(b"/dev/zero\0"), libc::O_RDWR as u64]);
    notes.call("read-zero", libc::SYS_read, &[zero, into(&mut buffer), 100]);
    notes.note("zeroes", buffer == [0; 100]);
    notes.call("write-zero", libc::SYS_write, &[zero, at(&buffer), 100]);
    notes.call("read-zero-kernel-pointer", libc::SYS_read, &[zero, KERNEL, 100]);
    // Linux may give what fits, less, or EFAULT: it clears in words of its own choice.
    let cut = call(libc::SYS_read, &[zero, PageEnd::new().before_end(10), 100]);
    notes.note("read-zero-across-page-end-is-cut", cut == -i64::from(libc::EFAULT) || (0..=10).contains(&cut));
}

fn proc(notes: &mut Notes) {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    notes.note("cpuinfo-names-a-processor", cpus.lines().any(|line| line.starts_with("processor")));
    let here = at(&cpus);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let holds = |line: &&str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let inside = |start, end| (start..end).contains(&here);
        let found = inside(u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        found.then(|| rest.split(' ').next().unwrap_or_default().to_string())
    };
    let permissions = maps.lines().find_map(|line| holds(&line)).unwrap_or("nowhere".to_string());
    notes.note("maps-show-the-stack-as", permissions);
    interrupts(notes);
}

/// A column for each CPU that is online, and a row for each reason that CPUs interrupt one another for.
fn interrupts(notes: &mut Notes) {
    let text = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let columns = text.lines().next().unwrap_or_default().split_whitespace().count();
    let row = text.lines().find(|line| line.ends_with(" Rescheduling interrupts")).unwrap_or_default();
    let counts = row.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).count();
    let named = text.starts_with("           CPU0 ") && row.starts_with("IPI") && row.as_bytes().get(4) == Some(&b':');
    notes.note("interrupts-have-a-column-for-each-cpu", named && columns == counts);
}

fn written(notes: &mut Notes) {
    let mut found = empty_stat();
    let _ = call(libc::SYS_mkdirat, &[HERE, at(b"/tmp\0"), 0o777]);
    let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_RDWR;
    let file = must(libc::SYS_openat, &[HERE, at(b"/tmp/conform-written\0"), flags as u64, 0o600]);
    must(libc::SYS_lseek, &[file, 100, 0]);
    notes.call("nothing-past-the-end", libc::SYS_write, &[file, at(b"x"), 0]);
    notes.call("fstat", libc::SYS_fstat, &[file, into(&mut found)]);
    notes.note("size", found.st_size);
    let written = call(libc::SYS_pwrite64, &[file, PageEnd::new().before_end(10), 100, 0]).max(0);
    must(libc::SYS_fstat, &[file, into(&mut found)]);
    notes.note("size-is-what-was-written", found.st_size == written);
    notes.call("unlink", libc::SYS_unlinkat, &[HERE, at(b"/tmp/conform-written\0"), 0]);
    must(libc::SYS_mkdirat, &[HERE, at(b"/tmp/conform-removed\0"), 0o700]);
    must(libc::SYS_chdir, &[at(b"/tmp/conform-removed\0")]);
    notes.call("rmdir", libc::SYS_unlinkat, &[HERE, at(b"/tmp/conform-removed\0"), libc::AT_REMOVEDIR as u64]);
    notes.call("mkdir-in-what-was-removed", libc::SYS_mkdirat, &[HERE, at(b"below\0"), 0o700]);
}

/// Whoever appends finds the end of the file, however many do at a time, each through a description of its own.
fn appended(notes: &mut Notes) {
    const WRITERS: u64 = 4;
    const LINES: usize = 500;
    let path = format!("/tmp/appended-{}\0", std::process::id());
    let open = |flags: i32| must(libc::SYS_openat, &[HERE, at(path.as_bytes()), flags as u64, 0o600]);
    open(libc::O_CREAT | libc::O_WRONLY);
    let writers = (0..WRITERS).map(|number| {
        let line = format!("line of writer {number}\n");
        let body = || {
            let file = open(libc::O_APPEND | libc::O_WRONLY);
            for _ in 0..LINES {
                must(libc::SYS_write, &[file, at(line.as_bytes()), line.len() as u64]);
            }
            0
        };
        process::spawn(body).expect("a child")
    });
    for writer in writers.collect::<Vec<_>>() {
        process::wait(writer).expect("the writer");
    }
    let text = std::fs::read_to_string(path.trim_end_matches('\0')).unwrap_or_default();
    let lines_of = |number| text.lines().filter(|line| *line == format!("line of writer {number}")).count();
    notes.note("whole-lines", (0..WRITERS).map(lines_of).sum::<usize>());
    notes.note("bytes", text.len());
    notes.call("removed", libc::SYS_unlinkat, &[HERE, at(path.as_bytes()), 0]);
}
