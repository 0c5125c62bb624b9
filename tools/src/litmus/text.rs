//! A litmus test as text: its columns, what in them orders, and the same test with less order.

use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use mm::{Op, Sequence};

/// A file of mm/litmus.
pub(super) struct Litmus {
    text: String,
    name: Range<usize>,
    /// One column of instructions for each CPU.
    cpus: Vec<Vec<Cell>>,
    /// What the herd knows as a variant.
    pub(super) variant: String,
    sequences: Vec<(usize, Vec<Sequence>)>,
    not_enough: Vec<(usize, String)>,
}

/// One instruction, and where in the text it stands.
struct Cell {
    instruction: String,
    place: Range<usize>,
}

impl FromStr for Litmus {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix("AArch64 ").and_then(|rest| rest.lines().next());
        let name = name.context("it does not begin with `AArch64 NAME`")?;
        let key = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let mut litmus = Self {
            text: text.to_owned(),
            name: 8..8 + name.len(),
            cpus: columns(text)?,
            variant: key("Variant").unwrap_or("vmsa").to_owned(),
            sequences: Vec::new(),
            not_enough: Vec::new(),
        };
        for part in key("Sequences").into_iter().flat_map(|list| list.split(';')) {
            let (cpu, words) = litmus.cpu_and_rest(part)?;
            litmus.sequences.push((cpu, words.split(' ').map(sequence).collect::<Result<_>>()?));
        }
        for part in key("NotEnough").into_iter().flat_map(|list| list.split(';')) {
            let (cpu, barrier) = litmus.cpu_and_rest(part)?;
            litmus.not_enough.push((cpu, barrier.to_owned()));
        }
        Ok(litmus)
    }
}

impl Litmus {
    pub(super) fn name(&self) -> &str {
        &self.text[self.name.clone()]
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The sentence that says what must not happen.
    pub(super) fn claim(&self) -> &str {
        self.text.lines().nth(1).unwrap_or_default().trim_matches('"')
    }

    fn cpu_and_rest<'a>(&self, part: &'a str) -> Result<(usize, &'a str)> {
        let split = part.trim().strip_prefix('P').and_then(|rest| rest.split_once(' '));
        let (cpu, rest) = split.with_context(|| format!("`{part}` does not begin with a CPU"))?;
        let cpu = cpu.parse().with_context(|| format!("`{part}` does not begin with a CPU"))?;
        ensure!(cpu < self.cpus.len(), "`{part}` names a CPU that the test does not have");
        Ok((cpu, rest))
    }

    /// The sequences of the mm layer that the test says it is about stand in it, as shipped.
    pub(super) fn check_sequences(&self) -> Result<()> {
        for (cpu, sequences) in &self.sequences {
            let shipped: Vec<&str> =
                sequences.iter().flat_map(|sequence| sequence.ops()).filter_map(mnemonic).collect();
            let here: Vec<String> = self.cpus[*cpu].iter().filter_map(Cell::operation).collect();
            let found = here.windows(shipped.len()).any(|window| window == shipped);
            ensure!(found, "P{cpu} has {here:?}, and mm ships {shipped:?} as {sequences:?}");
        }
        Ok(())
    }

    /// The test with less order: what was weakened, and the text. Each has to fail.
    pub(super) fn weakened(&self) -> Vec<(String, String)> {
        let mut list: Vec<(String, Vec<(&Cell, String)>)> = Vec::new();
        for (cpu, cells) in self.cpus.iter().enumerate() {
            for cell in cells {
                if let Some(weaker) = weaker(&cell.instruction) {
                    let without = if weaker == "NOP" { "without" } else { "no order by" };
                    list.push((format!("{without} {} of P{cpu}", cell.instruction), vec![(cell, weaker)]));
                }
            }
        }
        for (cpu, barrier) in &self.not_enough {
            let barriers = self.cpus[*cpu].iter().filter(|cell| cell.instruction.starts_with("DSB"));
            let changes = barriers.map(|cell| (cell, barrier.clone())).collect();
            list.push((format!("{barrier} in P{cpu} where a DSB stands"), changes));
        }
        let texts = (1..).zip(list).map(|(number, (what, changes))| (what, self.changed(&changes, number)));
        texts.collect()
    }

    fn changed(&self, changes: &[(&Cell, String)], number: usize) -> String {
        let mut text = self.text.clone();
        for (cell, instruction) in changes.iter().rev() {
            text.replace_range(cell.place.clone(), instruction);
        }
        text.insert_str(self.name.end, &format!("-{number}"));
        text
    }
}

impl Cell {
    /// The instruction as an operation of a sequence, if it could be one.
    fn operation(&self) -> Option<String> {
        let mut words = self.instruction.split([' ', ',']);
        match (words.next()?, words.next()) {
            ("ISB", None) => Some("ISB".to_owned()),
            (first @ ("DSB" | "TLBI"), Some(second)) => Some(format!("{first} {second}")),
            _ => None,
        }
    }
}

