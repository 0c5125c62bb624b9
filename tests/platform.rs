//! The device tree and the command line: what machines say is understood, damage is refused.
//@ mode: icount
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dtoolkit::fdt::Fdt;
use lazuli::cmdline::{Error as LineError, Line, join};
use lazuli::platform::{self, Cpu, Enable, Error, Gic, Led, Pin, Platform, Region, UartKind};
use lazuli::{kernel_tests, percpu};

#[path = "common/tree.rs"]
mod tree;

use tree::Tree;

kernel_tests! {
    this_machine_is_understood,
    a_board_with_buses_and_spin_tables_is_understood,
    addresses_of_one_cell_are_understood,
    memory_that_must_not_be_mapped_is_no_ram,
    memory_that_overlaps_is_refused,
    what_is_missing_is_named,
    damage_is_refused_or_harmless,
    a_line_that_boots_linux_is_accepted,
    a_line_is_taken_apart,
    a_bundled_line_goes_first,
    an_unknown_option_is_refused_with_what_is_valid,
    a_value_that_means_nothing_is_refused,
}

fn expect<T: PartialEq + core::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:x?}, not {expected:x?}")) }
}

fn region(base: u64, len: u64) -> Region {
    Region { base, len }
}

/// A machine by what its tree must say: RAM, serial port, distributor, and a GICv2's CPU interface.
struct Machine {
    ram: u64,
    uart: (u64, u32),
    distributor: u64,
    cpu_interface: u64,
}

/// QEMU `virt`: hw/arm/virt.c, base_memmap and a15irqmap.
const VIRT: Machine =
    Machine { ram: 0x4000_0000, uart: (0x900_0000, 33), distributor: 0x800_0000, cpu_interface: 0x801_0000 };
/// BCM2711 ARM Peripherals, 1.2.4 and 6; the addresses of "low peripheral" mode.
const RPI4: Machine =
    Machine { ram: 0, uart: (0xfe20_1000, 153), distributor: 0xff84_1000, cpu_interface: 0xff84_2000 };

fn this_machine_is_understood() -> Result<(), String> {
    let platform = platform::get();
    let machine = if platform.model.starts_with("Raspberry Pi 4") { RPI4 } else { VIRT };
    expect("RAM", platform.ram[0].base, machine.ram)?;
    let uart = platform.uart.as_ref().map(|uart| (uart.registers.base, uart.interrupt));
    expect("serial port", uart, Some((machine.uart.0, Some(machine.uart.1))))?;
    expect("timers", (platform.timer_interrupt, platform.watchdog_interrupt), (27, 30))?;
    let distributor = match &platform.gic {
        Gic::V2 { distributor, cpu_interface } => {
            expect("CPU interface", cpu_interface.base, machine.cpu_interface)?;
            distributor
        }
        Gic::V3 { distributor, redistributors } => {
            expect("redistributors", redistributors[0].base, 0x80a_0000)?;
            distributor
        }
    };
    expect("distributor", distributor.base, machine.distributor)?;
    expect("CPUs", platform.cpus().count(), percpu::count())?;
    expect("first CPU", platform.cpus().next().map(|cpu| cpu.mpidr), Some(percpu::of(0).mpidr))
}

fn parse(blob: &[u8]) -> Result<Platform<'_>, Error> {
    Platform::parse(Fdt::new(blob)?)
}

