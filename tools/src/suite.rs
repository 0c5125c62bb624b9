//! Suites (a test kernel, or a test program under the real kernel) and the matrix of machines each is booted on.
//!
//! A suite states where it may run in its own source, in lines such as
//!
//! ```text
//! //@ smp: 2 4          only on these numbers of CPUs; likewise board, gic, scheme, cpu, el, tlbi
//! //@ board: standin    on no board of the matrix, but by the stand-in firmware; see `careful`
//! //@ scheme: every      not the five schemes alone, but also with their modifiers
//! //@ mode: icount      counts instructions; the default, parallel, runs each CPU as a thread of its own
//! //@ timeout: 120      seconds for one boot
//! //@ sanitize: tlb     it is among those that the TLB sanitizer watches, when asked to
//! //@ append: asid_bits=4
//! //@ args: --seed 7
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::board::Board;
use crate::options;
use crate::pairwise;
use crate::qemu::Machine;

/// What may differ between two boots of a suite, in the order of a cell's name.
const AXES: [(&str, &[&str]); 7] = [
    ("board", &["virt", "rpi4"]),
    ("smp", &["1", "2", "4", "8"]),
    ("gic", &["2", "3"]),
    (
        "scheme",
        &[
            "refcount",
            "shootdown",
            "handoff",
            "qsbr",
            "eager",
            "refcount+exit",
            "shootdown+exit",
            "shootdown+slot",
            "shootdown+trim",
            "shootdown+slot+trim",
            "shootdown+batch4",
            "handoff+exit",
            "handoff+after5",
            "qsbr+exit",
        ],
    ),
    ("cpu", &["cortex-a72", "max"]),
    ("el", &["1", "2"]),
    ("tlbi", &["broadcast", "ipi", "piggyback", "auto", "retire"]),
];
/// The words of the command line that each way to flush stands for, and the schemes with which it means nothing.
const FLUSHES: [(&str, &[&str]); 5] = [
    ("", &[]),
    ("tlbi=ipi", &[]),
    ("tlbi=ipi tlbi.piggyback=on", &["eager"]),
    ("tlbi=auto", &[]),
    ("tlbi.exit=retire", &["refcount", "handoff", "qsbr"]),
];
/// How many axes, the last ones before the way to flush, take turns in the full product.
const TAKE_TURNS: usize = 2;
/// What the Raspberry Pi 4 has on the axes where it leaves no choice.
const RPI4: [Option<&str>; AXES.len()] =
    [Some("rpi4"), Some("4"), Some("2"), None, Some("cortex-a72"), Some("2"), Some("broadcast")];
/// A value of the first axis that no boot has.
const STANDIN: &str = "standin";
/// Places in it.
const SCHEME: usize = 3;
const CPU: usize = 4;
const EL: usize = 5;
const TLBI: usize = 6;
/// More virtual CPUs than this as parallel threads would starve one another on a small host.
const MOST_PARALLEL: u32 = 4;

/// Where and how a suite runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Per axis the values that are allowed; empty means all.
    only: [Vec<String>; AXES.len()],
    icount: bool,
    pub(crate) timeout_s: u64,
    pub(crate) sanitized: bool,
    append: String,
    args: String,
}

impl Default for Rules {
    fn default() -> Self {
        let mut only: [Vec<String>; AXES.len()] = Default::default();
        only[SCHEME] = options::SCHEMES.iter().map(|&scheme| scheme.to_owned()).collect();
        Self { only, icount: false, timeout_s: 60, sanitized: false, append: String::new(), args: String::new() }
    }
}

