//! The QEMU machine that a kernel is booted on, as a command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::guest::Typing;
use crate::image;

const PROGRAM: &str = "qemu-system-aarch64";
/// The source of the device tree of the Raspberry Pi 4.
pub(crate) const RPI4_SOURCE: &str = "bsp/src/rpi4/rpi4.dts";
/// Where `make` leaves the device tree of the Raspberry Pi 4, for which QEMU has none.
pub(crate) const RPI4_TREE: &str = "build/rpi4.dtb";

/// One machine and what it boots.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Machine {
    /// The kernel: its ELF file, or a raw Image
    #[arg(long)]
    pub(crate) kernel: PathBuf,
    /// Archive with the programs
    #[arg(long)]
    pub(crate) initrd: Option<PathBuf>,
    /// The board; for rpi4 smp, memory, gic, cpu and virtualization are what the board has
    #[arg(long, value_enum, default_value = "virt")]
    pub(crate) board: Board,
    /// Device tree that the firmware hands over: of rpi4 ours unless named, of virt QEMU's; an empty name for none
    #[arg(long)]
    pub(crate) tree: Option<PathBuf>,
    /// Virtual CPUs
    #[arg(long, default_value_t = 4)]
    pub(crate) smp: u32,
    /// Memory, as QEMU writes it
    #[arg(long, default_value = "512M")]
    pub(crate) memory: String,
    /// Interrupt controller: 2 or 3
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub(crate) gic: u8,
    /// CPU model: cortex-a72, max, …
    #[arg(long, default_value = "cortex-a72")]
    pub(crate) cpu: String,
    /// Enter at EL2 instead of EL1
    #[arg(long)]
    pub(crate) virtualization: bool,
    /// The console is the board's second serial port
    #[arg(long)]
    pub(crate) second_port: bool,
    /// What is typed on the console
    #[arg(skip)]
    pub(crate) typing: Option<Typing>,
    /// Let the run end as on hardware: by switching the machine off, without an exit status
    #[arg(long)]
    pub(crate) hardware_end: bool,
    /// Count instructions: one guest thread, time is the number of instructions executed, every run the same
    #[arg(long)]
    pub(crate) icount: bool,
    /// Lazy TLB scheme (`lazy_tlb=` on the kernel's command line)
    #[arg(long)]
    pub(crate) scheme: Option<String>,
    /// More words for the kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) cmdline: String,
    /// The first program
    #[arg(long)]
    pub(crate) init: Option<String>,
    /// Arguments of the first program, as one string; "double quotes" hold words together
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) args: String,
    /// Watch it by the TLB sanitizer, which is this plugin
    #[arg(long)]
    pub(crate) sanitizer: Option<PathBuf>,
    /// More options for QEMU, after `--`
    #[arg(last = true)]
    pub(crate) extra: Vec<String>,
}

impl Machine {
    /// The default machine, with nothing to boot but `kernel`.
    pub(crate) fn of(kernel: PathBuf) -> Self {
        Self {
            kernel,
            initrd: None,
            board: Board::Virt,
            tree: None,
            smp: 4,
            memory: "512M".to_owned(),
            gic: 3,
            cpu: "cortex-a72".to_owned(),
            virtualization: false,
            second_port: false,
            typing: None,
            hardware_end: false,
            icount: false,
            scheme: None,
            cmdline: String::new(),
            init: None,
            args: String::new(),
            sanitizer: None,
            extra: Vec::new(),
        }
    }

    /// The kernel's command line.
    pub(crate) fn append(&self) -> String {
        let mut words = Vec::new();
        words.extend(Some("exit=semihosting".to_owned()).filter(|_| !self.hardware_end));
        words.extend(self.scheme.iter().map(|scheme| format!("lazy_tlb={scheme}")));
        words.extend(Some(self.cmdline.clone()).filter(|text| !text.is_empty()));
        words.extend(self.init.iter().map(|init| format!("init={init}")));
        if !self.args.is_empty() {
            words.push(format!("-- {}", self.args));
        }
        words.join(" ")
    }