/// The columns of the table between the initial state and the condition.
fn columns(text: &str) -> Result<Vec<Vec<Cell>>> {
    let start = text.find("\n}\n").context("it has no initial state in braces")? + 3;
    let end = text[start..].find("\nexists").context("it has no condition `exists`")? + start;
    let mut rows = text[start..end].split(';');
    let heads = rows.next().context("it has no program")?;
    let mut columns: Vec<Vec<Cell>> = heads.split('|').map(|_| Vec::new()).collect();
    let mut at = start + heads.len() + 1;
    for row in rows.map(|row| row.trim_end_matches('\n')).filter(|row| !row.trim().is_empty()) {
        ensure!(row.split('|').count() == columns.len(), "a line with another number of columns: {row}");
        for (column, cell) in columns.iter_mut().zip(row.split('|')) {
            // A label is none of the instruction's.
            let skip = cell.find(": ").map_or(0, |colon| colon + 2);
            let trimmed = cell[skip..].trim();
            if !trimmed.is_empty() && !trimmed.ends_with(':') {
                let from = at + skip + cell[skip..].find(trimmed).unwrap_or(0);
                column.push(Cell { instruction: trimmed.to_owned(), place: from..from + trimmed.len() });
            }
            at += cell.len() + 1;
        }
    }
    Ok(columns)
}

/// What becomes of an instruction that orders others when it no longer does; `None` if it orders none.
fn weaker(instruction: &str) -> Option<String> {
    let (mnemonic, operands) = instruction.split_once(' ').unwrap_or((instruction, ""));
    Some(match mnemonic {
        "DSB" | "DMB" | "ISB" | "TLBI" | "DC" | "IC" => "NOP".to_owned(),
        "STLR" => format!("STR {operands}"),
        "LDAR" => format!("LDR {operands}"),
        "STLXR" => format!("STXR {operands}"),
        // Not exclusive any more: without the register that says whether it succeeded.
        "STXR" => format!("STR {}", operands.split_once(',')?.1),
        _ => return None,
    })
}

fn sequence(name: &str) -> Result<Sequence> {
    let named = Sequence::ALL.iter().find(|sequence| format!("{sequence:?}") == name);
    named.copied().with_context(|| format!("mm has no sequence {name}"))
}

/// How the herd writes an operation. It knows one shareability domain; `None` for what it does not know.
fn mnemonic(op: &Op) -> Option<&'static str> {
    Some(match op {
        Op::DsbIshst | Op::DsbNshst => "DSB ISHST",
        Op::DsbIsh | Op::DsbNsh => "DSB ISH",
        Op::Isb => "ISB",
        Op::TlbiVale1is => "TLBI VALE1IS",
        Op::TlbiVae1is => "TLBI VAE1IS",
        Op::TlbiVale1 => "TLBI VALE1",
        Op::TlbiVae1 => "TLBI VAE1",
        Op::TlbiAside1is => "TLBI ASIDE1IS",
        Op::TlbiAside1 => "TLBI ASIDE1",
        Op::TlbiVmalle1 => "TLBI VMALLE1",
        _ => return None,
    })
}

/// What the herd observed, from what it printed.
pub(super) fn verdict(name: &str, output: &str) -> Result<String> {
    let word = |line: &str| Some(line.strip_prefix("Observation ")?.strip_prefix(name)?.split(' ').nth(1)?.to_owned());
    match output.lines().find_map(word) {
        Some(word) => Ok(word),
        None => bail!("herd7 gives no verdict: {}", output.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = "AArch64 t\n\"No\"\nSequences=P0 PublishEntries; P1 LoadRoot\nNotEnough=P0 DMB ISH\n{\n x=0;\n}\n \
        P0 | P1 ;\n STR W1,[X0] | L0: LDAR W1,[X0] ;\n DSB ISHST | ISB ;\n L1: | DSB ISH ;\nexists (0:X1=1)\n";

    #[test]
    fn each_barrier_is_weakened_alone() {
        let litmus: Litmus = TEST.parse().unwrap();
        assert_eq!((litmus.name(), litmus.claim(), &*litmus.variant), ("t", "No", "vmsa"));
        litmus.check_sequences().unwrap();
        let weakened = litmus.weakened();
        let what: Vec<&str> = weakened.iter().map(|(what, _)| what.as_str()).collect();
        let expected = [
            "without DSB ISHST of P0",
            "no order by LDAR W1,[X0] of P1",
            "without ISB of P1",
            "without DSB ISH of P1",
            "DMB ISH in P0 where a DSB stands",
        ];
        assert_eq!(what, expected);
        let table = |text: &str| text.split("}\n").nth(1).unwrap().to_owned();
        assert_eq!(table(&weakened[0].1), table(TEST).replace("DSB ISHST", "NOP"));
        assert_eq!(table(&weakened[1].1), table(TEST).replace("LDAR", "LDR"));
        assert!(weakened[1].1.starts_with("AArch64 t-2\n"));
    }

    #[test]
    fn a_sequence_that_mm_ships_otherwise_is_noticed() {
        let litmus: Litmus = TEST.replace("ISHST | ISB", "ISHST | NOP").parse().unwrap();
        assert!(litmus.check_sequences().is_err());
        assert!(TEST.replace("PublishEntries", "Nothing").parse::<Litmus>().is_err());
    }

    #[test]
    fn a_verdict_is_that_of_this_test() {
        let output = "Test t Allowed\nObservation t-2 Sometimes 1 3\n";
        assert_eq!(verdict("t-2", output).unwrap(), "Sometimes");
        assert!(verdict("x", output).is_err());
    }
}
