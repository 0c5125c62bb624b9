//! Makes the root directory from an initramfs, and puts /dev, /proc, /sys and /tmp into it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use formats::cpio::{self, CpioError, Entry};
use linux_raw_sys::general as linux;

use mm::{Machine, PAGE_SIZE};

use crate::arch::boot::{BootInfo, Bundle};
use crate::arch::mmu;
use crate::errno::Errno;
use crate::fs::device::Device;
use crate::fs::node::{Content, Node};
use crate::fs::path::{self, Start};
use crate::fs::proc::Report;
use crate::fs::sys;
use crate::machine::Kernel;
use crate::start::refuse;
use crate::{memory, platform};

/// Files of several names by identity: the contents stand at one of the names, often the last.
type Links = BTreeMap<(u32, u32, u32), (&'static [u8], Option<Arc<Node>>)>;

/// The archives that this boot brought: in the image itself, or else what the loader put beside it.
pub fn archive(boot: &BootInfo) -> &'static [u8] {
    let loaded = || {
        let initrd = platform::get().initrd?;
        if !memory::has(&(initrd.base..initrd.end())) {
            refuse("the archive given by -initrd lies outside of the RAM; give the machine more");
        }
        // SAFETY: RAM, which `memory` keeps out of what it gives away: nobody writes there.
        Some(unsafe { mmu::ram(initrd.base..initrd.end()) })
    };
    boot.bundle.as_ref().map(Bundle::archive).or_else(loaded).unwrap_or_else(|| {
        refuse("no initramfs, so no program to run; give one with -initrd, or an image that holds one")
    })
}

/// Reads the archives and makes them the root file system.
pub fn mount(archive: &'static [u8]) -> Result<(), CpioError> {
    if archive.is_empty() {
        return Err(CpioError::Empty);
    }
    let root = Node::directory(0o755, 0, false);
    let mut links = Links::new();
    for entry in cpio::entries(archive) {
        let entry = entry?;
        if entry.links > 1 && !entry.data.is_empty() {
            links.insert(entry.identity, (entry.data, None));
        }
    }
    keep_frames(archive);
    path::set_root(root.clone());
    let start = Start { directory: root, executable: None };
    for entry in cpio::entries(archive) {
        add(&start, &entry?, &mut links);
    }
    add_own_files(&start.directory);
    Ok(())
}

/// Lets page tables name the frames that the archive fills: programs run from where they lie. What shares a frame with
/// something else is copied.
fn keep_frames(archive: &'static [u8]) {
    let start = mmu::virt_to_phys(archive.as_ptr().addr() as u64);
    let end = start + archive.len() as u64;
    Kernel::system().frames.keep(start.div_ceil(PAGE_SIZE) as usize..(end / PAGE_SIZE) as usize);
}

/// Adds one member. As in Linux, a member that does not fit (its directory is missing, its type
/// unknown) is left out, and a later file replaces an earlier one.
fn add(root: &Start, entry: &Entry<'static>, links: &mut Links) {
    let name = entry.name.strip_prefix(b"./").unwrap_or(entry.name);
    let Ok(place) = path::place(root, name) else { return };
    if place.name == b"." {
        return;
    }
    let node = match entry.mode & linux::S_IFMT {
        linux::S_IFDIR => Node::directory(entry.mode, entry.modified, false),
        linux::S_IFREG => regular(entry, links),
        linux::S_IFLNK => Node::new(0o777, entry.modified, Content::Link(entry.data.into())),
        _ => return,
    };
    let is_directory = node.as_directory().is_ok();
    if place.parent.attach(&place.name, node.clone()) == Err(Errno::EEXIST) && !is_directory {
        place.parent.replace(&place.name, node);
    }
}

fn regular(entry: &Entry<'static>, links: &mut Links) -> Arc<Node> {
    let make = |data| Node::new(entry.mode, entry.modified, Content::Image(data));
    match links.get_mut(&entry.identity) {
        Some((data, node)) if entry.links > 1 => node.get_or_insert_with(|| make(data)).clone(),
        _ => make(entry.data),
    }
}

/// What every root has, whatever the archive brought.
fn add_own_files(root: &Arc<Node>) {
    let own = |name: &[u8], permissions, writable| {
        let fresh = Node::directory(permissions, 0, writable);
        if root.attach(name, fresh.clone()).is_err() {
            root.replace(name, fresh.clone());
        }
        fresh
    };
    own(b"tmp", 0o1777, true);
    let dev = own(b"dev", 0o755, false);
    for device in Device::ALL {
        let node = Node::new(device.permissions(), 0, Content::Device(device));
        let _ = dev.attach(device.name(), node);
    }
    sys::populate(&own(b"sys", 0o555, false));
    let proc = own(b"proc", 0o555, false);
    let this = Node::directory(0o555, 0, false);
    let _ = proc.attach(b"self", this.clone());
    let _ = this.attach(b"exe", Node::new(0o777, 0, Content::Executable));
    for report in Report::ALL {
        let (directory, name) = match report.name().strip_prefix(b"self/") {
            Some(name) => (&this, name),
            None => (&proc, report.name()),
        };
        let node = Node::new(report.permissions(), 0, Content::Report(report));
        let _ = directory.attach(name, node);
    }
}