/// A tree like a Raspberry Pi 4's, with what else may legally stand there.
fn board() -> Tree {
    Tree::new()
        .cells(2, 1)
        .text("model", "A board")
        .node("chosen", |chosen| {
            chosen
                .text("stdout-path", "serial0:115200n8")
                .text("bootargs", "init=/init -- a")
                .numbers("linux,initrd-start", &[0x0800_0123])
                .numbers("linux,initrd-end", &[0, 0x0800_2001])
        })
        .node("aliases", |aliases| aliases.text("serial0", "/soc/serial@7e201000"))
        .node("memory@0", |memory| {
            memory
                .text("device_type", "memory")
                .numbers("reg", &[0, 0, 0x3c00_0000, 1, 0, 0x8000_0000, 0, 0x8000_0000, 0])
        })
        .node("memory@3f000000", |memory| {
            memory
                .text("device_type", "memory")
                .numbers("reg", &[0, 0x3f00_0000, 0x100_0000])
                .text("status", "disabled")
        })
        .node("cpus", |cpus| {
            cpus.cells(1, 0)
                .node("cpu-map", |map| map)
                .node("cpu@0", |cpu| {
                    cpu.numbers("reg", &[0]).text("enable-method", "spin-table").numbers("cpu-release-addr", &[0, 0xd8])
                })
                .node("cpu@1", |cpu| {
                    cpu.numbers("reg", &[0x8000_0101])
                        .text("enable-method", "spin-table")
                        .numbers("cpu-release-addr", &[0xe0])
                })
                .node("cpu@2", |cpu| cpu.numbers("reg", &[2]).text("status", "fail"))
        })
        .node("timer", |timer| {
            timer.text("compatible", "arm,armv8-timer").numbers("interrupts", &[1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8])
        })
        .node("clock", |clock| clock.numbers("clock-frequency", &[48_000_000]).numbers("phandle", &[7]))
        .node("leds", |leds| {
            leds.text("compatible", "gpio-leds").node("led-act", |led| led.numbers("gpios", &[9, 42, 1]))
        })
        .node("soc", |soc| {
            soc.cells(1, 1)
                .numbers("ranges", &[0x7e00_0000, 0, 0xfe00_0000, 0x180_0000, 0x4000_0000, 0, 0xff80_0000, 0x80_0000])
                .node("watchdog@7e100000", |manager| {
                    manager
                        .text("compatible", "brcm,bcm2835-pm-wdt")
                        .numbers("reg", &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24])
                })
                .node("gpio@7e200000", |gpio| {
                    gpio.text("compatible", "brcm,bcm2711-gpio").numbers("phandle", &[9]).node("pins", |pins| {
                        pins.numbers("phandle", &[8])
                            .numbers("brcm,pins", &[14, 15])
                            .numbers("brcm,function", &[4])
                            .numbers("brcm,pull", &[0, 2])
                    })
                })
                .node("serial@7e201400", |port| {
                    port.text("compatible", "arm,pl011").numbers("reg", &[0x7e20_1400, 0x200])
                })
                .node("serial@7e201000", |port| {
                    port.text("compatible", "arm,pl011")
                        .numbers("reg", &[0x7e20_1000, 0x200])
                        .numbers("clocks", &[7])
                        .numbers("pinctrl-0", &[8])
                        .numbers("interrupts", &[0, 121, 4])
                })
                .node("interrupt-controller@40041000", |gic| {
                    gic.text("compatible", "arm,gic-400")
                        .numbers("#interrupt-cells", &[3])
                        .numbers("reg", &[0x4004_1000, 0x1000, 0x4004_2000, 0x2000])
                })
        })
}

