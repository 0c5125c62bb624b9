//! Boots that show one thing: bad input must end in a clear error, and a stranger's program must just run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::broken;
use crate::cpio::Archive;
use crate::image;
use crate::job::{Expect, Job};
use crate::qemu::Machine;

/// What the scenarios are made of.
pub(crate) struct Parts {
    /// The raw kernel and its ELF file.
    pub(crate) kernel: PathBuf,
    pub(crate) elf: PathBuf,
    /// A small program that works.
    pub(crate) program: PathBuf,
    /// Where the archives go.
    pub(crate) folder: PathBuf,
}

/// A boot with a program that is wrong in one way: its name, how the program is made, what the console must say.
type WrongProgram = (&'static str, fn(&[u8]) -> Result<Vec<u8>>, &'static str);

const WRONG_PROGRAMS: [WrongProgram; 6] = [
    ("init-not-elf", |_| Ok(b"A text, and a short one.\n".to_vec()), "ELF"),
    ("init-wrong-machine", broken::wrong_machine, "machine 62"),
    ("init-truncated", broken::truncated, "truncated"),
    ("init-overlapping", broken::overlapping, "overlap"),
    ("init-in-kernel-half", broken::in_kernel_half, "lies outside"),
    ("init-too-big", broken::too_big, "lies outside"),
];

/// A boot with a wrong command line: its name, the words, what the console must say.
const WRONG_LINES: [(&str, &str, &[&str]); 4] = [
    ("no-init", "init=/nowhere", &["/nowhere"]),
    ("unknown-option", "init=/app colour=blue", &["colour", "lazy_tlb="]),
    ("unknown-scheme", "init=/app lazy_tlb=nonsense", &["nonsense", "refcount", "shootdown", "eager"]),
    ("impossible-asid-bits", "init=/app asid_bits=1", &["asid_bits"]),
];

/// A boot with a device tree that hides something: its name, what is renamed in the tree, what the console must say.
const WRONG_TREES: [(&str, &str, &str); 2] =
    [("tree-without-gic", "arm,gic-v3\0", "interrupt controller"), ("tree-without-timer", "-timer\0", "timer")];