    /// QEMU's arguments. The console is the standard input and output, and ^C ends QEMU.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut words = self.board_arguments();
        words.extend(["-kernel".to_owned(), self.kernel.display().to_string()]);
        for (option, file) in [("-initrd", self.initrd.as_deref()), ("-dtb", self.tree())] {
            words.extend(file.into_iter().flat_map(|file| [option.to_owned(), file.display().to_string()]));
        }
        // Without a tree QEMU has nowhere to put the line.
        if self.board == Board::Virt || self.tree().is_some() {
            words.extend(["-append".to_owned(), self.append()]);
        }
        let mut fixed = if self.second_port { vec!["-serial", "null"] } else { Vec::new() };
        fixed.extend(["-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot"]);
        if !self.hardware_end {
            fixed.extend(["-semihosting-config", "enable=on,target=native"]);
        }
        if self.icount {
            fixed.extend(["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2024-01-01T00:00:00,clock=vm"]);
        }
        words.extend(fixed.into_iter().map(str::to_owned));
        words.extend(self.sanitizer.iter().flat_map(|plugin| self.sanitizer_arguments(plugin)));
        words.extend(self.extra.iter().cloned());
        words
    }

    fn board_arguments(&self) -> Vec<String> {
        let smp = self.smp.to_string();
        let el2 = if self.virtualization { ",virtualization=on" } else { "" };
        let virt = format!("virt,gic-version={}{el2}", self.gic);
        let words = match self.board {
            Board::Virt => vec!["-M", &virt, "-cpu", &self.cpu, "-smp", &smp, "-m", &self.memory],
            Board::Rpi4 => vec!["-M", "raspi4b"],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// The plugin reads the tables where QEMU has the memory, which must be a file for that.
    fn sanitizer_arguments(&self, plugin: &Path) -> [String; 6] {
        let (base, size) = match self.board {
            Board::Virt => ("0x40000000", self.memory.as_str()),
            Board::Rpi4 => ("0", "2G"),
        };
        [
            "-plugin".to_owned(),
            format!("{},mode=tlb,ram={base}", plugin.display()),
            "-object".to_owned(),
            format!("memory-backend-memfd,id=ram,size={size},share=on"),
            "-machine".to_owned(),
            "memory-backend=ram".to_owned(),
        ]
    }

    /// The device tree that is named on the command line.
    fn tree(&self) -> Option<&Path> {
        let ours = (self.board == Board::Rpi4).then_some(Path::new(RPI4_TREE));
        self.tree.as_deref().or(ours).filter(|tree| !tree.as_os_str().is_empty())
    }

    /// What it is, in words.
    pub(crate) fn description(&self) -> String {
        match self.board {
            Board::Virt => format!("{} CPUs, {}, {}", self.smp, self.cpu, self.memory),
            Board::Rpi4 => "Raspberry Pi 4 (QEMU raspi4b): 4 CPUs, cortex-a72".to_owned(),
        }
    }

    /// The command that boots this machine.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(self.arguments());
        command
    }

    /// The device tree that QEMU makes for this machine.
    pub(crate) fn device_tree(&self) -> Result<Vec<u8>> {
        let file = std::env::temp_dir().join(format!("lazuli-{}.dtb", std::process::id()));
        let el2 = if self.virtualization { ",virtualization=on" } else { "" };
        let dump = format!("virt,gic-version={}{el2},dumpdtb={}", self.gic, file.display());
        let smp = self.smp.to_string();
        let words =
            ["-M", &dump, "-cpu", &self.cpu, "-smp", &smp, "-m", &self.memory, "-nic", "none", "-display", "none"];
        let output = Command::new(PROGRAM).args(words).output().with_context(|| format!("cannot start {PROGRAM}"))?;
        let tree = std::fs::read(&file).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        Ok(tree)
    }

    /// The same command as a line to paste into a shell.
    pub(crate) fn shell_line(&self) -> String {
        let words = self.arguments().into_iter().map(|word| quote(&word));
        std::iter::once(PROGRAM.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Host threads that the guest keeps busy.
    pub(crate) fn host_threads(&self) -> u32 {
        match (self.icount, self.board) {
            (true, _) => 1,
            (false, Board::Virt) => self.smp,
            (false, Board::Rpi4) => 4,
        }
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The raw Image of the kernel at `path`: an ELF is laid out into a file next to it.
///
/// QEMU passes the device tree only to a raw Image, as firmware does.
pub(crate) fn raw_kernel(path: &Path) -> Result<PathBuf> {
    let file = std::fs::read(path).with_context(|| format!("no kernel at {}; run `make build`", path.display()))?;
    let image = image::raw(&file).with_context(|| path.display().to_string())?;
    if image == file {
        return Ok(path.to_owned());
    }
    let target = path.with_extension("img");
    std::fs::write(&target, image).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(target)
}

/// What the QEMU that is installed calls itself.
pub(crate) fn version_text() -> Result<String> {
    let Ok(output) = Command::new(PROGRAM).arg("--version").output() else {
        bail!("{PROGRAM} is not installed; run `make setup`, or: apt-get install qemu-system-arm");
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Its major version.
pub(crate) fn version() -> Result<u32> {
    let text = version_text()?;
    parse_version(&text).with_context(|| format!("cannot read the version of {PROGRAM} from `{}`", text.trim()))
}

fn parse_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine() -> Machine {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            machine: Machine,
        }
        <Line as clap::Parser>::parse_from(["lazuli", "--kernel", "k.img"]).machine
    }

    #[test]
    fn the_defaults_are_stated_twice_and_agree() {
        assert_eq!(machine().shell_line(), Machine::of("k.img".into()).shell_line());
    }

    #[test]
    fn the_default_line_is_the_promised_one() {
        let line = machine().shell_line();
        let promised = "qemu-system-aarch64 -M virt,gic-version=3 -cpu cortex-a72 -smp 4 -m 512M -kernel k.img ";
        assert!(line.starts_with(promised), "{line}");
        assert!(line.contains(" -nic none ") && line.contains(" enable=on,target=native"), "{line}");
    }

    #[test]
    fn the_command_line_ends_with_the_programs_arguments() {
        let machine = Machine {
            scheme: Some("eager".into()),
            cmdline: "asid_bits=8".into(),
            init: Some("/app".into()),
            args: "-c \"a b\"".into(),
            ..machine()
        };
        assert_eq!(machine.append(), "exit=semihosting lazy_tlb=eager asid_bits=8 init=/app -- -c \"a b\"");
    }

    #[test]
    fn icount_gic_and_el2_show() {
        let line = Machine { icount: true, gic: 2, virtualization: true, ..machine() }.shell_line();
        assert!(line.contains("virt,gic-version=2,virtualization=on"), "{line}");
        assert!(line.contains("-icount shift=0,sleep=off"), "{line}");
    }

    #[test]
    fn the_sanitizer_reads_the_memory_of_the_board() {
        let watched = Machine { sanitizer: Some("p.so".into()), ..machine() };
        let line = watched.shell_line();
        assert!(line.contains("-plugin p.so,mode=tlb,ram=0x40000000 "), "{line}");
        assert!(line.contains(",size=512M,share=on -machine memory-backend=ram"), "{line}");
        let line = Machine { board: Board::Rpi4, ..watched }.shell_line();
        assert!(line.contains(",ram=0 ") && line.contains(",size=2G,"), "{line}");
    }

    #[test]
    fn the_pi_gets_our_tree_another_one_or_none() {
        let pi = Machine { board: Board::Rpi4, ..machine() };
        let line = pi.shell_line();
        assert!(
            line.starts_with("qemu-system-aarch64 -M raspi4b -kernel k.img -dtb build/rpi4.dtb -append "),
            "{line}"
        );
        let other = Machine { tree: Some("other.dtb".into()), ..pi.clone() }.shell_line();
        assert!(other.contains(" -dtb other.dtb "), "{other}");
        let none = Machine { tree: Some("".into()), ..pi }.shell_line();
        assert!(!none.contains("-dtb") && !none.contains("-append"), "{none}");
    }

    #[test]
    fn a_run_that_ends_as_on_hardware_has_no_semihosting() {
        let line = Machine { hardware_end: true, init: Some("/app".into()), ..machine() }.shell_line();
        assert!(!line.contains("semihosting") && line.contains(" -append init=/app "), "{line}");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!([quote("a=b"), quote("a b"), quote("it's"), quote("")], ["a=b", "'a b'", r"'it'\''s'", "''"]);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some(10));
        assert_eq!(parse_version("QEMU emulator version 7.2.15"), Some(7));
        assert_eq!(parse_version("?"), None);
    }
}