impl Rules {
    /// Reads the `//@` lines of a source file.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        let mut rules = Self::default();
        for line in source.lines().filter_map(|line| line.strip_prefix("//@ ")) {
            let (key, value) =
                line.split_once(": ").with_context(|| format!("`//@ {line}` is not `//@ key: value`"))?;
            rules.set(key, value.trim()).with_context(|| format!("in `//@ {line}`"))?;
        }
        Ok(rules)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if (key, value) == ("scheme", "every") {
            self.only[SCHEME].clear();
            return Ok(());
        }
        if let Some(axis) = AXES.iter().position(|(name, _)| *name == key) {
            let known = AXES[axis].1;
            self.only[axis] = value.split_whitespace().map(str::to_owned).collect();
            let stranger = self.only[axis].iter().find(|value| !known.contains(&value.as_str()) && *value != STANDIN);
            ensure!(stranger.is_none(), "{key} is one of {}", known.join(", "));
            return Ok(());
        }
        match (key, value) {
            ("mode", "icount") => self.icount = true,
            ("mode", "parallel") => self.icount = false,
            ("timeout", seconds) => self.timeout_s = seconds.parse().context("timeout is in seconds")?,
            ("sanitize", "tlb") => self.sanitized = true,
            ("append", words) => self.append = words.to_owned(),
            ("args", words) => self.args = words.to_owned(),
            _ => bail!("keys are board, smp, gic, scheme, cpu, el, tlbi, mode, timeout, sanitize, append, args"),
        }
        Ok(())
    }

    fn allows(&self, axis: usize, value: usize) -> bool {
        self.only[axis].is_empty() || self.only[axis].iter().any(|allowed| allowed == AXES[axis].1[value])
    }
}

/// One thing to boot in many machines.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
    /// The raw kernel, and the ELF file with its symbols.
    pub(crate) kernel: PathBuf,
    pub(crate) elf: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    /// The program to start; none if the kernel is itself the test.
    pub(crate) init: Option<String>,
    pub(crate) rules: Rules,
}

/// One boot of one suite: the suite's number, then a value per axis.
pub(crate) struct Cell(Vec<usize>);

/// Every boot that the suites allow.
pub(crate) fn all_cells(suites: &[Suite]) -> Vec<Cell> {
    let axes = AXES.iter().map(|(_, values)| values.len());
    let levels: Vec<usize> = std::iter::once(suites.len()).chain(axes).collect();
    let allowed = |row: &Vec<usize>| (0..AXES.len()).all(|axis| suites[row[0]].rules.allows(axis, row[axis + 1]));
    pairwise::product(&levels).into_iter().filter(allowed).map(Cell).filter(Cell::exists).collect()
}

/// The full product of what the tests promise: each suite on each board with each number of CPUs, interrupt controller and
/// scheme. The CPU model and the exception level take turns, so that each still meets each value of each other axis:
/// four times as many boots would find what two of the first three axes and both of these bring about together. To that
/// the pairwise choice is added of what flushes in another way than usual.
pub(crate) fn full_cells(suites: &[Suite]) -> Vec<Cell> {
    let mut groups: BTreeMap<Vec<usize>, Vec<Cell>> = BTreeMap::new();
    for cell in all_cells(suites).into_iter().filter(Cell::flushes_as_usual) {
        groups.entry(cell.0[..=TLBI - TAKE_TURNS].to_vec()).or_default().push(cell);
    }
    let take = |(key, mut cells): (Vec<usize>, Vec<Cell>)| {
        let turn = key[1..].iter().sum::<usize>() % cells.len();
        cells.swap_remove(turn)
    };
    let others = pairwise_cells(suites).into_iter().filter(|cell| !cell.flushes_as_usual());
    groups.into_iter().map(take).chain(others).collect()
}

/// Few of these boots. On `virt` every pair still occurs, of two axes, and of each suite with each value; on the
/// Raspberry Pi 4, where only the scheme varies, each suite is booted once, with the schemes in turn.
pub(crate) fn pairwise_cells(suites: &[Suite]) -> Vec<Cell> {
    let (virt, rpi4): (Vec<_>, Vec<_>) = all_cells(suites).into_iter().partition(|cell| cell.board() == Board::Virt);
    let rows: Vec<_> = virt.into_iter().map(|cell| cell.0).collect();
    let mut cells: Vec<_> = pairwise::choose(&rows).into_iter().map(|index| Cell(rows[index].clone())).collect();
    for suite in 0..suites.len() {
        let mine: Vec<_> = rpi4.iter().filter(|cell| cell.0[0] == suite).collect();
        cells.extend(mine.get(suite % mine.len().max(1)).map(|cell| Cell(cell.0.clone())));
    }
    cells
}