/// What a program is asked to do: a name, the program, its arguments, its exit status, what the console must say.
type Task = (&'static str, &'static str, &'static str, i32, &'static [&'static str]);

const OURS: [Task; 4] = [
    ("threads", "/bin/threads", "8", 0, &["sum 36 by mutex, 36 by channel"]),
    ("fault-null", "/bin/faulter", "null-read", 128 + 11, &["SIGSEGV at pc 0x", "address 0x0"]),
    ("fault-undefined", "/bin/faulter", "undefined", 128 + 4, &["SIGILL at pc 0x"]),
    ("fault-stack", "/bin/faulter", "stack-overflow", 128 + 11, &["SIGSEGV at pc 0x"]),
];

const BUSYBOX: [Task; 5] = [
    ("busybox-echo", "/bin/busybox", "echo hello from busybox", 0, &["hello from busybox"]),
    ("busybox-ls", "/bin/busybox", "ls /", 0, &["bin", "dev", "proc"]),
    (
        "busybox-loop",
        "/bin/busybox",
        r#"sh -c "for i in 1 2 3; do echo line $i; done""#,
        0,
        &["line 1", "line 2", "line 3"],
    ),
    (
        "busybox-pipe",
        "/bin/busybox",
        r#"sh -c "echo one two three | wc -w | sed s/3/three-words/""#,
        0,
        &["three-words"],
    ),
    ("busybox-status", "/bin/busybox", r#"sh -c "exit 7""#, 7, &[]),
];

const UNITS: Task = ("user-unit-tests", "/bin/units", "--test-threads=4", 0, &["test result: ok."]);

impl Parts {
    /// Boots that must run a program of ours.
    pub(crate) fn ours(&self, initrd: &Path) -> Vec<Job> {
        OURS.iter().map(|task| self.task(task, initrd)).collect()
    }

    /// Boots that must run a program that nobody here built.
    pub(crate) fn strangers(&self, busybox: &Path) -> Result<Vec<Job>> {
        let initrd = self.program_archive("busybox.cpio", busybox, "/bin/busybox")?;
        Ok(BUSYBOX.iter().map(|task| self.task(task, &initrd)).collect())
    }

    /// The boot that runs the unit tests of `user/`, which Rust's own harness drives.
    pub(crate) fn units(&self, tests: &Path) -> Result<Job> {
        Ok(self.task(&UNITS, &self.program_archive("units.cpio", tests, "/bin/units")?))
    }

    fn task(&self, &(name, program, args, status, says): &Task, initrd: &Path) -> Job {
        let job = self.job(name, Some(initrd.to_owned()), "", Expect::End(status, owned(says)));
        let machine = Machine { init: Some(program.to_owned()), args: args.to_owned(), ..job.machine };
        Job { machine, ..job }
    }

    fn program_archive(&self, name: &str, program: &Path, target: &str) -> Result<PathBuf> {
        let mut archive = Archive::default();
        archive.add(&format!("{}={target}", program.display()))?;
        self.save(name, &archive.bytes())
    }

    /// The boot of kernel and program as one file.
    pub(crate) fn bundle(&self) -> Result<Job> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let archive = read(&self.archive("good", &self.program()?)?)?;
        let image = image::bundle(&read(&self.kernel)?, &archive, "init=/app")?;
        let job = self.job("bundle", None, "", Expect::End(0, owned(&["hello"])));
        let machine = Machine { kernel: self.save("bundle.img", &image)?, ..job.machine };
        Ok(Job { machine, ..job })
    }

    /// Boots that must be refused.
    pub(crate) fn refusals(&self) -> Result<Vec<Job>> {
        let good = self.program()?;
        let whole = self.archive("good", &good)?;
        let mut jobs = Vec::new();
        for (name, make, says) in WRONG_PROGRAMS {
            let wrong = make(&good).with_context(|| format!("cannot make {name}"))?;
            jobs.push(self.refusal(name, Some(self.archive(name, &wrong)?), "init=/app", &[says]));
        }
        for (name, words, says) in WRONG_LINES {
            jobs.push(self.refusal(name, Some(whole.clone()), words, says));
        }
        jobs.push(self.refusal("no-initrd", None, "init=/app", &["-initrd"]));
        let bytes = fs::read(&whole).context("cannot read the archive back")?;
        let cut = self.save("truncated-cpio.cpio", &bytes[..bytes.len() / 2])?;
        jobs.push(self.refusal("truncated-cpio", Some(cut), "init=/app", &["initramfs", "ends inside"]));
        for (name, hidden, says) in WRONG_TREES {
            let mut job = self.refusal(name, Some(whole.clone()), "init=/app", &[says]);
            let tree = self.save(
                &format!("{name}.dtb"),
                &broken::rename(&broken::packed(&job.machine.device_tree()?)?, hidden)?,
            )?;
            job.machine.extra = vec!["-dtb".to_owned(), tree.display().to_string()];
            jobs.push(job);
        }
        Ok(jobs)
    }

    fn refusal(&self, name: &str, initrd: Option<PathBuf>, cmdline: &str, says: &[&str]) -> Job {
        let says = says.iter().map(|text| (*text).to_owned()).collect();
        self.job(&format!("refuse-{name}"), initrd, cmdline, Expect::Refusal(says))
    }

    fn job(&self, name: &str, initrd: Option<PathBuf>, cmdline: &str, expect: Expect) -> Job {
        let machine = Machine { initrd, cmdline: cmdline.to_owned(), ..Machine::of(self.kernel.clone()) };
        Job { name: name.to_owned(), machine, elf: self.elf.clone(), timeout_s: 20, expect }
    }

    fn program(&self) -> Result<Vec<u8>> {
        fs::read(&self.program).with_context(|| format!("cannot read {}", self.program.display()))
    }

    fn archive(&self, name: &str, program: &[u8]) -> Result<PathBuf> {
        let mut archive = Archive::default();
        archive.add_program("/app", program.to_vec());
        self.save(&format!("{name}.cpio"), &archive.bytes())
    }

    fn save(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let context = || format!("cannot write {}", path.display());
        fs::create_dir_all(Path::new(&self.folder)).with_context(context)?;
        fs::write(&path, bytes).with_context(context)?;
        Ok(path)
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
