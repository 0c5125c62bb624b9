//! /sys/devices/system/cpu: which CPUs there are, and a file for each that takes it down or brings it up.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use linux_raw_sys::general as linux;

use mm::{CpuId, CpuSet, PAGE_SIZE};

use crate::errno::Errno;
use crate::fs::file::{File, Waiting};
use crate::fs::node::{Content, Node};
use crate::fs::proc::{Text, Writer};
use crate::hotplug::{self, Refused};
use crate::user_memory::UserBuffer;
use crate::{heap, ipi, percpu};

/// How long `stat` says that each of these files is, as in Linux.
pub const SIZE: u64 = PAGE_SIZE;

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// The CPUs that run.
    Online,
    /// The CPUs that the machine has: those of the device tree.
    Present,
    /// The CPUs that it can ever have: the same.
    Possible,
    /// Whether this CPU runs. Write 0 to take it down, 1 to bring it up.
    CpuOnline(usize),
}

/// Puts what programs look for below /sys.
pub fn populate(sys: &Arc<Node>) {
    let cpus = ["devices", "system", "cpu"].iter().fold(sys.clone(), |parent, name| directory(&parent, name));
    for (name, attribute) in
        [("online", Attribute::Online), ("present", Attribute::Present), ("possible", Attribute::Possible)]
    {
        attribute.attach(&cpus, name);
    }
    for cpu in 0..percpu::count() {
        Attribute::CpuOnline(cpu).attach(&directory(&cpus, &format!("cpu{cpu}")), "online");
    }
}

fn directory(parent: &Arc<Node>, name: &str) -> Arc<Node> {
    let directory = Node::directory(0o755, 0, false);
    // Each name is new in its parent.
    let _ = parent.attach(name.as_bytes(), directory.clone());
    directory
}

impl Attribute {
    fn attach(self, parent: &Arc<Node>, name: &str) {
        let permissions = if let Attribute::CpuOnline(_) = self { 0o644 } else { 0o444 };
        // As in `directory`.
        let _ = parent.attach(name.as_bytes(), Node::new(permissions, 0, Content::Attribute(self)));
    }

    /// Opens it, for reading: what it says is what was true now. For writing, if there is something to write.
    pub fn open(self, node: &Arc<Node>, writes: bool) -> Result<Box<dyn File>, Errno> {
        let node = node.clone();
        match self {
            Attribute::CpuOnline(cpu) if writes => Ok(Box::new(Switch { node, cpu })),
            // Nobody may write to it, root included.
            _ if writes => Err(Errno::EACCES),
            _ => {
                let mut text = Writer(Vec::new());
                self.write_to(&mut text).map_err(|fmt::Error| Errno::ENOMEM)?;
                Ok(Box::new(Text { node, text: text.0 }))
            }
        }
    }

    fn write_to(self, text: &mut Writer) -> fmt::Result {
        match self {
            Attribute::Online => list(text, &ipi::online()),
            Attribute::Present | Attribute::Possible => list(text, &CpuSet::first(percpu::count())),
            Attribute::CpuOnline(cpu) => writeln!(text, "{}", u8::from(hotplug::is_online(cpu))),
        }
    }
}

/// A set of CPUs as Linux prints it: `0-2,4`.
fn list(text: &mut Writer, set: &CpuSet) -> fmt::Result {
    let has = |cpu: usize| set.contains(CpuId(cpu as u16));
    let mut comma = "";
    let starts = (0..percpu::count()).filter(|&cpu| has(cpu) && (cpu == 0 || !has(cpu - 1)));
    for first in starts {
        let last = (first..percpu::count()).take_while(|&cpu| has(cpu)).last().unwrap_or(first);
        write!(text, "{comma}{first}")?;
        if last > first {
            write!(text, "-{last}")?;
        }
        comma = ",";
    }
    writeln!(text)
}

/// `cpuN/online`, open for writing. One cannot seek in it: a write waits until the CPU is down or up.
struct Switch {
    node: Arc<Node>,
    cpu: usize,
}

impl File for Switch {
    fn write(&self, _: u64, from: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        let mut text = [0; 2];
        let total = from.remaining();
        let length = from.take(&mut text)?;
        let online = truth(&text[..length]).ok_or(Errno::EINVAL)?;
        from.skip_all();
        heap::admit()?;
        hotplug::set_online(self.cpu, online).map_err(|refused| match refused {
            Refused::NoSuchCpu => Errno::ENODEV,
            Refused::BootCpu => Errno::EPERM,
            Refused::OutOfMemory => Errno::ENOMEM,
            Refused::Failed(_) => Errno::EIO,
        })?;
        Ok(total)
    }

    fn stat(&self) -> linux::stat {
        self.node.stat()
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.node)
    }
}

/// What Linux takes for yes or no (`kstrtobool`): the first letters decide.
fn truth(text: &[u8]) -> Option<bool> {
    match text {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
    }
}
