//! Walks paths.

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::once::Once;

use crate::errno::Errno;
use crate::fs::node::{Content, NAME_MAX, Node};
use crate::heap;
use crate::sync::Relax;

/// The most symbolic links that one walk follows, as in Linux.
const MAX_LINKS: usize = 40;
/// The longest path, with its terminating zero.
pub const PATH_MAX: usize = 4096;

static ROOT: Once<Arc<Node>, Relax> = Once::new();

/// The root directory.
///
/// # Panics
/// Before [`set_root`].
pub fn root() -> &'static Arc<Node> {
    ROOT.get().expect("the root file system is not there yet")
}

/// Makes `root` the root directory, once, at boot.
pub fn set_root(root: Arc<Node>) {
    ROOT.call_once(|| root);
}

/// Whether a walk follows a symbolic link in the last place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It does.
    Follow,
    /// It stops at the link itself.
    Keep,
}

/// Where a walk starts, and who walks.
#[derive(Clone)]
pub struct Start {
    /// Where a path without a leading slash starts.
    pub directory: Arc<Node>,
    /// What `/proc/self/exe` points to.
    pub executable: Option<Arc<Node>>,
}

/// A directory and a name in it, which may not exist.
pub struct Place {
    /// The directory.
    pub parent: Arc<Node>,
    /// The name; `.` when the path names a directory by a trailing slash or is `/`.
    pub name: Vec<u8>,
}

/// What the path stands for.
pub fn lookup(start: &Start, path: &[u8], last: Last) -> Result<Arc<Node>, Errno> {
    let mut walk = Walk { executable: start.executable.as_ref(), links: 0 };
    walk.follow(&start.directory, path, last)
}

/// Where the path's last name would stand: for calls that create or remove it.
pub fn place(start: &Start, path: &[u8]) -> Result<Place, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let trimmed = trim_slashes(path);
    let (above, name) = match trimmed.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&trimmed[..=slash], &trimmed[slash + 1..]),
        None => (&trimmed[..0], trimmed),
    };
    let parent = match (above.is_empty(), path[0]) {
        (false, _) => lookup(start, above, Last::Follow)?,
        (true, b'/') => root().clone(),
        (true, _) => start.directory.clone(),
    };
    parent.as_directory()?;
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let name = if name.is_empty() { b"." } else { name };
    Ok(Place { parent, name: name.to_vec() })
}

/// The absolute path of a directory.
pub fn absolute(directory: &Arc<Node>) -> Result<Vec<u8>, Errno> {
    let mut path = Vec::new();
    heap::reserve(&mut path, PATH_MAX)?;
    let mut at = directory.clone();
    loop {
        let parent = at.child(b"..")?;
        if Arc::ptr_eq(&parent, &at) {
            break;
        }
        // Removed meanwhile: it has no path any more.
        let name = parent.name_of(&at).ok_or(Errno::ENOENT)?;
        if path.len() + name.len() + 2 > PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        path.splice(0..0, core::iter::once(b'/').chain(name));
        at = parent;
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(path)
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    &path[..end]
}

/// One walk, through however many symbolic links.
struct Walk<'a> {
    executable: Option<&'a Arc<Node>>,
    links: usize,
}

impl Walk<'_> {
    fn follow(&mut self, from: &Arc<Node>, path: &[u8], last: Last) -> Result<Arc<Node>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut at = if path[0] == b'/' { root().clone() } else { from.clone() };
        let must_be_directory = path.ends_with(b"/");
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let next = at.child(name)?;
            let is_last = names.peek().is_none();
            let through = !is_last || last == Last::Follow || must_be_directory;
            at = if through { self.through(&at, next)? } else { next };
        }
        if must_be_directory {
            at.as_directory()?;
        }
        Ok(at)
    }

    /// What stands behind `node`, which has a name in `directory`, if it is a symbolic link.
    fn through(&mut self, directory: &Arc<Node>, node: Arc<Node>) -> Result<Arc<Node>, Errno> {
        let target = match &node.content {
            Content::Link(target) => target,
            Content::Executable => return self.executable.cloned().ok_or(Errno::ENOENT),
            _ => return Ok(node),
        };
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        self.follow(directory, target, Last::Follow)
    }
}
