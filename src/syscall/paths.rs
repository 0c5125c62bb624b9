//! System calls on names of files.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::Call;
use super::files::{descriptors, file};
use crate::errno::Errno;
use crate::fs;
use crate::fs::node::{Content, Node};
use crate::fs::path::{self, Last, PATH_MAX, Place, Start};
use crate::fs::regular::Memory;
use crate::heap;
use crate::process::thread;
use crate::user_memory;

/// "The current directory", in place of a descriptor.
const AT_FDCWD: u32 = linux::AT_FDCWD as u32;

/// Reads a path.
pub(super) fn read_path(address: u64) -> Result<Vec<u8>, Errno> {
    user_memory::read_string(address, PATH_MAX, Errno::ENAMETOOLONG)
}

/// Where relative paths start for a call whose first argument says so.
fn start(call: &Call<'_>, path: &[u8]) -> Result<Start, Errno> {
    let mut start = thread::current().process.start();
    if call.arg32(0) != AT_FDCWD && !path.starts_with(b"/") {
        let directory = file(call, 0)?.file().node().cloned().ok_or(Errno::ENOTDIR)?;
        directory.as_directory()?;
        start.directory = directory;
    }
    Ok(start)
}

/// What the path of a call names.
fn lookup(call: &Call<'_>, path: &[u8], last: Last) -> Result<Arc<Node>, Errno> {
    path::lookup(&start(call, path)?, path, last)
}

fn last(flags: u32, keep: u32) -> Last {
    if flags & keep != 0 { Last::Keep } else { Last::Follow }
}

pub(super) fn openat(call: Call<'_>) -> Result<usize, Errno> {
    let path = read_path(call.arg(1))?;
    let flags = call.arg32(2);
    let creates = flags & linux::O_CREAT != 0;
    let start = start(&call, &path)?;
    let node = match path::lookup(&start, &path, last(flags, linux::O_NOFOLLOW)) {
        Ok(_) if creates && flags & linux::O_EXCL != 0 => return Err(Errno::EEXIST),
        Ok(node) if creates && node.as_directory().is_ok() => return Err(Errno::EISDIR),
        Err(Errno::ENOENT) if creates => create(&start, &path, call.arg32(3))?,
        found => found?,
    };
    if flags & linux::O_DIRECTORY != 0 {
        node.as_directory()?;
    }
    descriptors().add(fs::file::open(&node, flags)?, 0, flags & linux::O_CLOEXEC != 0)
}

fn create(start: &Start, path: &[u8], permissions: u32) -> Result<Arc<Node>, Errno> {
    if path.ends_with(b"/") {
        return Err(Errno::EISDIR);
    }
    let Place { parent, name } = path::place(start, path)?;
    parent.writable_directory()?;
    heap::admit().map_err(|_| Errno::ENOSPC)?;
    let umask = thread::current().process.umask();
    let node = Node::new(permissions & !umask, 0, Content::Memory(Memory::new()));
    match parent.attach(&name, node.clone()) {
        Ok(()) => Ok(node),
        // Somebody else was faster, or the name is a link that leads nowhere.
        Err(Errno::EEXIST) => parent.child(&name),
        Err(error) => Err(error),
    }
}

pub(super) fn newfstatat(call: Call<'_>) -> Result<usize, Errno> {
    let flags = call.arg32(3);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH | linux::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(call.arg(1))?;
    let status = if !path.is_empty() || flags & linux::AT_EMPTY_PATH == 0 {
        lookup(&call, &path, last(flags, linux::AT_SYMLINK_NOFOLLOW))?.stat()
    } else if call.arg32(0) == AT_FDCWD {
        thread::current().process.start().directory.stat()
    } else {
        file(&call, 0)?.file().stat()
    };
    user_memory::write(call.arg(2), &status)?;
    Ok(0)
}

pub(super) fn fstat(call: Call<'_>) -> Result<usize, Errno> {
    let status = file(&call, 0)?.file().stat();
    user_memory::write(call.arg(1), &status)?;
    Ok(0)
}

