//! The TLB sanitizer: who may use it, what it must say, and whether it sees what QEMU does not show.
//!
//! `lazuli sanitizer-check` builds the kernel from mutated sources, one mutation after the other, and boots each twice:
//! QEMU alone must let it pass, or else the mutation shows nothing; under the sanitizer it must end with an alarm.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::guest::{self, HANG, Outcome};
use crate::qemu::{self, Machine};
use crate::symbols::Symbols;

/// The first QEMU whose plugins can do it.
const FIRST_QEMU: u32 = 10;
/// How many times longer a watched boot may take.
pub(crate) const PATIENCE: u64 = 4;
/// The exit status after an alarm.
const ALARM: i32 = 98;
/// What it says at the end.
const NO_ALARM: &str = "tlb sanitizer: no alarm";
/// What it says in front of an alarm.
const SAYS: &str = "TLB SANITIZER: ";
/// How many CPUs the sound kernel is watched on; the mutated ones run on the first of these.
const CPUS: [u32; 2] = [4, 64];
/// How long one boot may take.
const LIMIT: Duration = Duration::from_secs(240);
/// What a build needs of the sources.
const SOURCES: &[&str] = &[
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "bsp",
    "formats",
    "fuzz",
    "mm",
    "src",
    "tests",
    "tools",
    "user",
];
const KERNEL: &str = "aarch64-unknown-none-softfloat/debug/lazuli";

/// Options of `lazuli sanitizer-check`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The plugin
    #[arg(long)]
    plugin: PathBuf,
    /// Archive with the programs
    #[arg(long)]
    initrd: PathBuf,
    /// Where the mutated kernels are built
    #[arg(long, default_value = "target/sanitizer")]
    folder: PathBuf,
    /// Only mutations whose name contains this
    #[arg(long, default_value = "")]
    only: String,
}

/// A way to break the kernel that QEMU does not show.
struct Mutation {
    name: &'static str,
    /// File, text, what becomes of it. The text occurs once.
    edits: &'static [(&'static str, &'static str, &'static str)],
    cmdline: &'static str,
    /// The first program and its arguments.
    program: (&'static str, &'static str),
    /// What the alarm must say.
    alarm: &'static str,
}

const TLBI: &str = "src/arch/tlbi.rs";
const LIFETIMES: (&str, &str) = ("/bin/lifetimes", "30");
const OVERDUE: &str = "which CPU";

const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a page is invalidated under another ASID",
        edits: &[(
            TLBI,
            "\"tlbi vale1is, {operand}\"",
            "\"eor {operand}, {operand}, #(1 << 48)\\ntlbi vale1is, {operand}\\neor {operand}, {operand}, #(1 << 48)\"",
        )],
        cmdline: "",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "another ASID is invalidated",
        edits: &[(
            TLBI,
            "\"tlbi aside1is, {operand}\"",
            "\"eor {operand}, {operand}, #(1 << 48)\\ntlbi aside1is, {operand}\\neor {operand}, {operand}, #(1 << 48)\"",
        )],
        cmdline: "",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "an ASID is invalidated on this CPU only",
        edits: &[(TLBI, "\"tlbi aside1is, {operand}\"", "\"tlbi aside1, {operand}\"")],
        cmdline: "lazy_tlb=shootdown",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "an ASID is not invalidated",
        edits: &[(TLBI, "\"tlbi aside1is, {operand}\"", "\"nop // {operand}\"")],
        cmdline: "",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "a CPU that is asked by SGI invalidates nothing",
        edits: &[(TLBI, "\"tlbi aside1, {operand}\"", "\"nop // {operand}\"")],
        cmdline: "tlbi=ipi lazy_tlb=shootdown",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "a rollover does not flush",
        edits: &[(TLBI, "\"tlbi vmalle1\"\n    };", "\"nop\"\n    };")],
        cmdline: "asid_bits=4 lazy_tlb=shootdown tlbi.exit=retire",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "a barrier that waits for no TLBI",
        edits: &[("mm/src/ops.rs", "Complete(): [DsbIsh];", "Complete(): [DsbIshst];")],
        cmdline: "",
        program: LIFETIMES,
        alarm: OVERDUE,
    },
    Mutation {
        name: "a table is freed while walk caches lead to it",
        edits: &[(
            "mm/src/flush/pieces.rs",
            "(Sequence::InvalidateWalk, Counter::",
            "(Sequence::InvalidateLeaf, Counter::",
        )],
        cmdline: "",
        program: ("/bin/lazycheck", "table"),
        alarm: OVERDUE,
    },
    Mutation {
        name: "programs' pages are global",
        edits: &[("mm/src/pte.rs", "        | Self::NOT_GLOBAL\n", "")],
        cmdline: "",
        program: LIFETIMES,
        alarm: "every ASID",
    },
    Mutation {
        name: "a root is freed before lazy CPUs leave it",
        edits: &[(
            "mm/src/lazy/final_drop.rs",
            "        match self.config.scheme.evict(self, dead) {",
            "        M::mark(Mark::RootFreed, dead.root());\n        match self.config.scheme.evict(self, dead) {",
        )],
        cmdline: "lazy_tlb=shootdown",
        program: LIFETIMES,
        alarm: "frees root",
    },
];

