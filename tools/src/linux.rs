//! Debian's Linux for arm64, as it is compared with Lazuli: which file, which version, which command lines.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// As Debian ships it: nothing but a console.
pub(crate) const DEFAULT: &str = "console=ttyAMA0";
/// Without what costs time on every operation and which Lazuli does not have: mitigations, auditing, security modules,
/// accounting of memory, zeroing of freed memory, kernel page table isolation, and pressure statistics.
pub(crate) const TUNED: &str = "console=ttyAMA0 mitigations=off randomize_kstack_offset=off psi=0 audit=0 apparmor=0 lsm= \
                                cgroup_disable=memory init_on_alloc=0 rodata=off kpti=off";

/// What an arm64 Image has at its 56th byte (Linux, Documentation/arch/arm64/booting.rst).
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");
/// How Linux begins to say what it is.
const BANNER: &[u8] = b"Linux version ";

/// The Image at `path`, or the one in the folder that a package was unpacked to.
pub(crate) fn image(path: &Path) -> Result<PathBuf> {
    let file = if path.is_dir() { in_package(path)? } else { path.to_owned() };
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (at, magic) = MAGIC;
    let why = "is no uncompressed arm64 Image; one that is packed (zboot, gzip) must be unpacked first";
    ensure!(bytes.get(at..at + magic.len()) == Some(magic), "{} {why}", file.display());
    Ok(file)
}

fn in_package(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    let files =
        std::fs::read_dir(&boot).with_context(|| format!("no {}; name a kernel: LINUX_IMAGE=", boot.display()))?;
    let names = files.filter_map(|file| Some(file.ok()?.path()));
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    names
        .filter(is_kernel)
        .max()
        .with_context(|| format!("no vmlinuz-* in {}; name a kernel: LINUX_IMAGE=", boot.display()))
}

/// What it calls itself: the banner up to its date.
pub(crate) fn version(image: &Path) -> Result<String> {
    let bytes = std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    banner(&bytes).with_context(|| format!("{} does not say which Linux it is", image.display()))
}

/// The first banner that goes on with a number: a format string has the same beginning.
fn banner(bytes: &[u8]) -> Option<String> {
    let starts = bytes.windows(BANNER.len()).enumerate().filter(|(_, window)| *window == BANNER);
    let mut texts = starts.map(|(at, _)| &bytes[at..bytes.len().min(at + 256)]);
    let text = texts.find(|text| text.get(BANNER.len()).is_some_and(u8::is_ascii_digit))?;
    let line = text.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    let words = String::from_utf8_lossy(line).into_owned();
    Some(words.split(" (").next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_says_its_version() {
        let bytes = b"\0Linux version %s\n\0Linux version 6.12.1-arm64 (debian@x) (gcc 12) #1 SMP\n\0";
        assert_eq!(banner(bytes).unwrap(), "Linux version 6.12.1-arm64");
        assert_eq!(banner(b"Linux version %s"), None);
    }

    #[test]
    fn an_image_is_found_in_a_package_and_a_packed_one_is_refused() {
        let root = std::env::temp_dir().join(format!("lazuli-linux-{}", std::process::id()));
        let kernel = root.join("boot/vmlinuz-6.12");
        std::fs::create_dir_all(root.join("boot")).unwrap();
        assert!(image(&root).unwrap_err().to_string().contains("LINUX_IMAGE="));
        let mut bytes = vec![0; 56];
        bytes.extend(b"ARM\x64");
        std::fs::write(&kernel, &bytes).unwrap();
        assert_eq!(image(&root).unwrap(), kernel);
        std::fs::write(&kernel, b"MZ zimg").unwrap();
        assert!(image(&kernel).unwrap_err().to_string().contains("unpacked first"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
