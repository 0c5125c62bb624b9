//! Boots that show one thing on each board: kernel and program as one file, the end of a run, console input.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::guest::Typing;
use crate::image;
use crate::job::{Expect, Job};
use crate::qemu::{self, Machine};
use crate::scenario::{Parts, owned};
use crate::tree;

impl Parts {
    /// The boots of kernel and program as one file; on the Raspberry Pi 4 it holds the tree, too.
    pub(crate) fn bundles(&self) -> Result<Vec<Job>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let archive = read(&self.archive("good", &self.program()?)?)?;
        let job = |name: &str, line: &str, tree: &[u8]| -> Result<Job> {
            let image = image::bundle(&read(&self.kernel)?, &archive, line, tree)?;
            let job = self.job(name, None, "", Expect::End(0, owned(&["hello"])));
            let machine = Machine { kernel: self.save(&format!("{name}.img"), &image)?, ..job.machine };
            Ok(Job { machine, ..job })
        };
        let mut on_rpi4 = job("bundle-rpi4", "exit=semihosting init=/app", &read(Path::new(qemu::RPI4_TREE))?)?;
        on_rpi4.machine.board = Board::Rpi4;
        on_rpi4.machine.tree = Some(PathBuf::new());
        Ok(vec![job("bundle", "init=/app", b"")?, on_rpi4])
    }

    /// Boots that end as they do on hardware: by PSCI, and on the Raspberry Pi 4 by its power manager. If the machine
    /// stays on, they hang.
    pub(crate) fn hardware_ends(&self) -> Result<Vec<Job>> {
        let archive = self.archive("good", &self.program()?)?;
        let end = |board: Board, words: &str, says: &[&str]| {
            let job =
                self.job(&format!("end-{}", board.name()), Some(archive.clone()), words, Expect::End(0, owned(says)));
            Job { machine: Machine { board, hardware_end: true, ..job.machine }, ..job }
        };
        let mut jobs: Vec<_> =
            Board::ALL.into_iter().map(|board| end(board, "init=/app", &["hello", "exit status 0"])).collect();
        let mut restart = end(Board::Rpi4, "init=/nowhere exit=restart", &["/nowhere", "exit status 1"]);
        restart.name = "end-rpi4-restart".to_owned();
        jobs.push(restart);
        Ok(jobs)
    }

    /// Boots of a program that repeats what is typed, on every serial port there is.
    pub(crate) fn typed(&self, initrd: &Path) -> Result<Vec<Job>> {
        let says = ["parrot: HELLO, WORLD", "parrot: BYE"];
        let typing = Typing { after: "parrot: listening", text: "hello, world\rbye\r" };
        let job = |name: &str| {
            let mut job = self.job(name, Some(initrd.to_owned()), "init=/bin/parrot", Expect::End(0, owned(&says)));
            job.machine.typing = Some(typing);
            job
        };
        let mut on_rpi4 = job("input-rpi4");
        on_rpi4.machine.board = Board::Rpi4;
        let mut on_mini_uart = job("input-rpi4-mini-uart");
        let source = tree::read(Path::new(qemu::RPI4_SOURCE))?;
        let source = source + "\n/ { chosen { stdout-path = \"serial1:115200n8\"; }; };\n";
        on_mini_uart.machine = Machine {
            board: Board::Rpi4,
            tree: Some(self.save("mini-uart.dtb", &tree::compile(&source)?)?),
            second_port: true,
            ..on_mini_uart.machine
        };
        Ok(vec![job("input-virt"), on_rpi4, on_mini_uart])
    }
}
