//! `lazuli flash`: writes a card image to a removable disk, and to nothing else.

mod disk;

use std::fs::File;
use std::io::{BufRead, ErrorKind, Read, Seek, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Advice, OFlags, fadvise};

use disk::System;

/// Bytes that are written and compared at once.
const PIECE: usize = 4 << 20;

/// Writes `image` to `device` after asking once. Returns whether it was written.
pub(crate) fn run(device: &Path, image: &Path) -> Result<bool> {
    flash(&System::here()?, device, image, &mut stdin().lock())
}

fn flash(system: &System, device: &Path, image: &Path, answers: &mut dyn BufRead) -> Result<bool> {
    let device = std::fs::canonicalize(device).with_context(|| format!("there is no {}", device.display()))?;
    let size = std::fs::metadata(image).with_context(|| format!("cannot look at {}", image.display()))?.len();
    let disk = system.check(&device, size)?;
    // What may not be written to is told before anybody is asked.
    let mut target = open(&device).map_err(|error| closed(error, &device, image))?;
    print!(
        "{} is {} ({} MB). All that is on it will be lost. Type {} to go on: ",
        device.display(),
        disk.model,
        disk.bytes / 1_000_000,
        disk.name
    );
    stdout().flush().context("cannot ask")?;
    let mut answer = String::new();
    answers.read_line(&mut answer).context("cannot hear the answer")?;
    if answer.trim() != disk.name {
        println!("nothing was written");
        return Ok(false);
    }
    write(image, &mut target)?;
    println!("{} holds the image", device.display());
    Ok(true)
}

/// Opens a disk. Fails if it is mounted, or somebody else claims it: then writing would ruin what they have there.
fn open(device: &Path) -> std::io::Result<File> {
    let exclusive = OFlags::EXCL.bits() as i32;
    File::options().read(true).write(true).custom_flags(exclusive).open(device)
}

/// Why a disk cannot be opened, and what to do: `sudo make` would miss this user's Rust.
fn closed(error: std::io::Error, device: &Path, image: &Path) -> anyhow::Error {
    let (device, image) = (device.display(), image.display());
    let tool = std::env::current_exe().unwrap_or_else(|_| "lazuli".into());
    if error.kind() == ErrorKind::PermissionDenied {
        return anyhow!(
            "only root may write to {device}: sudo {} flash --device {device} --image {image}",
            tool.display()
        );
    }
    anyhow!(error).context(format!("cannot open {device} for itself alone"))
}

/// Something that is written to and read back from.
trait Medium: Read + Write + Seek {
    /// Waits until all that was written is on the medium; what is read from now on comes from there, not from memory.
    fn settle(&mut self) -> Result<()>;
}

impl Medium for File {
    fn settle(&mut self) -> Result<()> {
        self.sync_all().context("cannot sync")?;
        fadvise(&*self, 0, None, Advice::DontNeed).context("cannot drop what is cached")
    }
}

