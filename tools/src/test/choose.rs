//! Which boots there are, and which of them are wanted.

use std::path::Path;

use anyhow::{Context, Result};

use super::Options;
use crate::board::Board;
use crate::careful;
use crate::cargo::{self, TestBinary};
use crate::cpio::Archive;
use crate::job::{Expect, Job};
use crate::qemu::{self, Machine};
use crate::scenario::Parts;
use crate::standin::StandIn;
use crate::suite::{Cell, Rules, Suite, all_cells, full_cells, pairwise_cells};

/// The test kernel whose tests panic, which no suite may.
const ENDINGS: &str = "endings";

/// All that was built to be booted.
pub(super) struct Tests<'o> {
    options: &'o Options,
    suites: Vec<Suite>,
    endings: TestBinary,
}

impl<'o> Tests<'o> {
    /// Builds the test kernels, and gives each test program an archive of its own: what goes over a serial line is short.
    pub(super) fn build(options: &'o Options) -> Result<Self> {
        let (endings, kernels): (Vec<_>, Vec<_>) =
            cargo::test_kernels()?.into_iter().partition(|test| test.name == ENDINGS);
        let endings = endings.into_iter().next().with_context(|| format!("cargo built no tests/{ENDINGS}.rs"))?;
        let mut suites = kernel_suites(kernels)?;
        for source in &options.programs {
            suites.push(program(options, source)?);
        }
        suites.retain(|suite| suite.rules.sanitized || options.sanitize.is_none());
        Ok(Self { options, suites, endings })
    }

    /// The boots of suites to run. A full name is looked up in the whole product, so that any failure can be run again by
    /// name.
    pub(super) fn cells(&self) -> Result<Vec<Job>> {
        let (suites, wanted) = (&self.suites[..], &self.options.cell);
        let every = all_cells(suites);
        if let Some(cell) = every.iter().find(|cell| cell.name(suites) == *wanted) {
            return Ok(vec![job(cell, suites)?]);
        }
        let cells = if self.options.full { full_cells(suites) } else { pairwise_cells(suites) };
        cells.iter().filter(|cell| cell.name(suites).contains(wanted)).map(|cell| job(cell, suites)).collect()
    }

    /// The boots that show one thing.
    pub(super) fn single(&self) -> Result<Vec<Job>> {
        let mut jobs = self.scenarios()?;
        jobs.extend(self.careful()?);
        jobs.push(self.one_write()?);
        Ok(jobs)
    }

    /// The boot of that name on the Raspberry Pi 4, or the first one of the suite of that name.
    pub(super) fn on_rpi4(&self, name: &str) -> Result<Job> {
        let mut cells = all_cells(&self.suites);
        cells.retain(|cell| cell.board() == Board::Rpi4);
        let is_it = |cell: &&Cell| cell.name(&self.suites) == name || cell.suite(&self.suites).name == name;
        let mut known: Vec<_> = cells.iter().map(|cell| cell.suite(&self.suites).name.as_str()).collect();
        known.dedup();
        let found = cells.iter().find(is_it);
        let cell = found.with_context(|| format!("no suite is named `{name}`; there are {}", known.join(", ")))?;
        job(cell, &self.suites)
    }

    /// A kernel on the Raspberry Pi 4 that does nothing until its watchdog ends it.
    pub(super) fn hanging(&self) -> Result<Job> {
        let machine = Machine {
            board: Board::Rpi4,
            cmdline: "test=a_run_that_is_too_long".to_owned(),
            ..Machine::of(qemu::raw_kernel(&self.endings.elf)?)
        };
        let says = ["FAIL a_run_that_is_too_long", "CPU 1 ran idle", "watchdog: the 2 s of watchdog= are over"];
        Ok(Job {
            name: "hanging".to_owned(),
            machine,
            elf: self.endings.elf.clone(),
            timeout_s: 2,
            expect: Expect::Panic(says.map(str::to_owned).to_vec()),
        })
    }

