//! What earlier boots measured: a boot is not repeated as long as the machine and what it boots are the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::qemu::Machine;

/// A folder with one file for each boot.
pub(crate) struct Store {
    folder: PathBuf,
    /// Of the files that results depend on.
    contents: u64,
}

impl Store {
    /// Makes the folder if there is none. Results depend on the kernel, the archive and `others`.
    pub(crate) fn open(folder: &Path, machine: &Machine, others: &[&Path]) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut hasher = DefaultHasher::new();
        let booted = [Some(machine.kernel.as_path()), machine.initrd.as_deref()].into_iter().flatten();
        for file in booted.chain(others.iter().copied()) {
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
        }
        Ok(Self { folder: folder.to_owned(), contents: hasher.finish() })
    }

    /// The file of that boot.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// The key under which the results of a boot stand: all that they depend on.
    fn key(&self, machine: &Machine) -> String {
        format!("{:016x} {}", self.contents, machine.shell_line())
    }

    /// What that boot measured, if it was done with this very machine and these files.
    pub(crate) fn load(&self, name: &str, machine: &Machine) -> Option<Value> {
        let text = std::fs::read_to_string(self.file(name)).ok()?;
        let mut value: Value = serde_json::from_str(&text).ok()?;
        (value["key"] == self.key(machine)).then(|| value["results"].take())
    }

    /// Keeps what a boot measured.
    pub(crate) fn save(&self, name: &str, machine: &Machine, results: &Value) -> Result<()> {
        let text = json!({"key": self.key(machine), "results": results}).to_string();
        std::fs::write(self.file(name), text).with_context(|| format!("cannot write the results of {name}"))
    }

    /// Keeps the console of a boot that failed, and says where.
    pub(crate) fn keep_console(&self, name: &str, machine: &Machine, console: &str) -> Result<PathBuf> {
        let log = self.folder.join(format!("{name}.log"));
        let text = format!("{}\n{console}", machine.shell_line());
        std::fs::write(&log, text).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_good_for_the_same_machine_and_contents_only() {
        let folder = std::env::temp_dir().join(format!("lazuli-store-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, "one").unwrap();
        let machine = Machine::of(kernel.clone());
        let all = json!([{"workload": "x"}]);
        let store = Store::open(&folder, &machine, &[]).unwrap();
        store.save("x", &machine, &all).unwrap();
        assert_eq!(store.load("x", &machine), Some(all));
        assert_eq!(store.load("x", &Machine { smp: 8, ..machine.clone() }), None);
        assert_eq!(store.load("y", &machine), None);
        assert_eq!(Store::open(&folder, &machine, &[&kernel]).unwrap().load("x", &machine), None);
        std::fs::write(&kernel, "two").unwrap();
        assert_eq!(Store::open(&folder, &machine, &[]).unwrap().load("x", &machine), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
