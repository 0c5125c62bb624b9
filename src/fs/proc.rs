//! /proc: files whose text the kernel writes when they are opened.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use aarch64_cpu::registers::{MIDR_EL1, Readable};
use linux_raw_sys::general as linux;

use mm::region::{Attributes, Backing, Sharing};
use mm::{Counter, Machine, PAGE_SIZE};

use crate::arch::{pmu, stack};
use crate::drivers::{gic, interrupt};
use crate::errno::Errno;
use crate::fs::borrow;
use crate::fs::file::{File, Waiting};
use crate::fs::node::Node;
use crate::fs::trace::Trace;
use crate::ipi::Reason;
use crate::machine::Kernel;
use crate::user_memory::UserBuffer;
use crate::{cpu_features, heap, ipi, percpu, sched};

/// The most times that one write makes a kernel thread borrow the writer's `Mm`.
const MAX_BORROWS: u64 = 1_000_000;

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The counters of the mm layer.
    LazyTlb,
    /// Write a number: so often does a kernel thread borrow the writer's `Mm`.
    Borrow,
    /// The processors, in Linux's words.
    CpuInfo,
    /// How much memory there is.
    MemInfo,
    /// The regions of the address space of who opens it.
    Maps,
    /// How often each CPU was interrupted, and for what.
    Interrupts,
    /// What the CPUs recorded.
    Trace,
}

impl Report {
    /// All files.
    pub const ALL: [Report; 7] = [
        Report::LazyTlb,
        Report::Borrow,
        Report::CpuInfo,
        Report::MemInfo,
        Report::Maps,
        Report::Interrupts,
        Report::Trace,
    ];

    /// Its path below /proc.
    pub fn name(self) -> &'static [u8] {
        match self {
            Report::LazyTlb => b"lazy_tlb",
            Report::Borrow => b"lazy_tlb_borrow",
            Report::CpuInfo => b"cpuinfo",
            Report::MemInfo => b"meminfo",
            Report::Maps => b"self/maps",
            Report::Interrupts => b"interrupts",
            Report::Trace => b"trace",
        }
    }

    /// Its permissions.
    pub fn permissions(self) -> u32 {
        if self == Report::Borrow { 0o222 } else { 0o444 }
    }

    /// What it says now; fails only if there is no memory for that.
    fn text(self) -> Result<Vec<u8>, Errno> {
        let mut text = Writer(Vec::new());
        let written = match self {
            Report::LazyTlb => lazy_tlb(&mut text),
            // Not texts of this kind; see `open`.
            Report::Borrow | Report::Trace => Ok(()),
            Report::CpuInfo => cpuinfo(&mut text),
            Report::MemInfo => meminfo(&mut text),
            Report::Maps => maps(&mut text),
            Report::Interrupts => interrupts(&mut text),
        };
        written.map(|()| text.0).map_err(|fmt::Error| Errno::ENOMEM)
    }
}

/// Opens a report: what it says is what was true now.
pub fn open(report: Report, node: &Arc<Node>) -> Result<Box<dyn File>, Errno> {
    let node = node.clone();
    Ok(match report {
        Report::Borrow => Box::new(Borrow(node)),
        Report::Trace => Box::new(Trace::open(node)?),
        _ => Box::new(Text { node, text: report.text()? }),
    })
}

/// Text that grows as long as there is memory.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        heap::reserve(&mut self.0, text.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

pub(super) struct Text {
    pub(super) node: Arc<Node>,
    pub(super) text: Vec<u8>,
}

impl File for Text {
    fn read(&self, position: u64, to: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.text.len());
        to.put(&self.text[start..])
    }

    fn stat(&self) -> linux::stat {
        self.node.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some(self.text.len() as u64)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.node)
    }
}

fn lazy_tlb(text: &mut Writer) -> fmt::Result {
    let system = Kernel::system();
    writeln!(text, "scheme: {}", system.config.scheme.name())?;
    writeln!(text, "debug: {}", if system.config.check { "on" } else { "off" })?;
    writeln!(text, "options: {}", system.config)?;
    writeln!(text, "cycle_counter: {}", if pmu::has_cycle_counter() { "pmccntr_el0" } else { "none" })?;
    for &counter in Counter::ALL {
        per_cpu(text, counter.label(), |cpu| system.cpus()[cpu].counters.get(counter))?;
    }
    for reason in Reason::ALL {
        per_cpu(text, reason.label(), |cpu| percpu::of(cpu).ipi.sent(reason))?;
    }
    per_cpu(text, "ipi_resent", |cpu| percpu::of(cpu).ipi.resent())?;
    writeln!(text, "dead_now {}", system.dead.now())?;
    writeln!(text, "dead_max {}", system.dead.max())?;
    let (waiting, most, limit) = system.waiting();
    writeln!(text, "waiting_now {waiting}\nwaiting_max {most}\nwaiting_limit {limit}")?;
    // Idle kernel stacks count as free, or the number would depend on how many threads there ever were at once.
    writeln!(text, "free_frames_now {}", system.frames.free() + stack::idle_frames())
}