    /// The test of SGIs, watched from outside: one write of GICD_SGIR, at 0xf00, names all four CPUs. That each of them
    /// takes it, and once, is what the test itself looks at.
    fn one_write(&self) -> Result<Job> {
        let mut job = self.on_rpi4("ipi")?;
        job.name = "one-write-for-all-cpus-rpi4".to_owned();
        job.machine.cmdline = "test=an_sgi_reaches_only_its_targets".to_owned();
        job.machine.extra = ["-trace", "gic_dist_write"].map(str::to_owned).to_vec();
        job.expect = Expect::End(0, vec!["dist write at 0x00000f00 size 4: 0x000f0007".to_owned()]);
        Ok(job)
    }

    fn scenarios(&self) -> Result<Vec<Job>> {
        let options = self.options;
        let parts = Parts {
            endings: self.endings.elf.clone(),
            kernel: qemu::raw_kernel(&options.kernel)?,
            elf: options.kernel.clone(),
            program: options.built.join("hello"),
            folder: options.logs.clone(),
        };
        let mut jobs = parts.refusals()?;
        jobs.extend(parts.handed_trees()?);
        jobs.extend(parts.endings()?);
        jobs.extend(parts.bundles()?);
        jobs.extend(parts.hardware_ends()?);
        jobs.extend(parts.typed(&options.initrd)?);
        jobs.extend(parts.ours(&options.initrd));
        jobs.extend(parts.recorded(&options.initrd));
        jobs.push(parts.units(&cargo::user_unit_tests()?)?);
        match &options.busybox {
            Some(busybox) => jobs.extend(parts.strangers(busybox)?),
            None => println!("SKIPPED: the busybox boots, because there is no busybox"),
        }
        Ok(jobs)
    }

    fn careful(&self) -> Result<Vec<Job>> {
        let options = self.options;
        let standin = StandIn { firmware: &options.firmware, folder: &options.logs };
        let kernel = qemu::raw_kernel(&options.kernel)?;
        let (suites, elf, initrd) = (&self.suites[..], &options.kernel, &options.initrd);
        careful::Parts { standin, suites, kernel: &kernel, elf, initrd }.jobs()
    }
}

/// The boot of a cell.
pub(crate) fn job(cell: &Cell, suites: &[Suite]) -> Result<Job> {
    let suite = cell.suite(suites);
    Ok(Job {
        name: cell.name(suites),
        machine: cell.machine(suites)?,
        elf: suite.elf.clone(),
        timeout_s: suite.rules.timeout_s,
        expect: Expect::Report,
    })
}

/// The suites that are kernels of their own.
pub(crate) fn kernel_suites(kernels: Vec<TestBinary>) -> Result<Vec<Suite>> {
    let suite = |test: TestBinary| {
        let (kernel, rules) = (qemu::raw_kernel(&test.elf)?, rules(&test.source)?);
        Ok(Suite { name: test.name, kernel, elf: test.elf, initrd: None, init: None, rules })
    };
    kernels.into_iter().map(suite).collect()
}

fn rules(source: &Path) -> Result<Rules> {
    let context = || format!("in {}", source.display());
    Rules::parse(&std::fs::read_to_string(source).with_context(context)?).with_context(context)
}

fn program(options: &Options, source: &Path) -> Result<Suite> {
    let name = source.file_stem().and_then(|name| name.to_str()).context("a program's source has a name")?;
    let init = format!("/bin/{name}");
    let mut archive = Archive::default();
    archive.add(&format!("{}={init}", options.built.join(name).display()))?;
    let initrd = options.logs.join(format!("{name}.cpio"));
    std::fs::write(&initrd, archive.bytes()).with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Suite {
        name: name.to_owned(),
        kernel: qemu::raw_kernel(&options.kernel)?,
        elf: options.kernel.clone(),
        initrd: Some(initrd),
        init: Some(init),
        rules: rules(source)?,
    })
}