/// Fails if this QEMU is too old.
pub(crate) fn check_qemu() -> Result<()> {
    let version = qemu::version()?;
    ensure!(version >= FIRST_QEMU, "the TLB sanitizer needs QEMU {FIRST_QEMU}.0 or newer; this is {version}");
    Ok(())
}

/// What is wrong with a watched boot, by its console: an alarm, or a sanitizer that never came to its end.
pub(crate) fn complaint(console: &str) -> Option<String> {
    if console.contains(NO_ALARM) {
        return None;
    }
    Some(alarm(console).map_or_else(|| "the TLB sanitizer did not come to its end".to_owned(), str::to_owned))
}

fn alarm(console: &str) -> Option<&str> {
    console.lines().find(|line| line.starts_with(SAYS))
}

/// Tries every mutation. Returns whether each was caught.
pub(crate) fn run(options: &Options) -> Result<bool> {
    check_qemu()?;
    let tree = Tree::new(&options.folder)?;
    for cpus in CPUS {
        let start = Instant::now();
        let sound = tree.boot(options, &MUTATIONS[0], cpus, true)?;
        ensure!(complaint(&sound.console).is_none(), "an alarm without any mutation:\n{}", sound.console);
        println!("no mutation, {cpus} CPUs: no alarm ({:.0} s)", start.elapsed().as_secs_f64());
    }
    let chosen: Vec<_> = MUTATIONS.iter().filter(|mutation| mutation.name.contains(&options.only)).collect();
    let mut missed = 0;
    for mutation in &chosen {
        let start = Instant::now();
        let result = tree.judge(options, mutation);
        missed += usize::from(result.is_err());
        let verdict = result.map_or_else(|error| format!("NOT CAUGHT: {error:#}"), |alarm| format!("caught: {alarm}"));
        println!("{:<48} {verdict} ({:.0} s)", mutation.name, start.elapsed().as_secs_f64());
        ensure!(!guest::stopped(), "interrupted");
    }
    println!("{} of {} mutations caught", chosen.len() - missed, chosen.len());
    Ok(missed == 0)
}

/// A copy of the sources to break, and what is built of it.
struct Tree {
    sources: PathBuf,
    target: PathBuf,
}

impl Tree {
    fn new(folder: &Path) -> Result<Self> {
        let folder = env::current_dir().context("no current folder")?.join(folder);
        let (sources, target) = (folder.join("tree"), folder.join("target"));
        for part in SOURCES.iter().filter(|part| Path::new(part).exists()) {
            copy(Path::new(part), &sources.join(part))?;
        }
        let tree = Self { sources, target };
        tree.build()?;
        Ok(tree)
    }

