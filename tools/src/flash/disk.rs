//! Which disks may be written to: removable ones, whole, not in use, and large enough.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A disk that may be written to.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) model: String,
}

/// Where the kernel tells of disks; elsewhere in tests.
pub(super) struct System {
    pub(super) block: PathBuf,
    pub(super) mounts: String,
    pub(super) swaps: String,
}

impl System {
    /// This host.
    pub(super) fn here() -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        Ok(Self { block: "/sys/class/block".into(), mounts: read("/proc/self/mounts")?, swaps: read("/proc/swaps")? })
    }

    /// The disk behind `device`, if it is one that may be overwritten by `size` bytes.
    pub(super) fn check(&self, device: &Path, size: u64) -> Result<Disk> {
        let shown = device.display();
        let name = device.file_name().and_then(|name| name.to_str()).context("a device has a name")?;
        ensure!(device.parent() == Some(Path::new("/dev")), "{shown} is no device below /dev");
        let sys = self.block.join(name);
        ensure!(sys.exists(), "{shown} is no disk");
        ensure!(!sys.join("partition").exists(), "{shown} is a partition; name the whole disk");
        ensure!(sys.join("device").exists(), "{shown} is no real disk");
        let word = |file: &str| std::fs::read_to_string(sys.join(file)).unwrap_or_default().trim().to_owned();
        // A card in a slot of its own does not call itself removable.
        ensure!(word("removable") == "1" || word("device/type") == "SD", "{shown} is not removable");
        ensure!(word("ro") == "0", "{shown} is write-protected");
        // Of the disk itself or of one of its partitions: /dev/sdb1, /dev/mmcblk0p1.
        let ours = |line: &str| line.split_whitespace().next().is_some_and(|source| is_part(source, name));
        let used = self.mounts.lines().chain(self.swaps.lines()).find(|line| ours(line));
        ensure!(used.is_none(), "{shown} is in use: {}; unmount it first", used.unwrap_or_default());
        let bytes = word("size").parse::<u64>().with_context(|| format!("{shown} has no size"))? * 512;
        ensure!(bytes >= size, "{shown} has {bytes} bytes, the image {size}");
        Ok(Disk { name: name.to_owned(), bytes, model: word("device/model") + &word("device/name") })
    }
}

/// Whether `source` is the disk, or a partition of it.
fn is_part(source: &str, disk: &str) -> bool {
    let resolved = std::fs::canonicalize(source).unwrap_or_else(|_| source.into());
    let rest = resolved.to_str().and_then(|path| path.strip_prefix("/dev/")?.strip_prefix(disk));
    rest.is_some_and(|rest| rest.trim_start_matches('p').bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel's view of disks: `sdx` a card reader, `sdy` a fixed disk, `sdx1` a partition, `loop0` none.
    fn system(test: &str) -> System {
        let block = std::env::temp_dir().join(format!("lazuli-block-{test}-{}", std::process::id()));
        for (disk, files) in [
            ("sdx", &[("removable", "1\n"), ("ro", "0\n"), ("size", "8192\n"), ("device/model", "Reader\n")][..]),
            ("sdz", &[("removable", "1\n"), ("ro", "1\n"), ("size", "8192\n"), ("device/model", "Locked\n")]),
            ("sdy", &[("removable", "0\n"), ("ro", "0\n"), ("size", "8192\n"), ("device/model", "Disk\n")]),
            ("mmcblk9", &[("removable", "0\n"), ("ro", "0\n"), ("size", "8192\n"), ("device/type", "SD\n")]),
            ("sdx1", &[("removable", "1\n"), ("partition", "1\n"), ("device/model", "\n")]),
            ("loop0", &[("removable", "1\n"), ("ro", "0\n"), ("size", "8192\n")]),
        ] {
            for (file, text) in files {
                let path = block.join(disk).join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
        }
        System { block, mounts: String::new(), swaps: "Filename Type\n".to_owned() }
    }

    #[test]
    fn only_removable_whole_unmounted_disks_that_are_large_enough() {
        let mut system = system("check");
        let why = |system: &System, device: &str, size| {
            system.check(Path::new(device), size).err().map_or("accepted".to_owned(), |error| error.to_string())
        };
        assert_eq!(why(&system, "/dev/sdx", 4096 * 1024), "accepted");
        assert_eq!(why(&system, "/dev/mmcblk9", 1), "accepted");
        for (device, size, word) in [
            ("/dev/sdx", 4096 * 1024 + 1, "bytes, the image"),
            ("/dev/sdy", 1, "not removable"),
            ("/dev/sdz", 1, "write-protected"),
            ("/dev/sdx1", 1, "partition"),
            ("/dev/loop0", 1, "no real disk"),
            ("/dev/sdq", 1, "no disk"),
            ("/tmp/sdx", 1, "below /dev"),
        ] {
            let found = why(&system, device, size);
            assert!(found.contains(word), "{device}: {found}");
        }
        for (mounts, device) in
            [("/dev/sdx1 /mnt vfat rw 0 0\n", "/dev/sdx"), ("/dev/mmcblk9p2 / ext4 rw 0 0\n", "/dev/mmcblk9")]
        {
            system.mounts = mounts.to_owned();
            assert!(why(&system, device, 1).contains("in use"));
        }
        system.mounts = "/dev/sdxy1 /mnt vfat rw 0 0\n".to_owned();
        assert_eq!(why(&system, "/dev/sdx", 1), "accepted", "another disk whose name is longer");
        system.swaps += "/dev/sdx2 partition\n";
        assert!(why(&system, "/dev/sdx", 1).contains("in use"));
        std::fs::remove_dir_all(&system.block).unwrap();
    }
}