fn a_board_with_buses_and_spin_tables_is_understood() -> Result<(), String> {
    let blob = board().finish(&[(0, 0x1000), (0x1000_0800, 0x1000)]);
    let platform = parse(&blob).map_err(|error| error.to_string())?;
    expect("model", platform.model, "A board")?;
    expect("RAM", platform.ram.to_vec(), alloc::vec![region(0, 0x3c00_0000), region(0x1_0000_0000, 0x8000_0000)])?;
    let reserved = alloc::vec![region(0, 0x1000), region(0x1000_0000, 0x2000), region(0x800_0000, 0x3000)];
    expect("reserved", platform.reserved.to_vec(), reserved)?;
    expect("initrd", platform.initrd, Some(region(0x0800_0123, 0x1ede)))?;
    let uart = platform.uart.as_ref().ok_or("no serial port")?;
    expect("serial port", (uart.kind, uart.registers), (UartKind::Pl011, region(0xfe20_1000, 0x200)))?;
    expect("its interrupt and clock", (uart.interrupt, uart.clock_hz), (Some(153), Some(48_000_000)))?;
    let pin = |number, pull| Pin { number, function: 4, pull: Some(pull) };
    expect("its pins", uart.pins.to_vec(), alloc::vec![pin(14, 0), pin(15, 1)])?;
    expect("LED", platform.led, Some(Led { number: 42, active_low: true }))?;
    expect("power manager", platform.power_manager, Some(region(0xfe10_0000, 0x114)))?;
    expect("timer", platform.timer_interrupt, 27)?;
    let Gic::V2 { distributor, cpu_interface } = platform.gic else { return Err("no GICv2".into()) };
    expect("GIC", (distributor, cpu_interface), (region(0xff84_1000, 0x1000), region(0xff84_2000, 0x2000)))?;
    let cpus = alloc::vec![
        Cpu { mpidr: 0, enable: Enable::SpinTable { release: 0xd8 } },
        Cpu { mpidr: 0x101, enable: Enable::SpinTable { release: 0xe0 } },
    ];
    expect("CPUs", platform.cpus().collect::<Vec<_>>(), cpus)
}

fn addresses_of_one_cell_are_understood() -> Result<(), String> {
    let blob = Tree::new()
        .cells(1, 1)
        .node("memory@8000", |memory| memory.text("device_type", "memory").numbers("reg", &[0x8800, 0x9000]))
        .node("cpus", |cpus| cpus.cells(1, 0).node("cpu@0", |cpu| cpu.numbers("reg", &[0])))
        .node("timer", |timer| {
            timer.text("compatible", "arm,armv8-timer").numbers("interrupts", &[0, 0, 0, 0, 1, 14, 8, 0, 1, 11, 8, 0])
        })
        .node("gic@0", |gic| {
            gic.text("compatible", "arm,gic-v3")
                .numbers("#interrupt-cells", &[4])
                .numbers("#redistributor-regions", &[2])
                .numbers("reg", &[0x1000, 0x10, 0x2000, 0x20, 0x3000, 0x30, 0x4000, 0x40])
        })
        .finish(&[]);
    let platform = parse(&blob).map_err(|error| error.to_string())?;
    expect("whole pages of RAM", platform.ram.to_vec(), alloc::vec![region(0x9000, 0x8000)])?;
    expect("CPUs", platform.cpus().collect::<Vec<_>>(), alloc::vec![Cpu { mpidr: 0, enable: Enable::None }])?;
    expect("timer", platform.timer_interrupt, 27)?;
    let Gic::V3 { distributor, redistributors } = platform.gic else { return Err("no GICv3".into()) };
    expect("distributor", distributor, region(0x1000, 0x10))?;
    expect("redistributors", redistributors.to_vec(), alloc::vec![region(0x2000, 0x20), region(0x3000, 0x30)])
}

fn memory_that_must_not_be_mapped_is_no_ram() -> Result<(), String> {
    let blob = board()
        .node("reserved-memory", |reserved| {
            reserved
                .cells(2, 1)
                .node("secure@1000000", |node| node.numbers("reg", &[0, 0x100_0800, 0x100]).flag("no-map"))
                .node("frame@2000000", |node| node.numbers("reg", &[0, 0x200_0000, 0x1000]))
                .node("linux,cma", |node| node.numbers("size", &[0x400_0000]))
        })
        .finish(&[]);
    let platform = parse(&blob).map_err(|error| error.to_string())?;
    let ram = alloc::vec![region(0, 0x100_0000), region(0x100_1000, 0x3aff_f000), region(0x1_0000_0000, 0x8000_0000)];
    expect("RAM", platform.ram.to_vec(), ram)?;
    expect("reserved", platform.reserved[0], region(0x200_0000, 0x1000))
}

fn memory_that_overlaps_is_refused() -> Result<(), String> {
    let blob = board()
        .node("memory@10000000", |memory| {
            memory.text("device_type", "memory").numbers("reg", &[0, 0x1000_0000, 0x1000])
        })
        .finish(&[]);
    expect("verdict", parse(&blob).err(), Some(Error::OverlappingMemory { base: 0x1000_0000 }))
}

