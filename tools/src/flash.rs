//! `lazuli flash`: writes a card image to a removable disk, and to nothing else.

use std::fs::File;
use std::io::{BufRead, Read, Seek, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, OFlags, fadvise};

/// Bytes that are written and compared at once.
const PIECE: usize = 4 << 20;

/// A disk that may be written to.
#[derive(Debug)]
struct Disk {
    name: String,
    bytes: u64,
    model: String,
}

/// Where the kernel tells of disks; elsewhere in tests.
struct System {
    block: PathBuf,
    mounts: String,
    swaps: String,
}

/// Writes `image` to `device` after asking once. Returns whether it was written.
pub(crate) fn run(device: &Path, image: &Path) -> Result<bool> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let system =
        System { block: "/sys/class/block".into(), mounts: read("/proc/self/mounts")?, swaps: read("/proc/swaps")? };
    let device = std::fs::canonicalize(device).with_context(|| format!("there is no {}", device.display()))?;
    let size = std::fs::metadata(image).with_context(|| format!("cannot look at {}", image.display()))?.len();
    let disk = system.check(&device, size)?;
    print!(
        "{} is {} ({} MB). All that is on it will be lost. Type {} to go on: ",
        device.display(),
        disk.model,
        disk.bytes / 1_000_000,
        disk.name
    );
    stdout().flush().context("cannot ask")?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).context("cannot hear the answer")?;
    if answer.trim() != disk.name {
        println!("nothing was written");
        return Ok(false);
    }
    // Exclusive: fails if the kernel itself uses the disk meanwhile.
    let exclusive = OFlags::EXCL.bits() as i32;
    let open = File::options().read(true).write(true).custom_flags(exclusive).open(&device);
    write(image, &mut open.with_context(|| format!("cannot open {} for itself alone", device.display()))?)?;
    println!("{} holds the image", device.display());
    Ok(true)
}

impl System {
    /// The disk behind `device`, if it is one that may be overwritten by `size` bytes.
    fn check(&self, device: &Path, size: u64) -> Result<Disk> {
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

/// Copies the image, waits until it is on the medium, and reads it back from there.
fn write(image: &Path, target: &mut File) -> Result<()> {
    let mut source = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let total = source.metadata()?.len().max(1);
    pass("writing", total, &mut source, |piece| target.write_all(piece).context("cannot write"))?;
    target.sync_all().context("cannot sync")?;
    // What is read back must come from the medium, not from memory.
    fadvise(&*target, 0, None, Advice::DontNeed).context("cannot drop what is cached")?;
    source.rewind()?;
    target.rewind()?;
    let mut back = vec![0; PIECE];
    let mut done = 0;
    pass("verifying", total, &mut source, |piece| {
        let back = &mut back[..piece.len()];
        target.read_exact(back).context("cannot read back")?;
        let differs = back.iter().zip(piece).position(|(a, b)| a != b);
        ensure!(differs.is_none(), "byte {} differs: the medium is bad", done + differs.unwrap_or(0));
        done += piece.len();
        Ok(())
    })
}

/// Goes over the whole source piece by piece, showing how far.
fn pass(what: &str, total: u64, source: &mut File, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut done = 0u64;
    loop {
        let count = source.read(&mut piece).context("cannot read the image")?;
        if count == 0 {
            eprintln!();
            return Ok(());
        }
        each(&piece[..count])?;
        done += count as u64;
        eprint!("\r{what} {} %", done * 100 / total);
    }
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

    #[test]
    fn what_is_written_is_read_back() {
        let folder = std::env::temp_dir().join(format!("lazuli-flash-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (image, target) = (folder.join("image"), folder.join("disk"));
        let bytes: Vec<u8> = (0..PIECE + 4097).map(|at| (at * 31 / 8) as u8).collect();
        std::fs::write(&image, &bytes).unwrap();
        std::fs::write(&target, vec![0xee; PIECE * 2]).unwrap();
        let mut disk = File::options().read(true).write(true).open(&target).unwrap();
        write(&image, &mut disk).unwrap();
        let written = std::fs::read(&target).unwrap();
        assert!(written[..bytes.len()] == bytes[..] && written[bytes.len()..].iter().all(|byte| *byte == 0xee));
        // A medium that takes nothing and says that all is well.
        let mut lost = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let lost = write(&image, &mut lost).map_err(|error| error.to_string());
        assert!(lost.as_ref().is_err_and(|why| why.contains("differs") || why.contains("sync")), "{lost:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
