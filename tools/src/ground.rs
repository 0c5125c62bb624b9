//! What a measurement runs on: QEMU, or the board behind a serial port.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use crate::board::Board;
use crate::guest::{self, Outcome};
use crate::hw;
use crate::qemu::Machine;
use crate::serial::Serial;
use crate::symbols::Symbols;

/// Where machines are booted.
pub(crate) enum Ground {
    Qemu,
    /// The board in its chain loader, one boot at a time.
    Board(Mutex<Serial>),
}

impl Ground {
    /// The board behind this port, or QEMU. The machine becomes what is measured there.
    pub(crate) fn open(serial: Option<&Path>, machine: &mut Machine) -> Result<Self> {
        let Some(port) = serial else { return Ok(Self::Qemu) };
        machine.board = Board::Rpi4;
        machine.icount = false;
        Ok(Self::Board(Mutex::new(Serial::open(port)?)))
    }

    /// Boots `machine` and waits for its end, at most `limit`. Each piece of console goes to `sink` as it comes.
    pub(crate) fn boot(
        &self,
        machine: &Machine,
        limit: Duration,
        symbols: Option<&Symbols>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Outcome> {
        let Self::Board(port) = self else { return guest::boot(machine, Some(limit), symbols, sink) };
        let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(hw::boot(&mut *port, machine, limit, symbols, sink)?.into_outcome())
    }

    /// How many boots may be under way at once.
    pub(crate) fn workers(&self) -> usize {
        match self {
            Self::Qemu => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Board(_) => 1,
        }
    }

    /// What it is, in words.
    pub(crate) fn description(&self, machine: &Machine) -> String {
        match self {
            Self::Qemu => machine.description(),
            Self::Board(_) => "Raspberry Pi 4, the board".to_owned(),
        }
    }

    /// The name of a file of results: those of one machine do not overwrite those of another.
    pub(crate) fn file_stem(&self, what: &str, machine: &Machine) -> String {
        match (self, machine.board) {
            (Self::Board(_), _) => format!("{what}-hw"),
            (Self::Qemu, Board::Rpi4) => format!("{what}-rpi4"),
            (Self::Qemu, Board::Virt) => what.to_owned(),
        }
    }

    /// What makes the clocks of a guest tick.
    pub(crate) fn ticking(&self, machine: &Machine) -> &'static str {
        match (self, machine.icount) {
            (Self::Board(_), _) => "by the board",
            (Self::Qemu, true) => "by QEMU -icount: one instruction is one nanosecond and one cycle",
            (Self::Qemu, false) => "by QEMU from this host's clock: no cycles of a real CPU",
        }
    }
}