/// A counter's name, its total, and its value on each CPU.
fn per_cpu(text: &mut Writer, label: &str, value: impl Fn(usize) -> u64) -> fmt::Result {
    write!(text, "{label} {}", (0..percpu::count()).map(&value).sum::<u64>())?;
    (0..percpu::count()).try_for_each(|cpu| write!(text, " {}", value(cpu)))?;
    writeln!(text)
}

/// This CPU's identity under each CPU's number: the boards here have CPUs of one kind.
fn cpuinfo(text: &mut Writer) -> fmt::Result {
    let midr = MIDR_EL1.get();
    for cpu in ipi::online().iter() {
        writeln!(text, "processor\t: {}", cpu.index())?;
        write!(text, "Features\t:")?;
        cpu_features::names().try_for_each(|name| write!(text, " {name}"))?;
        writeln!(text, "\nCPU implementer\t: {:#04x}", midr >> 24 & 0xff)?;
        writeln!(text, "CPU architecture: 8")?;
        writeln!(text, "CPU variant\t: {:#x}", midr >> 20 & 0xf)?;
        writeln!(text, "CPU part\t: {:#05x}", midr >> 4 & 0xfff)?;
        writeln!(text, "CPU revision\t: {}\n", midr & 0xf)?;
    }
    Ok(())
}

/// The bytes of memory for programs: all, and free.
pub fn memory_bytes() -> (u64, u64) {
    let frames = &Kernel::system().frames;
    (frames.total() as u64 * PAGE_SIZE, frames.free() as u64 * PAGE_SIZE)
}

fn meminfo(text: &mut Writer) -> fmt::Result {
    let (total, free) = memory_bytes();
    for (name, bytes) in [("MemTotal", total), ("MemFree", free), ("MemAvailable", free)] {
        writeln!(text, "{name}:\t{:>12} kB", bytes >> 10)?;
    }
    Ok(())
}

fn maps(text: &mut Writer) -> fmt::Result {
    let Some(mm) = sched::current_mm() else { return Ok(()) };
    // Copied, because text takes memory and time, and the lock keeps others from their faults.
    let regions = mm.space().regions().duplicate().map_err(|_| fmt::Error)?;
    for region in regions.iter() {
        let Attributes { protection, sharing, backing, name } = region.attributes;
        let (start, end) = (region.pages.start.address(), region.pages.end.address());
        let right = |allowed, letter| if allowed { letter } else { '-' };
        let offset = if let Backing::Image { offset, .. } = backing { offset } else { 0 };
        write!(
            text,
            "{start:08x}-{end:08x} {}{}{}{} {offset:08x} 00:00 0",
            right(protection.read, 'r'),
            right(protection.write, 'w'),
            right(protection.execute, 'x'),
            if sharing == Sharing::Shared { 's' } else { 'p' },
        )?;
        if !name.is_empty() {
            write!(text, "{:>22}{name}", "")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// In Linux's shape: a column for each CPU that is online, a row for each interrupt of a device, then one for
/// each reason of an IPI, counted by the CPU that was asked (`ipi::received`).
fn interrupts(text: &mut Writer) -> fmt::Result {
    let online = ipi::online();
    write!(text, "{:11}", "")?;
    online.iter().try_for_each(|cpu| write!(text, "CPU{:<8}", cpu.index()))?;
    writeln!(text)?;
    let mut row = |label: fmt::Arguments<'_>, count: &dyn Fn(usize) -> u64, what: fmt::Arguments<'_>| {
        write!(text, "{label}")?;
        online.iter().try_for_each(|cpu| write!(text, "{:>10} ", count(cpu.index())))?;
        writeln!(text, "{what}")
    };
    for (intid, name) in interrupt::names().filter(|&(intid, _)| intid >= gic::SGI_COUNT) {
        let count = |cpu| interrupt::taken(cpu, intid);
        row(format_args!("{intid:>3}: "), &count, format_args!("{:>9} {intid:>3}  {name}", gic::name()))?;
    }
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        row(format_args!("IPI{index}:"), &|cpu| ipi::received(cpu, reason), format_args!("      {}", reason.name()))?;
    }
    Ok(())
}

/// `/proc/lazy_tlb_borrow`.
struct Borrow(Arc<Node>);

impl File for Borrow {
    fn write(&self, _: u64, from: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        let mut digits = [0; 20];
        let total = from.remaining();
        let address = from.address() & !3;
        let length = from.take(&mut digits)?;
        let number = core::str::from_utf8(&digits[..length]).ok().and_then(|text| text.trim().parse().ok());
        let times = number.filter(|&times| times <= MAX_BORROWS).ok_or(Errno::EINVAL)?;
        from.skip_all();
        borrow::run(times, address)?;
        Ok(total)
    }

    fn stat(&self) -> linux::stat {
        self.0.stat()
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.0)
    }
}
