//! `lazuli card`: the files that a Raspberry Pi 4 boots from, as a card image or as a folder for TFTP.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::hw;
use crate::job::Job;
use crate::qemu;

/// Options of `lazuli card` and `lazuli netboot`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The raw kernel
    #[arg(long)]
    kernel: PathBuf,
    /// Archive with the programs; none for a kernel that needs none
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cmdline: String,
    /// The device tree to use where the firmware's folder has none
    #[arg(long)]
    tree: PathBuf,
    /// Folder with the board's firmware: start4.elf and fixup4.dat, perhaps its device tree and overlays
    #[arg(long)]
    firmware: PathBuf,
}

/// What the firmware must bring, and the tree that it may bring.
pub(crate) const FIRMWARE: [&str; 2] = ["start4.elf", "fixup4.dat"];
const FIRMWARE_TREE: &str = "bcm2711-rpi-4-b.dtb";
const OUR_TREE: &str = "rpi4.dtb";
const ARCHIVE: &str = "initrd.img";
/// Clear of the kernel, and of what the firmware puts at the end of the first GiB.
const ARCHIVE_AT: u64 = 0x0800_0000;

const SECTOR: u64 = 512;
/// Where the one partition begins, and how long it is: enough for the 65,525 clusters that make a FAT a FAT32.
const PARTITION_START: u64 = 1 << 20;
const PARTITION_LEN: u64 = 127 << 20;
/// FAT32, addressed by blocks.
const PARTITION_TYPE: u8 = 0x0c;

/// The files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Collects the files, and says where the firmware's came from.
pub(crate) fn files(options: &Options) -> Result<Files> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut files = Files::new();
    for name in FIRMWARE {
        let path = options.firmware.join(name);
        if !path.exists() {
            bail!(
                "{} is not there; either let `make card` fetch Debian's raspi-firmware, or name a folder that has the \
                 files of github.com/raspberrypi/firmware/boot: make card BOARD=rpi4 FIRMWARE=folder",
                path.display()
            );
        }
        files.insert(name.to_owned(), read(&path)?);
    }
    let own_tree = options.firmware.join(FIRMWARE_TREE);
    let (tree, bytes) =
        if own_tree.exists() { (FIRMWARE_TREE, read(&own_tree)?) } else { (OUR_TREE, read(&options.tree)?) };
    files.insert(tree.to_owned(), bytes);
    files.insert("kernel8.img".to_owned(), read(&options.kernel)?);
    if let Some(initrd) = &options.initrd {
        files.insert(ARCHIVE.to_owned(), read(initrd)?);
    }
    ensure!(!options.cmdline.contains('\n'), "the kernel's command line is one line");
    files.insert("cmdline.txt".to_owned(), format!("{}\n", options.cmdline).into_bytes());
    files.insert("config.txt".to_owned(), config(tree, options.initrd.is_some()).into_bytes());
    println!("firmware from {}; device tree {tree}", options.firmware.display());
    Ok(files)
}

/// What the firmware reads first (www.raspberrypi.com/documentation/computers/config_txt.html).
fn config(tree: &str, has_archive: bool) -> String {
    // Right behind the kernel's file is memory that the kernel claims for its variables.
    let archive = if has_archive { format!("initramfs {ARCHIVE} {ARCHIVE_AT:#x}\n") } else { String::new() };
    format!(
        "# A 64-bit kernel at a 2 MiB boundary.\n\
         arm_64bit=1\nkernel=kernel8.img\nkernel_address=0x200000\n{archive}device_tree={tree}\n\
         # A serial port on pins 14 and 15 of the header, and a core clock that keeps its speed.\n\
         enable_uart=1\n"
    )
}

/// The files of a card that starts a test by itself, and of which `make test-hw` hears over the serial line.
pub(crate) fn suite_files(job: &Job, firmware: &Path) -> Result<Files> {
    files(&Options {
        kernel: job.machine.kernel.clone(),
        initrd: job.machine.initrd.clone(),
        cmdline: hw::words(&job.machine, Duration::from_secs(job.timeout_s)),
        tree: qemu::RPI4_TREE.into(),
        firmware: firmware.to_owned(),
    })
}

/// Writes a card image: one FAT32 partition with the files.
pub(crate) fn write_image(files: &Files, path: &Path) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    let mut image =
        File::options().read(true).write(true).create(true).truncate(true).open(path).with_context(context)?;
    // Sparse: what is never written takes no room.
    image.set_len(PARTITION_START + PARTITION_LEN).with_context(context)?;
    image.write_all(&partition_table()).with_context(context)?;
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_label(*b"LAZULI     ");
    fatfs::format_volume(&mut Partition::new(&mut image)?, options).with_context(context)?;
    let volume = fatfs::FileSystem::new(Partition::new(&mut image)?, fatfs::FsOptions::new()).with_context(context)?;
    for (name, bytes) in files {
        let mut file = volume.root_dir().create_file(name).with_context(|| format!("cannot add {name}"))?;
        file.truncate().with_context(context)?;
        file.write_all(bytes).with_context(|| format!("{name} does not fit"))?;
    }
    volume.unmount().with_context(context)?;
    image.sync_all().with_context(context)
}