fn what_is_missing_is_named() -> Result<(), String> {
    // The word that makes a node what it is, and what the error must say.
    let cases = [
        ("arm,gic-400", "interrupt controller"),
        ("arm,armv8-timer", "timer"),
        ("cpu-release-addr", "cpu-release-addr"),
        ("device_type", "/memory"),
        ("cpus", "/cpus"),
    ];
    for (word, named) in cases {
        let mut blob = board().finish(&[]);
        tree::deface(&mut blob, word);
        let error = parse(&blob).err().map_or("accepted".to_string(), |error| error.to_string());
        if !error.contains(named) {
            return Err(format!("without {word}: {error}"));
        }
    }
    Ok(())
}

fn damage_is_refused_or_harmless() {
    let sound = board().finish(&[(0, 0x1000)]);
    for length in 0..sound.len() {
        assert!(parse(&sound[..length]).is_err(), "cut to {length} bytes");
    }
    // Every word replaced by numbers that lengths, offsets and counts like least: no panic.
    for at in (0..sound.len() & !3).step_by(4) {
        for value in [0, 1, 0x7fff_ffff, u32::MAX, 0xffff_fffc] {
            let mut damaged = sound.clone();
            damaged[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = parse(&damaged).map(|platform| platform.cpus().count());
        }
    }
}

fn a_line_that_boots_linux_is_accepted() -> Result<(), String> {
    let line = Line(
        "earlycon console=ttyAMA0 quiet nokaslr panic=-1 root=/dev/ram0 rdinit=/init 8250.nr_uarts=0 -- --any=thing",
    );
    expect("verdict", line.check(), Ok(()))
}

fn a_line_is_taken_apart() -> Result<(), String> {
    let line = Line("  init=/bin/a lazy_tlb=eager\tquiet init=/bin/b test=\"two words\" -- -x \"a b\"  -- c=d");
    expect("last of two", line.get("init"), Some("/bin/b"))?;
    expect("quoted", line.get("test"), Some("two words"))?;
    expect("flag", line.get("quiet"), Some(""))?;
    expect("absent", line.get("c"), None)?;
    expect("arguments", line.init_arguments().collect::<Vec<_>>(), alloc::vec!["-x", "a b", "--", "c=d"])
}

fn a_bundled_line_goes_first() -> Result<(), String> {
    let joined = join("init=/app lazy_tlb=eager -- one", "lazy_tlb=shootdown");
    let line = Line(&joined);
    expect("the bundle's", line.get("init"), Some("/app"))?;
    expect("the loader's counts", line.get("lazy_tlb"), Some("shootdown"))?;
    expect("the bundle's arguments", line.init_arguments().collect::<Vec<_>>(), alloc::vec!["one"])?;
    let joined = join("init=/app -- one", "test=\" -- \" -- two three");
    let line = Line(&joined);
    expect("quoted", line.get("test"), Some(" -- "))?;
    expect("the loader's arguments", line.init_arguments().collect::<Vec<_>>(), alloc::vec!["two", "three"])
}

fn an_unknown_option_is_refused_with_what_is_valid() -> Result<(), String> {
    let error = Line("init=/a lazytlb=eager").check().err();
    expect("error", error, Some(LineError::Unknown("lazytlb")))?;
    let text = error.map_or(String::new(), |error| error.to_string());
    let named = ["lazytlb", "lazy_tlb=", "watchdog=SECONDS"];
    expect("names what is valid", named.iter().find(|word| !text.contains(*word)), None)
}

fn a_value_that_means_nothing_is_refused() -> Result<(), String> {
    for line in ["exit=maybe", "watchdog=0", "watchdog=soon", "init=init", "loglevel=9", "exit"] {
        if !matches!(Line(line).check(), Err(LineError::BadValue { .. })) {
            return Err(format!("{line}: {:?}", Line(line).check()));
        }
    }
    Ok(())
}
