//! The tree of names: directories, files, symbolic links and devices.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::errno::Errno;
use crate::fs::device::Device;
use crate::fs::proc::Report;
use crate::fs::regular::Memory;
use crate::fs::sys::{self, Attribute};
use crate::sync::SpinLock;

/// The most names in one directory that programs can make.
const MAX_CHILDREN: usize = 1 << 16;
/// The longest name of one file.
pub const NAME_MAX: usize = 255;

/// A file of any type, however many names it has.
pub struct Node {
    /// The inode number.
    pub number: u64,
    /// Permissions and the file type, as in `st_mode`.
    pub mode: u32,
    /// When it was last changed, in seconds since 1970.
    pub modified: u32,
    /// How many names it has.
    links: AtomicU32,
    /// What it is.
    pub content: Content,
}

/// A name and what it stands for.
pub type Named = (Box<[u8]>, Arc<Node>);

/// What a node is.
pub enum Content {
    /// A directory.
    Directory(Directory),
    /// A file of the initramfs: its bytes never move and never change.
    Image(&'static [u8]),
    /// A file that a program made.
    Memory(Memory),
    /// A symbolic link, and where it points.
    Link(Box<[u8]>),
    /// `/proc/self/exe`: a symbolic link to the program that asks.
    Executable,
    /// A device.
    Device(Device),
    /// A file whose text the kernel writes when it is opened.
    Report(Report),
    /// A file of /sys.
    Attribute(Attribute),
}

/// A directory: names and what they stand for.
pub struct Directory {
    /// Whether programs may create and remove names here.
    writable: bool,
    parent: SpinLock<Weak<Node>>,
    children: SpinLock<Children>,
}

/// The names in a directory.
struct Children {
    names: BTreeMap<Box<[u8]>, Arc<Node>>,
    /// It has no name any more and gets no new ones itself: of a chain of such directories, each would be dropped
    /// inside the drop of the one above, which takes a stack as deep as a program likes.
    is_removed: bool,
}

impl Node {
    /// A node of no directory yet. `mode` holds the permissions; the type follows from the content.
    pub fn new(permissions: u32, modified: u32, content: Content) -> Arc<Node> {
        // Relaxed: only the numbers' being different matters.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mode = permissions & 0o7777 | content.file_type();
        Arc::new(Node { number, mode, modified, links: AtomicU32::new(0), content })
    }

    /// An empty directory.
    pub fn directory(permissions: u32, modified: u32, writable: bool) -> Arc<Node> {
        let parent = SpinLock::new(Weak::new());
        let children = SpinLock::new(Children { names: BTreeMap::new(), is_removed: false });
        Node::new(permissions, modified, Content::Directory(Directory { writable, parent, children }))
    }