/// The files of a card image.
pub(crate) fn read_image(path: &Path) -> Result<Files> {
    let context = || format!("cannot read {}", path.display());
    let mut image = File::options().read(true).write(true).open(path).with_context(context)?;
    let volume = fatfs::FileSystem::new(Partition::new(&mut image)?, fatfs::FsOptions::new()).with_context(context)?;
    ensure!(volume.fat_type() == fatfs::FatType::Fat32, "{}: no FAT32", path.display());
    let mut files = Files::new();
    for entry in volume.root_dir().iter() {
        let entry = entry.with_context(context)?;
        if !entry.is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.to_file().read_to_end(&mut bytes).with_context(context)?;
        files.insert(entry.file_name(), bytes);
    }
    Ok(files)
}

/// A master boot record with one partition and no code.
fn partition_table() -> Vec<u8> {
    let mut sector = vec![0; SECTOR as usize];
    let mut entry = vec![0x00, 0xfe, 0xff, 0xff, PARTITION_TYPE, 0xfe, 0xff, 0xff];
    entry.extend(((PARTITION_START / SECTOR) as u32).to_le_bytes());
    entry.extend(((PARTITION_LEN / SECTOR) as u32).to_le_bytes());
    sector[446..462].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// The partition as a file of its own.
struct Partition<'f>(&'f mut File);

impl<'f> Partition<'f> {
    fn new(image: &'f mut File) -> Result<Self> {
        image.seek(SeekFrom::Start(PARTITION_START))?;
        Ok(Self(image))
    }
}

impl Read for Partition<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(to)
    }
}

impl Write for Partition<'_> {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Partition<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let to = match to {
            SeekFrom::Start(offset) => SeekFrom::Start(PARTITION_START + offset),
            other => other,
        };
        self.0.seek(to).map(|offset| offset - PARTITION_START)
    }
}

/// Puts the files into a folder that a TFTP server hands out.
pub(crate) fn write_folder(files: &Files, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let shown = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    println!(
        "The files are in {0}.\n\
         1. Let the board's EEPROM try the network: on a running Raspberry Pi OS, `sudo rpi-eeprom-config --edit` and\n   \
         BOOT_ORDER=0xf21 (card, then network), or without a card in the slot the default order gets there.\n\
         2. On this host, as root, on the interface the board hangs on (here eth0):\n   \
         dnsmasq --no-daemon --port=0 --interface=eth0 --dhcp-range=192.168.77.10,192.168.77.50 \\\n     \
         --enable-tftp --tftp-root={0} --tftp-no-fail --pxe-service=0,\"Raspberry Pi Boot\"\n\
         3. Switch the board on. It asks for the files in a folder named after its serial number first, then here.",
        shown.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lazuli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn options(folder: &Path) -> Options {
        for (name, bytes) in [("k", vec![1; 700_000]), ("i", vec![2; 5_000_000]), ("t", vec![3; 100])] {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        Options {
            kernel: folder.join("k"),
            initrd: Some(folder.join("i")),
            cmdline: "init=/bin/lazybench -- --x".to_owned(),
            tree: folder.join("t"),
            firmware: folder.to_owned(),
        }
    }

    #[test]
    fn a_card_holds_what_was_put_on_it() {
        let folder = folder("card");
        let options = options(&folder);
        assert!(files(&options).unwrap_err().to_string().contains("FIRMWARE="), "no firmware, no card");
        FIRMWARE.iter().for_each(|name| std::fs::write(folder.join(name), name).unwrap());
        let wanted = files(&options).unwrap();
        let path = folder.join("card.img");
        write_image(&wanted, &path).unwrap();
        let sector = std::fs::read(&path).unwrap()[..SECTOR as usize].to_vec();
        assert_eq!((sector[450], &sector[510..]), (0x0c, [0x55, 0xaa].as_slice()));
        let found = read_image(&path).unwrap();
        assert!(found == wanted, "{:?}", found.keys());
        let text = String::from_utf8(found["config.txt"].clone()).unwrap();
        for line in ["device_tree=rpi4.dtb\n", "kernel_address=0x200000\n", "initramfs initrd.img 0x8000000\n"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let bare = files(&Options { initrd: None, ..options }).unwrap();
        let text = String::from_utf8(bare["config.txt"].clone()).unwrap();
        assert!(!text.contains("initramfs") && !bare.contains_key(ARCHIVE), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_firmwares_own_tree_goes_first() {
        let folder = folder("card-tree");
        let options = options(&folder);
        FIRMWARE.iter().chain([&FIRMWARE_TREE]).for_each(|name| std::fs::write(folder.join(name), name).unwrap());
        let files = files(&options).unwrap();
        assert_eq!(files.get(FIRMWARE_TREE).map(Vec::as_slice), Some(FIRMWARE_TREE.as_bytes()));
        assert!(!files.contains_key(OUR_TREE));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