/// Copies the image, waits until it is on the medium, and reads it back from there.
fn write(image: &Path, target: &mut dyn Medium) -> Result<()> {
    let mut source = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let total = source.metadata()?.len().max(1);
    pass("writing", total, &mut source, |piece| target.write_all(piece).context("cannot write"))?;
    target.settle()?;
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
    use std::io::SeekFrom;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lazuli-flash-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn picture() -> Vec<u8> {
        (0..PIECE + 4097).map(|at| (at * 31 / 8) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = folder("file");
        let (image, target) = (folder.join("image"), folder.join("disk"));
        std::fs::write(&image, picture()).unwrap();
        std::fs::write(&target, vec![0xee; PIECE * 2]).unwrap();
        write(&image, &mut File::options().read(true).write(true).open(&target).unwrap()).unwrap();
        let written = std::fs::read(&target).unwrap();
        let (copy, rest) = written.split_at(picture().len());
        assert!(copy == picture() && rest.iter().all(|byte| *byte == 0xee));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn who_may_not_write_is_told_who_may() {
        let why = |kind: ErrorKind| closed(kind.into(), Path::new("/dev/sdx"), Path::new("card.img")).to_string();
        let denied = why(ErrorKind::PermissionDenied);
        assert!(denied.starts_with("only root may write to /dev/sdx: sudo /"), "{denied}");
        assert!(denied.ends_with(" flash --device /dev/sdx --image card.img"), "{denied}");
        assert!(why(ErrorKind::ResourceBusy).contains("for itself alone"));
    }

    /// A disk of the real kind, backed by a file of the test's.
    struct Loop {
        device: PathBuf,
        behind: PathBuf,
        system: System,
    }

    impl Loop {
        /// None where this user may have no such devices.
        fn new(folder: &Path, bytes: u64) -> Option<Self> {
            let behind = folder.join("behind");
            File::create(&behind).unwrap().set_len(bytes).unwrap();
            let output = Command::new("losetup").args(["--find", "--show"]).arg(&behind).output().ok()?;
            let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            let sys = folder.join(device.file_name()?).join("device");
            std::fs::create_dir_all(&sys).unwrap();
            let sectors = format!("{}\n", bytes / 512);
            for (file, text) in [("../removable", "1\n"), ("../ro", "0\n"), ("../size", &sectors), ("model", "Loop\n")]
            {
                std::fs::write(sys.join(file), text).unwrap();
            }
            let system = System { block: folder.to_owned(), mounts: String::new(), swaps: String::new() };
            Some(Self { device, behind, system })
        }

        fn flash(&self, image: &Path, answer: &str) -> Result<bool> {
            flash(&self.system, &self.device, image, &mut answer.as_bytes())
        }

        fn holds(&self) -> Vec<u8> {
            std::fs::read(&self.behind).unwrap()
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            // It is detached with this process's last file at the latest.
            let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
        }
    }

    /// A medium on which a byte goes bad as soon as nobody looks.
    struct Rotten {
        disk: File,
        behind: File,
        at: u64,
    }

    impl Read for Rotten {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            self.disk.read(to)
        }
    }

    impl Write for Rotten {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            self.disk.write(from)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.disk.flush()
        }
    }

    impl Seek for Rotten {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.disk.seek(to)
        }
    }

    impl Medium for Rotten {
        fn settle(&mut self) -> Result<()> {
            self.disk.settle()?;
            self.behind.seek(SeekFrom::Start(self.at))?;
            let mut byte = [0];
            self.behind.read_exact(&mut byte)?;
            self.behind.seek(SeekFrom::Start(self.at))?;
            Ok(self.behind.write_all(&[byte[0] ^ 1])?)
        }
    }

    #[test]
    fn a_loop_device_is_written_after_a_yes_and_read_back_from_the_medium() {
        let folder = folder("loop");
        let image = folder.join("image");
        std::fs::write(&image, picture()).unwrap();
        let bytes = 2 * PIECE as u64;
        let Some(disk) = Loop::new(&folder, bytes) else {
            eprintln!("no loop devices for this user: only files were written");
            return;
        };
        let name = format!("{}\n", disk.device.file_name().unwrap().to_str().unwrap());
        // As this host sees it, it is no removable disk.
        let why = flash(&System::here().unwrap(), &disk.device, &image, &mut name.as_bytes()).unwrap_err();
        assert!(why.to_string().contains("no real disk"), "{why}");
        for no in ["no\n", "yes\n", "\n", "", "/dev/sdx\n"] {
            assert!(!disk.flash(&image, no).unwrap(), "{no:?}");
        }
        let claim = open(&disk.device).unwrap();
        let why = disk.flash(&image, &name).unwrap_err().to_string();
        assert!(why.contains("for itself alone"), "{why}");
        drop(claim);
        assert!(disk.holds() == vec![0; bytes as usize], "nothing was written so far");

        assert!(disk.flash(&image, &name).unwrap());
        assert!(disk.holds().starts_with(&picture()));

        let at = PIECE as u64 + 77;
        let behind = File::options().read(true).write(true).open(&disk.behind).unwrap();
        let mut rotten = Rotten { disk: open(&disk.device).unwrap(), behind, at };
        let why = write(&image, &mut rotten).unwrap_err().to_string();
        assert_eq!(why, format!("byte {at} differs: the medium is bad"));
        drop((rotten, disk));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
