//! Who and where am I: ids, uname, random bytes, limits, and calls that do not exist.

use super::{
    Case, Notes,
    notes::{CLOSED, KERNEL, PageEnd, UNMAPPED, call, into, must},
};
use crate::sys::process;

pub(super) const CASES: &[Case] =
    &[("ids", ids), ("uname", uname), ("getrandom", getrandom), ("limits", limits), ("unknown", unknown)];

fn ids(notes: &mut Notes) {
    let pid = must(libc::SYS_getpid, &[]);
    notes.note("gettid-of-first-thread-is-getpid", must(libc::SYS_gettid, &[]) == pid);
    notes.call("getuid", libc::SYS_getuid, &[]);
    notes.call("geteuid", libc::SYS_geteuid, &[]);
    notes.call("getgid", libc::SYS_getgid, &[]);
    notes.call("getegid", libc::SYS_getegid, &[]);
    notes.note("set_tid_address-is-gettid", must(libc::SYS_set_tid_address, &[0]) == pid);
    let child = process::spawn(|| i32::from(must(libc::SYS_getppid, &[]) == pid)).expect("a child");
    notes.note("getppid-in-child", format!("{:?}", process::wait(child).expect("the child").1));
    notes.note("setpgid-0-0", call(libc::SYS_setpgid, &[0, 0]));
    notes.note("getpgid-is-own-pid", must(libc::SYS_getpgid, &[0]) == pid);
    notes.call("setpgid-negative", libc::SYS_setpgid, &[0, -1i64 as u64]);
    notes.call("setpgid-of-stranger", libc::SYS_setpgid, &[0x3f_ffff, 0]);
    notes.call("getpgid-of-nobody", libc::SYS_getpgid, &[0x3f_ffff]);
}

fn uname(notes: &mut Notes) {
    let mut fields = [[0u8; 65]; 6];
    notes.call("call", libc::SYS_uname, &[into(&mut fields)]);
    let machine = String::from_utf8_lossy(&fields[4]);
    notes.note("machine", machine.trim_end_matches('\0'));
    notes.note("names-a-system", fields[0][0] != 0);
    notes.call("kernel-pointer", libc::SYS_uname, &[KERNEL]);
    notes.call("null", libc::SYS_uname, &[0]);
    notes.call("across-page-end", libc::SYS_uname, &[PageEnd::new().before_end(100)]);
}

fn getrandom(notes: &mut Notes) {
    let (mut first, mut second) = ([0u8; 32], [0u8; 32]);
    notes.call("32-bytes", libc::SYS_getrandom, &[into(&mut first), 32, 0]);
    notes.call("nonblocking", libc::SYS_getrandom, &[into(&mut second), 32, libc::GRND_NONBLOCK.into()]);
    notes.note("differs", first != second);
    notes.call("no-bytes", libc::SYS_getrandom, &[into(&mut first), 0, 0]);
    notes.call("bad-flags", libc::SYS_getrandom, &[into(&mut first), 32, 0x100]);
    notes.call("kernel-pointer", libc::SYS_getrandom, &[KERNEL, 32, 0]);
    notes.call("unmapped", libc::SYS_getrandom, &[UNMAPPED, 32, 0]);
}

fn limits(notes: &mut Notes) {
    let mut limit = [0u64; 2];
    let files = u64::from(libc::RLIMIT_NOFILE as u32);
    notes.call("nofile", libc::SYS_prlimit64, &[0, files, 0, into(&mut limit)]);
    notes.note("nofile-leaves-room", limit[0] >= 256 && limit[0] <= limit[1]);
    let stack = u64::from(libc::RLIMIT_STACK as u32);
    notes.call("stack", libc::SYS_prlimit64, &[0, stack, 0, into(&mut limit)]);
    notes.note("stack-is-8-mib", limit[0] == 8 << 20);
    notes.call("bad-resource", libc::SYS_prlimit64, &[0, 99, 0, into(&mut limit)]);
    notes.call("nobody", libc::SYS_prlimit64, &[0x3f_ffff, stack, 0, into(&mut limit)]);
    notes.call("kernel-pointer", libc::SYS_prlimit64, &[0, stack, 0, KERNEL]);
    notes.call("new-from-kernel-pointer", libc::SYS_prlimit64, &[0, stack, KERNEL, 0]);
}

fn unknown(notes: &mut Notes) {
    for number in [1000, 0x7fff_ffff, -1] {
        notes.call(&format!("number-{number}"), number, &[CLOSED, KERNEL]);
    }
}