    /// The directory that this node is.
    pub fn as_directory(&self) -> Result<&Directory, Errno> {
        match &self.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What the name stands for in this directory.
    pub fn child(self: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let directory = self.as_directory()?;
        match name {
            _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
            b"." => Ok(self.clone()),
            // The root's parent is the root.
            b".." => Ok(directory.parent.lock().upgrade().unwrap_or_else(|| self.clone())),
            _ => directory.children.lock().names.get(name).cloned().ok_or(Errno::ENOENT),
        }
    }

    /// Gives `child` a name in this directory, whether or not programs may.
    pub fn attach(self: &Arc<Node>, name: &[u8], child: Arc<Node>) -> Result<(), Errno> {
        let directory = self.as_directory()?;
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut children = directory.children.lock();
        if children.is_removed {
            return Err(Errno::ENOENT);
        }
        if children.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if children.names.len() >= MAX_CHILDREN {
            return Err(Errno::ENOSPC);
        }
        if let Content::Directory(below) = &child.content {
            *below.parent.lock() = Arc::downgrade(self);
        }
        // Relaxed: changed under the directory's lock, read for `stat` only.
        child.links.fetch_add(1, Ordering::Relaxed);
        children.names.insert(name.into(), child);
        Ok(())
    }

    /// Gives `child` the name, in place of what had it.
    pub fn replace(self: &Arc<Node>, name: &[u8], child: Arc<Node>) {
        if let Ok(directory) = self.as_directory() {
            directory.children.lock().names.remove(name);
        }
        // It fails only if this is no directory or is full: then there is nothing to give.
        let _ = self.attach(name, child);
    }

    /// Takes a name away, as `unlink` (or `rmdir`, when `directory`) does.
    pub fn detach(self: &Arc<Node>, name: &[u8], directory: bool) -> Result<(), Errno> {
        let parent = self.writable_directory()?;
        let mut children = parent.children.lock();
        let child = children.names.get(name).ok_or(Errno::ENOENT)?;
        match (&child.content, directory) {
            (Content::Directory(below), true) => {
                let mut below = below.children.lock();
                if !below.names.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                below.is_removed = true;
            }
            (Content::Directory(_), false) => return Err(Errno::EISDIR),
            (_, false) => {}
            (_, true) => return Err(Errno::ENOTDIR),
        }
        // Relaxed: as in `attach`.
        child.links.fetch_sub(1, Ordering::Relaxed);
        children.names.remove(name);
        Ok(())
    }

    /// The directory that this node is, if programs may change it.
    pub fn writable_directory(&self) -> Result<&Directory, Errno> {
        let directory = self.as_directory()?;
        if directory.writable { Ok(directory) } else { Err(Errno::EROFS) }
    }

    /// The name that this directory's parent has for `child`.
    pub fn name_of(&self, child: &Arc<Node>) -> Option<Box<[u8]>> {
        let children = self.as_directory().ok()?.children.lock();
        children.names.iter().find(|(_, node)| Arc::ptr_eq(node, child)).map(|(name, _)| name.clone())
    }

    /// The `index`th entry of this directory, counting `.` and `..` first.
    pub fn entry(self: &Arc<Node>, index: usize) -> Result<Option<Named>, Errno> {
        Ok(match index {
            0 => Some((b".".as_slice().into(), self.clone())),
            1 => Some((b"..".as_slice().into(), self.child(b"..")?)),
            _ => {
                let children = self.as_directory()?.children.lock();
                children.names.iter().nth(index - 2).map(|(name, node)| (name.clone(), node.clone()))
            }
        })
    }

    /// How many bytes it holds.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Image(bytes) => bytes.len() as u64,
            Content::Memory(memory) => memory.size(),
            Content::Link(target) => target.len() as u64,
            Content::Directory(_) | Content::Executable | Content::Device(_) | Content::Report(_) => 0,
            Content::Attribute(_) => sys::SIZE,
        }
    }

    /// What `stat` says about it.
    pub fn stat(&self) -> linux::stat {
        let size = self.size();
        let device = if let Content::Device(device) = &self.content { device.number() } else { 0 };
        // Relaxed: a number for people.
        let names = self.links.load(Ordering::Relaxed);
        let links = if let Content::Directory(_) = self.content { names + 1 } else { names };
        status(self.number, self.mode, links, device, size, self.modified)
    }

    /// The type as `getdents64` numbers it.
    pub fn entry_type(&self) -> u8 {
        (self.mode >> 12) as u8
    }
}

/// A `stat` structure. All files belong to root.
pub fn status(number: u64, mode: u32, links: u32, device: u64, size: u64, modified: u32) -> linux::stat {
    let time = i64::from(modified);
    linux::stat {
        st_dev: 1,
        st_ino: number,
        st_mode: mode,
        st_nlink: links,
        st_uid: 0,
        st_gid: 0,
        st_rdev: device,
        __pad1: 0,
        st_size: size as i64,
        st_blksize: 4096,
        __pad2: 0,
        st_blocks: size.div_ceil(512) as i64,
        st_atime: time,
        st_atime_nsec: 0,
        st_mtime: time,
        st_mtime_nsec: 0,
        st_ctime: time,
        st_ctime_nsec: 0,
        __unused4: 0,
        __unused5: 0,
    }
}

impl Content {
    fn file_type(&self) -> u32 {
        match self {
            Content::Directory(_) => linux::S_IFDIR,
            Content::Image(_) | Content::Memory(_) | Content::Report(_) | Content::Attribute(_) => linux::S_IFREG,
            Content::Link(_) | Content::Executable => linux::S_IFLNK,
            Content::Device(_) => linux::S_IFCHR,
        }
    }
}
