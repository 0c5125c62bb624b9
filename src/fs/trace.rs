//! `/proc/trace`: what the CPUs recorded, in the order of time, one line a record.
//!
//! A look at the rings is taken when the file is opened. Lines are of one length, so that any part of the file can be
//! written when it is read, and nothing but the records has to be kept.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use linux_raw_sys::general as linux;
use mm::{Counter, PAGE_SIZE};

use crate::arch::timer;
use crate::errno::Errno;
use crate::fs::file::{File, Waiting};
use crate::fs::node::Node;
use crate::ipi::Reason;
use crate::trace::event::{Event, Kind};
use crate::trace::{self, Record};
use crate::user_memory::UserBuffer;
use crate::{heap, percpu, syscall_names};

/// Bytes of a line, its end included.
const LINE: usize = 96;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// An open `/proc/trace`.
pub(super) struct Trace {
    node: Arc<Node>,
    /// Of each CPU, how many records it has written, and how many of them are here.
    counts: Vec<(u64, u64)>,
    records: Vec<Record>,
}

impl Trace {
    /// Takes a look at every ring.
    pub(super) fn open(node: Arc<Node>) -> Result<Self, Errno> {
        let (mut counts, mut records) = (Vec::new(), Vec::new());
        for cpu in 0..percpu::count() {
            let Some(numbers) = trace::numbers(cpu) else { break };
            let (written, before) = (*numbers.end(), records.len());
            heap::reserve(&mut records, numbers.clone().count())?;
            records.extend(numbers.filter_map(|number| trace::read(cpu, number)));
            heap::push(&mut counts, (written, (records.len() - before) as u64))?;
        }
        // Within a CPU by number: the counter may show the same time twice.
        records.sort_unstable_by_key(|record| (record.ticks, record.cpu, record.number));
        Ok(Self { node, counts, records })
    }

    fn lines(&self) -> usize {
        1 + self.counts.len() + self.records.len()
    }

    fn line(&self, index: usize) -> Option<Line> {
        let mut line = Line { text: [b' '; LINE], length: 0 };
        // What does not fit is left out.
        let _ = match index.checked_sub(1) {
            None if trace::is_on() => write!(line, "#       seconds cpu     task event                what"),
            None => write!(line, "# nothing was recorded: boot with trace=on"),
            Some(cpu) if cpu < self.counts.len() => {
                let (written, kept) = self.counts[cpu];
                write!(line, "# cpu{cpu}: {written} records, {} of them overwritten", written - kept)
            }
            Some(index) => write_record(&mut line, self.records.get(index - self.counts.len())?),
        };
        line.text[LINE - 1] = b'\n';
        Some(line)
    }
}

impl File for Trace {
    fn read(&self, position: u64, to: &mut UserBuffer<'_>, _: Waiting) -> Result<usize, Errno> {
        let mut at = usize::try_from(position).unwrap_or(usize::MAX);
        let mut done = 0;
        while let Some(line) = self.line(at / LINE) {
            let rest = &line.text[at % LINE..];
            let put = match to.put(rest) {
                Err(error) if done == 0 => return Err(error),
                put => put.unwrap_or(0),
            };
            at += put;
            done += put;
            if put < rest.len() {
                break;
            }
        }
        Ok(done)
    }

    fn stat(&self) -> linux::stat {
        self.node.stat()
    }

    fn seek_end(&self) -> Option<u64> {
        Some((self.lines() * LINE) as u64)
    }

    fn node(&self) -> Option<&Arc<Node>> {
        Some(&self.node)
    }
}

/// One line, blank where nothing is written.
struct Line {
    text: [u8; LINE],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..LINE - 1];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}

fn write_record(line: &mut Line, record: &Record) -> fmt::Result {
    let ns = timer::ns_from_ticks(record.ticks);
    let (seconds, below) = (ns / NS_PER_SECOND, ns % NS_PER_SECOND);
    write!(line, "{seconds:>5}.{below:09} {:>3} {:>8} {:<20} ", record.cpu, record.task, record.event.label())?;
    let [first, second] = record.words;
    match record.event {
        Event::Mm(counter) => write_mm(line, counter, first, second),
        Event::Kernel(kind) => write_kernel(line, kind, first, second),
    }
}

fn write_mm(line: &mut Line, counter: Counter, about: u64, second: u64) -> fmt::Result {
    /// Bits of an operand: the page of an operation by page, and of one on a range (`mm::flush`).
    const PAGE: u64 = (1 << 44) - 1;
    const RANGE_START: u64 = (1 << 37) - 1;
    let asid = about >> 48;
    match counter {
        Counter::TlbiLeafBroadcast | Counter::TlbiWalkBroadcast | Counter::TlbiLeafLocal | Counter::TlbiWalkLocal => {
            write!(line, "asid={asid} page={:#x}", (about & PAGE) * PAGE_SIZE)
        }
        Counter::TlbiRangeBroadcast | Counter::TlbiRangeLocal => {
            let pages = ((about >> 39 & 0x1f) + 1) << (5 * (about >> 44 & 3) + 1);
            write!(line, "asid={asid} page={:#x} pages={pages}", (about & RANGE_START) * PAGE_SIZE)
        }
        Counter::TlbiAsidBroadcast | Counter::TlbiAsidLocal => write!(line, "asid={asid}"),
        Counter::TlbiAllLocal => Ok(()),
        Counter::AsidsGiven => write!(line, "asid={about}"),
        Counter::AsidRollovers => write!(line, "generation={about}"),
        Counter::BatchRounds => write!(line, "cpus={about}"),
        Counter::MmsDied | Counter::MmsFreed => write!(line, "mm={about:#x} dead={second}"),
        _ if about == 0 && second == 0 => Ok(()),
        _ if about == 0 => write!(line, "thread={}", Text(second)),
        _ if second == 0 => write!(line, "mm={about:#x}"),
        _ => write!(line, "mm={about:#x} thread={}", Text(second)),
    }
}

fn write_kernel(line: &mut Line, kind: Kind, first: u64, second: u64) -> fmt::Result {
    let reason = || Reason::ALL.get(first as usize).map_or("", |reason| reason.label().trim_start_matches("ipi_"));
    match kind {
        Kind::CallEnter => {
            write_call(line, first)?;
            write!(line, " x0={second:#x}")
        }
        Kind::CallExit => {
            write_call(line, first)?;
            write!(line, " returns={}", second as i64)
        }
        Kind::FaultEnter | Kind::FaultExit => write!(line, "at={first:#x} esr={second:#x}"),
        Kind::IpiSend => write!(line, "{} to={second}", reason()),
        Kind::IpiDone => write!(line, "{}", reason()),
        Kind::IpiHandle | Kind::IpiAck if second == trace::UNKNOWN => write!(line, "{}", reason()),
        Kind::IpiHandle | Kind::IpiAck => write!(line, "{} from={second}", reason()),
        Kind::Name => write!(line, "{}{}", Text(first), Text(second)),
    }
}

fn write_call(line: &mut Line, number: u64) -> fmt::Result {
    match syscall_names::of(number as u32) {
        Some(name) => write!(line, "{name}"),
        None => write!(line, "call-{number}"),
    }
}

/// Up to eight bytes of text in a word, blanks and other bytes that would break the line shown as `?`.
struct Text(u64);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .to_le_bytes()
            .into_iter()
            .take_while(|&byte| byte != 0)
            .try_for_each(|byte| f.write_char(if byte.is_ascii_graphic() { char::from(byte) } else { '?' }))
    }
}