/// The boots that differ in the scheme, its modifiers and the way to flush alone, each suite on as many CPUs as it allows, to
/// be booted on still more: on `virt` with a GICv3, entered at EL1.
pub(crate) fn large_cells(suites: &[Suite]) -> Vec<Cell> {
    let mut cells = all_cells(suites);
    let plain = |cell: &Cell| [2, CPU, EL].map(|axis| cell.value(axis)) == ["3", "cortex-a72", "1"];
    cells.retain(|cell| cell.board() == Board::Virt && plain(cell));
    let most = |suite: usize| cells.iter().filter(|cell| cell.0[0] == suite).map(|cell| cell.0[2]).max();
    let most: Vec<_> = (0..suites.len()).map(most).collect();
    cells.retain(|cell| Some(cell.0[2]) == most[cell.0[0]]);
    cells
}

impl Cell {
    pub(crate) fn suite<'a>(&self, suites: &'a [Suite]) -> &'a Suite {
        &suites[self.0[0]]
    }

    fn value(&self, axis: usize) -> &'static str {
        AXES[axis].1[self.0[axis + 1]]
    }

    pub(crate) fn board(&self) -> Board {
        Board::ALL[self.0[1]]
    }

    /// Whether the board can be such a machine, and the way to flush means something with the scheme. The modifiers of a
    /// scheme, which know nothing of exception levels and CPU features, are tried on one kind of CPU and with the usual flush.
    fn exists(&self) -> bool {
        let fits = |axis: usize| RPI4[axis].is_none_or(|value| value == self.value(axis));
        let plain = !self.value(SCHEME).contains('+');
        let one_kind = || self.value(CPU) == "cortex-a72" && self.value(EL) == "1" && self.flushes_as_usual();
        match self.board() {
            Board::Virt if plain => !FLUSHES[self.0[TLBI + 1]].1.contains(&self.value(SCHEME)),
            Board::Virt => one_kind(),
            Board::Rpi4 => (0..AXES.len()).all(fits),
        }
    }

    pub(crate) fn flushes_as_usual(&self) -> bool {
        self.0[TLBI + 1] == 0
    }

    /// Such as `ipi-smp4-gic3-shootdown-cortex-a72-el1`, with `-auto` behind it if that is how it flushes, or
    /// `ipi-rpi4-shootdown`.
    pub(crate) fn name(&self, suites: &[Suite]) -> String {
        let [board, smp, gic, scheme, cpu, el, tlbi] = std::array::from_fn(|axis| self.value(axis));
        let suite = &self.suite(suites).name;
        let tlbi = if self.flushes_as_usual() { String::new() } else { format!("-{tlbi}") };
        match self.board() {
            Board::Virt => format!("{suite}-smp{smp}-gic{gic}-{scheme}-{cpu}-el{el}{tlbi}"),
            Board::Rpi4 => format!("{suite}-{board}-{scheme}"),
        }
    }

    /// The machine it runs on.
    pub(crate) fn machine(&self, suites: &[Suite]) -> Result<Machine> {
        let suite = self.suite(suites);
        let [_, smp, gic, scheme, cpu, el, _] = std::array::from_fn(|axis| self.value(axis));
        let smp = smp.parse()?;
        let (scheme, modifiers) = options::of(scheme)?;
        Ok(Machine {
            initrd: suite.initrd.clone(),
            board: self.board(),
            smp,
            gic: gic.parse()?,
            cpu: cpu.to_owned(),
            virtualization: el == "2",
            icount: suite.rules.icount || smp > MOST_PARALLEL,
            scheme: Some(scheme),
            cmdline: format!("{modifiers} {} {}", FLUSHES[self.0[TLBI + 1]].0, suite.rules.append).trim().to_owned(),
            init: suite.init.clone(),
            args: suite.rules.args.clone(),
            ..Machine::of(suite.kernel.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, source: &str) -> Suite {
        Suite {
            name: name.to_owned(),
            kernel: "k.img".into(),
            elf: "k".into(),
            initrd: None,
            init: None,
            rules: Rules::parse(source).unwrap(),
        }
    }

    #[test]
    fn rules_are_read_from_the_source() {
        let rules = Rules::parse("//! Doc.\n//@ smp: 2 4\n//@ mode: icount\n//@ timeout: 9\n//@ args: -s 1\nfn x() {}")
            .unwrap();
        assert!(rules.icount && !rules.allows(1, 0) && rules.allows(1, 1) && rules.allows(2, 0));
        assert_eq!((rules.timeout_s, rules.args.as_str()), (9, "-s 1"));
        assert_eq!(Rules::parse("//! Doc.").unwrap(), Rules::default());
    }

    #[test]
    fn wrong_rules_are_refused_with_what_is_valid() {
        for (source, word) in [
            ("//@ smp: 3", "1, 2, 4, 8"),
            ("//@ cores: 2", "keys are"),
            ("//@ icount", "key: value"),
            ("//@ mode: x", "keys are"),
        ] {
            let error = format!("{:#}", Rules::parse(source).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_full_product_honours_each_suites_rules() {
        let suites = [suite("a", ""), suite("b", "//@ smp: 1\n//@ scheme: eager shootdown\n")];
        let cells = all_cells(&suites);
        // On virt a scheme and a way to flush: all pairs, less those that mean nothing.
        assert_eq!(cells.len(), (4 * 2 * 2 * 2 * (5 * 5 - 4) + 5) + 2 * 2 * 2 * (2 * 5 - 1));
    }

    #[test]
    fn modifiers_are_tried_where_a_suite_asks_for_them() {
        let suites = [suite("a", "//@ scheme: every"), suite("b", "")];
        let cells = all_cells(&suites);
        let modified: Vec<_> = cells.iter().filter(|cell| cell.name(&suites).contains('+')).collect();
        assert_eq!(
            modified.len(),
            9 * (4 * 2 + 1),
            "on each number of CPUs with each interrupt controller, and on the Pi"
        );
        assert!(modified.iter().all(|cell| cell.suite(&suites).name == "a"));
        let slot = modified.iter().find(|cell| cell.name(&suites).contains("-shootdown+slot-")).unwrap();
        let line = slot.machine(&suites).unwrap().append();
        assert!(line.contains("lazy_tlb=shootdown") && line.contains("lazy_tlb.target=slot"), "{line}");
    }

    #[test]
    fn large_cells_are_each_option_once_on_the_most_cpus() {
        let suites = [suite("a", "//@ scheme: every"), suite("b", "//@ smp: 2 4\n//@ scheme: eager")];
        let names: Vec<_> = large_cells(&suites).iter().map(|cell| cell.name(&suites)).collect();
        assert_eq!(names.len(), 5 * 5 - 4 + 9 + 4);
        for name in ["a-smp8-gic3-qsbr+exit-cortex-a72-el1", "b-smp4-gic3-eager-cortex-a72-el1-auto"] {
            assert!(names.iter().any(|other| other == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn the_full_product_lets_no_pair_out() {
        let suites = [suite("a", ""), suite("b", "//@ smp: 2 4\n//@ gic: 3\n")];
        let cells = full_cells(&suites);
        let usual = |name: &str| {
            let usual = cells.iter().filter(|cell| cell.flushes_as_usual() && cell.board() == Board::Virt);
            usual.filter(|cell| cell.suite(&suites).name == name).count()
        };
        let schemes = options::SCHEMES.len();
        assert_eq!([usual("a"), usual("b")], [4 * 2 * schemes, 2 * schemes]);
        for every in all_cells(&suites) {
            for (low, high) in (0..every.0.len()).flat_map(|low| (low + 1..every.0.len()).map(move |high| (low, high)))
            {
                let met = |cell: &Cell| cell.0[low] == every.0[low] && cell.0[high] == every.0[high];
                assert!(cells.iter().any(met), "{}: axes {low} and {high}", every.name(&suites));
            }
        }
    }

    #[test]
    fn pairwise_boots_each_suite_with_each_value() {
        let suites = [suite("a", ""), suite("b", "//@ smp: 1 2"), suite("c", ""), suite("d", "")];
        let cells = pairwise_cells(&suites);
        assert!(cells.len() <= 40 + 3, "{}", cells.len());
        let names: Vec<_> = cells.iter().map(|cell| cell.name(&suites)).collect();
        for (suite, part) in [
            ("a", "smp8"),
            ("b", "smp2"),
            ("c", "eager"),
            ("d", "el2"),
            ("b", "gic2"),
            ("a", "max"),
            ("c", "rpi4"),
            ("d", "retire"),
        ] {
            let met = |name: &String| name.starts_with(&format!("{suite}-")) && name.contains(part);
            assert!(names.iter().any(met), "{suite} with {part}: {names:?}");
        }
        let on_rpi4: Vec<_> = names.iter().filter(|name| name.contains("rpi4")).collect();
        assert_eq!(on_rpi4, ["a-rpi4-refcount", "c-rpi4-handoff", "d-rpi4-qsbr"]);
        assert!(!names.iter().any(|name| name.starts_with("b-smp4") || name.starts_with("b-smp8")));
    }

    #[test]
    fn many_cpus_never_run_in_parallel() {
        let suites = [suite("a", ""), suite("b", "//@ mode: icount")];
        for cell in all_cells(&suites) {
            let machine = cell.machine(&suites).unwrap();
            assert_eq!(machine.icount, machine.smp > 4 || cell.suite(&suites).name == "b");
        }
    }

    #[test]
    fn a_cell_is_named_after_its_machine() {
        let suites = [suite("ipi", "")];
        let on_virt = |cell: &Cell| cell.board() == Board::Virt;
        let cell = all_cells(&suites).into_iter().rfind(on_virt).unwrap();
        assert_eq!(cell.name(&suites), "ipi-smp8-gic3-eager-max-el2-retire");
        let machine = cell.machine(&suites).unwrap();
        assert!(machine.virtualization && machine.gic == 3 && machine.append().contains("lazy_tlb=eager"));
    }

    #[test]
    fn the_pi_is_one_machine_for_each_scheme() {
        let suites = [suite("ipi", ""), suite("one-cpu", "//@ smp: 1"), suite("virt-only", "//@ board: virt")];
        let cells: Vec<_> = all_cells(&suites).into_iter().filter(|cell| cell.board() == Board::Rpi4).collect();
        let names: Vec<_> = cells.iter().map(|cell| cell.name(&suites)).collect();
        assert_eq!(
            names,
            ["refcount", "shootdown", "handoff", "qsbr", "eager"].map(|scheme| format!("ipi-rpi4-{scheme}"))
        );
        assert_eq!(cells[0].machine(&suites).unwrap().board, Board::Rpi4);
    }

    #[test]
    fn both_boards_boot_the_same_file() {
        let suites = [suite("a", "")];
        let kernels: Vec<_> = all_cells(&suites).iter().map(|cell| cell.machine(&suites).unwrap().kernel).collect();
        assert!(kernels.iter().all(|kernel| *kernel == suites[0].kernel));
    }

    #[test]
    fn boards_are_named_alike_everywhere() {
        assert_eq!(Board::ALL.map(Board::name), AXES[0].1);
    }
}