    fn build(&self) -> Result<()> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["kbuild", "--quiet", "--target-dir"]).arg(&self.target).current_dir(&self.sources);
        ensure!(cargo.status().context("cannot run cargo")?.success(), "it does not build");
        Ok(())
    }

    /// Breaks, builds, boots twice, and mends again. Gives the alarm.
    fn judge(&self, options: &Options, mutation: &Mutation) -> Result<String> {
        let mut originals = Vec::new();
        for (file, from, to) in mutation.edits {
            let path = self.sources.join(file);
            let source = fs::read_to_string(&path).with_context(|| format!("no {file}"))?;
            ensure!(source.matches(from).count() == 1, "{file} does not have `{from}` exactly once");
            fs::write(&path, source.replacen(from, to, 1))?;
            originals.push((path, source));
        }
        let result = self.build().and_then(|()| self.caught(options, mutation));
        originals.into_iter().rev().try_for_each(|(path, source)| fs::write(path, source))?;
        result
    }

    fn caught(&self, options: &Options, mutation: &Mutation) -> Result<String> {
        let plain = self.boot(options, mutation, CPUS[0], false)?;
        ensure!(plain.status == 0, "QEMU alone shows it, with exit status {}", plain.status);
        let watched = self.boot(options, mutation, CPUS[0], true)?;
        let Some(line) = alarm(&watched.console).filter(|_| watched.status == ALARM) else {
            bail!("no alarm; exit status {}", watched.status);
        };
        ensure!(line.contains(mutation.alarm), "another alarm than `{}`: {line}", mutation.alarm);
        Ok(line.trim_start_matches(SAYS).to_owned())
    }

    fn boot(&self, options: &Options, mutation: &Mutation, cpus: u32, watched: bool) -> Result<Outcome> {
        let elf = self.target.join(KERNEL);
        let machine = Machine {
            smp: cpus,
            initrd: Some(options.initrd.clone()),
            cmdline: mutation.cmdline.to_owned(),
            init: Some(mutation.program.0.to_owned()),
            args: mutation.program.1.to_owned(),
            sanitizer: watched.then(|| options.plugin.clone()),
            ..Machine::of(qemu::raw_kernel(&elf)?)
        };
        let outcome = guest::boot(&machine, Some(LIMIT), Symbols::open(&elf).ok().as_ref(), &mut |_| ())?;
        ensure!(outcome.status != HANG, "{}", outcome.hang_text());
        Ok(outcome)
    }
}

/// Makes `to` the same as `from`, but for what was built there. Files that are the same stay, so that Cargo builds only what
/// changed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        let names = |folder: &Path| -> Result<Vec<_>> {
            let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
            Ok(entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?)
        };
        for name in names(to)?.into_iter().filter(|name| !from.join(name).exists()) {
            let gone = to.join(name);
            let removed = if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
            removed.with_context(|| format!("cannot remove {}", gone.display()))?;
        }
        return names(from)?
            .into_iter()
            .filter(|name| name != "target")
            .try_for_each(|name| copy(&from.join(&name), &to.join(&name)));
    }
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_boot_must_say_that_there_was_no_alarm() {
        assert_eq!(complaint("ok a\ntlb sanitizer: no alarm; 5 translations\n"), None);
        assert!(complaint("ok a\n").unwrap().contains("did not come to its end"));
        assert_eq!(complaint("ok a\nTLB SANITIZER: CPU 1\n  at 0x1\n").unwrap(), "TLB SANITIZER: CPU 1");
    }

    #[test]
    fn a_copy_has_what_the_original_has_and_nothing_else() {
        let folder = env::temp_dir().join(format!("lazuli-copy-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir_all(to.join("old")).unwrap();
        fs::write(from.join("sub/a"), "new").unwrap();
        fs::write(to.join("b"), "old").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a")).unwrap(), "new");
        assert!(!to.join("b").exists() && !to.join("old").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_copy_has_every_member_of_the_workspace() {
        let manifest = include_str!("../../Cargo.toml");
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
        let members = members.split('"').skip(1).step_by(2).filter(|member| *member != ".");
        let missing: Vec<_> = members.filter(|member| !SOURCES.iter().any(|part| member.starts_with(part))).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_mutation_applies_to_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (file, from, _) in MUTATIONS.iter().flat_map(|mutation| mutation.edits) {
            let source = fs::read_to_string(root.join(file)).unwrap();
            assert_eq!(source.matches(from).count(), 1, "{file}: {from}");
        }
    }
}
