//! Boots that show one thing: bad input must end in a clear error, and a stranger's program must just run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::broken;
use crate::cpio::Archive;
use crate::image;
use crate::job::{Expect, Job};
use crate::loader;
use crate::qemu::{self, Machine};

/// What the scenarios are made of.
pub(crate) struct Parts {
    /// The raw kernel and its ELF file.
    pub(crate) kernel: PathBuf,
    pub(crate) elf: PathBuf,
    /// A small program that works.
    pub(crate) program: PathBuf,
    /// The kernel (ELF) whose tests end in a panic.
    pub(crate) endings: PathBuf,
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
const WRONG_LINES: [(&str, &str, &[&str]); 7] = [
    ("no-init", "init=/nowhere", &["/nowhere"]),
    ("unknown-option", "init=/app colour=blue", &["colour", "lazy_tlb="]),
    ("open-quote", "init=/app test=\"a", &["double quote", "close or remove it"]),
    ("unknown-scheme", "init=/app lazy_tlb=nonsense", &["nonsense", "refcount", "shootdown", "eager"]),
    ("piggyback-of-nothing", "init=/app tlbi.piggyback=on", &["tlbi.piggyback=on", "tlbi=broadcast", "tlbi=ipi"]),
    ("retire-counted", "init=/app tlbi.exit=retire", &["tlbi.exit=retire", "lazy_tlb=refcount", "lazy_tlb=eager"]),
    ("impossible-asid-bits", "init=/app asid_bits=1", &["asid_bits"]),
];

/// A boot with a device tree that hides something: its name, what is renamed in the tree, what the console must say.
const WRONG_TREES: [(&str, &str, &str); 2] =
    [("tree-without-gic", "arm,gic-v3\0", "interrupt controller"), ("tree-without-timer", "-timer\0", "timer")];

/// A boot by a loader that hands over a tree which is none, or a damaged one: its name, where x0 says that the tree is,
/// what becomes of a sound one, what the console must say.
type HandedTree = (&'static str, u64, fn(Vec<u8>) -> Result<Vec<u8>>, &'static str);

const NO_TREE: &str = "cannot boot: the loader passed no device tree in x0";
const DAMAGED: &str = "pass an undamaged one in x0";

/// Words of a tree's header.
const TOTAL_SIZE: usize = 4;
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;

/// Addresses of `virt` without memory: below it, and above what a Cortex-A72 can address.
const BELOW_MEMORY: u64 = 0x0e00_0000;
const ABOVE_MEMORY: u64 = 1 << 60;

const HANDED_TREES: [HandedTree; 10] = [
    ("tree-absent", 0, Ok, NO_TREE),
    ("tree-below-memory", BELOW_MEMORY, Ok, NO_TREE),
    ("tree-above-memory", ABOVE_MEMORY, Ok, NO_TREE),
    ("tree-misaligned", loader::TREE_AT + 4, Ok, NO_TREE),
    ("tree-is-text", loader::TREE_AT, |_| Ok(b"A text, and a short one.\n".to_vec()), NO_TREE),
    ("tree-cut", loader::TREE_AT, |tree| Ok(tree[..tree.len() / 2].to_vec()), DAMAGED),
    ("tree-too-long", loader::TREE_AT, |tree| Ok(broken::with_header_word(&tree, TOTAL_SIZE, u32::MAX)), DAMAGED),
    ("tree-without-nodes", loader::TREE_AT, |tree| Ok(broken::with_header_word(&tree, STRUCTURE, 1 << 20)), DAMAGED),
    ("tree-without-names", loader::TREE_AT, |tree| Ok(broken::with_header_word(&tree, STRINGS, 1 << 20)), DAMAGED),
    ("tree-without-memory", loader::TREE_AT, |tree| broken::rename(&tree, "memory\0"), "/memory"),
];

/// A kernel that ends in a panic: its test, what the console must say.
const ENDINGS: [(&str, &[&str]); 4] = [
    (
        "a_panic",
        &["KERNEL PANIC on CPU 1 at tests/endings.rs", "on purpose", "endings::panic_on_purpose tests/endings.rs:"],
    ),
    (
        "a_fault",
        &[
            "KERNEL PANIC on CPU 1: null dereference: data abort, translation fault",
            "reading 0x0000000000000008 (ESR 0x96000004)",
            "x27 0x0000123456789abc",
            "endings::fault_on_purpose tests/endings.rs:",
        ],
    ),
    (
        "a_deaf_cpu",
        &["CPU 1 ran test and takes no interrupts", "CPU 1 did not stop", WATCHDOG, "lazuli::watchdog::bark"],
    ),
    ("a_run_that_is_too_long", &["CPU 1 ran idle", WATCHDOG, "lazuli::watchdog::bark"]),
];
const WATCHDOG: &str = "watchdog: the 1 s of watchdog= are over";

/// Memory that no machine has, and memory that is too little.
const TOO_MUCH: &str = "1000T";
const TOO_LITTLE: &str = "32M";

/// What a program is asked to do: a name, the program, its arguments, its exit status, what the console must say.
type Task = (&'static str, &'static str, &'static str, i32, &'static [&'static str]);

const OURS: [Task; 5] = [
    ("threads", "/bin/threads", "8", 0, &["sum 36 by mutex, 36 by channel"]),
    ("fault-null", "/bin/faulter", "null-read", 128 + 11, &["SIGSEGV at pc 0x", "address 0x0"]),
    ("fault-undefined", "/bin/faulter", "undefined", 128 + 4, &["SIGILL at pc 0x"]),
    ("fault-stack", "/bin/faulter", "stack-overflow", 128 + 11, &["SIGSEGV at pc 0x"]),
    (
        "more-memory-than-there-is",
        "/bin/init",
        "/bin/faulter more-memory",
        128 + 7,
        &["SIGBUS at pc 0x", "no memory is left", "init: /bin/faulter was ended by signal 7"],
    ),
];

const BUSYBOX: [Task; 6] = [
    ("busybox-trace", "/bin/busybox", "cat /proc/trace", 0, &["# nothing was recorded: boot with trace=on"]),
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
        jobs.extend(self.memory_refusals()?);
        Ok(jobs)
    }

    /// Boots of a kernel that ends in a panic.
    pub(crate) fn endings(&self) -> Result<Vec<Job>> {
        let kernel = qemu::raw_kernel(&self.endings)?;
        let jobs = ENDINGS.iter().map(|(test, says)| {
            let cmdline = format!("watchdog=1 test={test}");
            let job = self.job(&format!("ends-in-{test}"), None, &cmdline, Expect::Panic(owned(says)));
            let machine = Machine { kernel: kernel.clone(), ..job.machine };
            Job { machine, elf: self.endings.clone(), ..job }
        });
        Ok(jobs.collect())
    }

    /// Boots by a loader that hands over no sound device tree: without one nobody can switch the machine off.
    pub(crate) fn handed_trees(&self) -> Result<Vec<Job>> {
        let sound = broken::packed(&Machine::of(self.kernel.clone()).device_tree()?)?;
        let job = |&(name, x0, make, says): &HandedTree| {
            let tree = self.save(&format!("{name}.dtb"), &make(sound.clone())?)?;
            let stub = self.save(&format!("{name}.stub"), &loader::stub(x0))?;
            let job = self.job(&format!("refuse-{name}"), None, "", Expect::Halt(owned(&[says])));
            // Where x0 names no memory, the tree lies where nobody looks.
            let place = x0.clamp(loader::TREE_AT, loader::TREE_AT + 4);
            let extra = loader::options(&self.kernel, &tree, place);
            Ok(Job { machine: Machine { kernel: stub, extra, ..job.machine }, ..job })
        };
        HANDED_TREES.iter().map(job).collect()
    }

    /// Boots of machines with more memory than the host has, and with less than what is to be loaded.
    fn memory_refusals(&self) -> Result<Vec<Job>> {
        let archive = self.archive("padded", &[self.program()?, vec![0; 48 << 20]].concat())?;
        let bytes = fs::read(&archive).context("cannot read the archive back")?;
        let image = fs::read(&self.kernel).context("cannot read the kernel")?;
        let bundle = self.save("padded.img", &image::bundle(&image, &bytes, "init=/app", b"")?)?;
        let refusal = |name, memory: &str, initrd, says: &str| {
            let job = self.refusal(name, initrd, "init=/app", &[says]);
            let machine = Machine { memory: memory.to_owned(), ..job.machine };
            Job { machine, ..job }
        };
        let too_big = refusal("bundle-too-big", TOO_LITTLE, None, "too large to fit in RAM");
        Ok(vec![
            refusal("memory-nobody-has", TOO_MUCH, None, "cannot set up guest memory"),
            refusal("memory-too-small", "8M", None, "for the heap; give the machine more"),
            refusal("initrd-too-big", TOO_LITTLE, Some(archive), "load initrd"),
            Job { machine: Machine { kernel: bundle, ..too_big.machine }, ..too_big },
        ])
    }

    fn refusal(&self, name: &str, initrd: Option<PathBuf>, cmdline: &str, says: &[&str]) -> Job {
        let says = says.iter().map(|text| (*text).to_owned()).collect();
        self.job(&format!("refuse-{name}"), initrd, cmdline, Expect::Refusal(says))
    }

    pub(crate) fn job(&self, name: &str, initrd: Option<PathBuf>, cmdline: &str, expect: Expect) -> Job {
        let machine = Machine { initrd, cmdline: cmdline.to_owned(), ..Machine::of(self.kernel.clone()) };
        Job { name: name.to_owned(), machine, elf: self.elf.clone(), timeout_s: 20, expect }
    }

    pub(crate) fn program(&self) -> Result<Vec<u8>> {
        fs::read(&self.program).with_context(|| format!("cannot read {}", self.program.display()))
    }

    pub(crate) fn archive(&self, name: &str, program: &[u8]) -> Result<PathBuf> {
        let mut archive = Archive::default();
        archive.add_program("/app", program.to_vec());
        self.save(&format!("{name}.cpio"), &archive.bytes())
    }

    pub(crate) fn save(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let context = || format!("cannot write {}", path.display());
        fs::create_dir_all(Path::new(&self.folder)).with_context(context)?;
        fs::write(&path, bytes).with_context(context)?;
        Ok(path)
    }
}

pub(crate) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