pub(super) fn readlinkat(call: Call<'_>) -> Result<usize, Errno> {
    let room = call.arg32(3) as i32;
    if room <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(call.arg(1))?;
    let node = lookup(&call, &path, Last::Keep)?;
    let program = thread::current().process.program();
    let target = match &node.content {
        Content::Link(target) => target,
        Content::Executable => &*program,
        _ => return Err(Errno::EINVAL),
    };
    let length = target.len().min(room as usize);
    user_memory::write_bytes(call.arg(2), &target[..length])?;
    Ok(length)
}

pub(super) fn faccessat(call: Call<'_>) -> Result<usize, Errno> {
    access(&call, Last::Follow)
}

pub(super) fn faccessat2(call: Call<'_>) -> Result<usize, Errno> {
    let flags = call.arg32(3);
    if flags & !(linux::AT_EACCESS | linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    access(&call, last(flags, linux::AT_SYMLINK_NOFOLLOW))
}

/// `access` knows four modes: exists, and any of readable, writable, executable.
const WRITABLE: u32 = 2;
const EXECUTABLE: u32 = 1;

/// Root may read everything, write everything that can be written at all, and execute what anybody
/// may.
fn access(call: &Call<'_>, last: Last) -> Result<usize, Errno> {
    let mode = call.arg32(2);
    if mode > 7 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(call.arg(1))?;
    let node = lookup(call, &path, last)?;
    let read_only = match &node.content {
        Content::Image(_) => true,
        Content::Directory(_) => node.writable_directory().is_err(),
        _ => false,
    };
    match () {
        () if mode & WRITABLE != 0 && read_only => Err(Errno::EROFS),
        () if mode & EXECUTABLE != 0 && node.mode & 0o111 == 0 => Err(Errno::EACCES),
        () => Ok(0),
    }
}

pub(super) fn unlinkat(call: Call<'_>) -> Result<usize, Errno> {
    let flags = call.arg32(2);
    if flags & !linux::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(call.arg(1))?;
    let Place { parent, name } = path::place(&start(&call, &path)?, &path)?;
    parent.detach(&name, flags & linux::AT_REMOVEDIR != 0)?;
    Ok(0)
}

pub(super) fn mkdirat(call: Call<'_>) -> Result<usize, Errno> {
    let path = read_path(call.arg(1))?;
    let Place { parent, name } = path::place(&start(&call, &path)?, &path)?;
    if parent.child(&name).is_ok() {
        return Err(Errno::EEXIST);
    }
    parent.writable_directory()?;
    heap::admit().map_err(|_| Errno::ENOSPC)?;
    let umask = thread::current().process.umask();
    parent.attach(&name, Node::directory(call.arg32(2) & !umask, 0, true))?;
    Ok(0)
}

pub(super) fn getcwd(call: Call<'_>) -> Result<usize, Errno> {
    let mut path = path::absolute(&thread::current().process.start().directory)?;
    path.push(0);
    if path.len() as u64 > call.arg(1) {
        return Err(Errno::ERANGE);
    }
    user_memory::write_bytes(call.arg(0), &path)?;
    Ok(path.len())
}

pub(super) fn chdir(call: Call<'_>) -> Result<usize, Errno> {
    let path = read_path(call.arg(0))?;
    let process = &thread::current().process;
    let node = path::lookup(&process.start(), &path, Last::Follow)?;
    node.as_directory()?;
    process.change_directory(node);
    Ok(0)
}

pub(super) fn fchdir(call: Call<'_>) -> Result<usize, Errno> {
    let node = file(&call, 0)?.file().node().cloned().ok_or(Errno::ENOTDIR)?;
    node.as_directory()?;
    thread::current().process.change_directory(node);
    Ok(0)
}

pub(super) fn umask(call: Call<'_>) -> Result<usize, Errno> {
    Ok(thread::current().process.set_umask(call.arg32(0)) as usize)
}
