//! What device trees say is understood, what is missing is named, damage is refused.

use formats::device_tree::{Cpu, Enable, Error, Fdt, Gic, Led, Pin, Platform, Region, UartKind};
use formats::samples::tree::deface;
use formats::samples::{board, small_board};

fn region(base: u64, len: u64) -> Region {
    Region { base, len }
}

fn parse(blob: &[u8]) -> Result<Platform<'_>, Error> {
    Platform::parse(Fdt::new(blob)?)
}

#[test]
fn a_board_with_buses_and_spin_tables_is_understood() {
    let blob = board().finish(&[(0, 0x1000), (0x1000_0800, 0x1000)]);
    let platform = parse(&blob).expect("a sound tree");
    assert_eq!(platform.model, "A board", "model");
    assert_eq!(platform.ram.to_vec(), vec![region(0, 0x3c00_0000), region(0x1_0000_0000, 0x8000_0000)], "RAM");
    let reserved = vec![region(0, 0x1000), region(0x1000_0000, 0x2000), region(0x800_0000, 0x3000)];
    assert_eq!(platform.reserved.to_vec(), reserved, "reserved");
    assert_eq!(platform.initrd, Some(region(0x0800_0123, 0x1ede)), "initrd");
    let uart = platform.uart.as_ref().expect("a serial port");
    assert_eq!((uart.kind, uart.registers), (UartKind::Pl011, region(0xfe20_1000, 0x200)), "serial port");
    assert_eq!((uart.interrupt, uart.clock_hz), (Some(153), Some(48_000_000)), "its interrupt and clock");
    let pin = |number, pull| Pin { number, function: 4, pull: Some(pull) };
    assert_eq!(uart.pins.to_vec(), vec![pin(14, 0), pin(15, 1)], "its pins");
    assert_eq!(platform.led, Some(Led { number: 42, active_low: true }), "LED");
    assert_eq!(platform.power_manager, Some(region(0xfe10_0000, 0x114)), "power manager");
    assert_eq!(platform.timer_interrupt, 27, "timer");
    let Gic::V2 { distributor, cpu_interface } = platform.gic else { panic!("no GICv2") };
    assert_eq!((distributor, cpu_interface), (region(0xff84_1000, 0x1000), region(0xff84_2000, 0x2000)), "GIC");
    let cpus = vec![
        Cpu { mpidr: 0, enable: Enable::SpinTable { release: 0xd8 } },
        Cpu { mpidr: 0x101, enable: Enable::SpinTable { release: 0xe0 } },
    ];
    assert_eq!(platform.cpus().collect::<Vec<_>>(), cpus, "CPUs");
}

#[test]
fn addresses_of_one_cell_are_understood() {
    let blob = small_board().finish(&[]);
    let platform = parse(&blob).expect("a sound tree");
    assert_eq!(platform.ram.to_vec(), vec![region(0x9000, 0x8000)], "whole pages of RAM");
    assert_eq!(platform.cpus().collect::<Vec<_>>(), vec![Cpu { mpidr: 0, enable: Enable::None }], "CPUs");
    assert_eq!(platform.timer_interrupt, 27, "timer");
    let Gic::V3 { distributor, redistributors } = platform.gic else { panic!("no GICv3") };
    assert_eq!(distributor, region(0x1000, 0x10), "distributor");
    assert_eq!(redistributors.to_vec(), vec![region(0x2000, 0x20), region(0x3000, 0x30)], "redistributors");
}

#[test]
fn memory_that_must_not_be_mapped_is_no_ram() {
    let blob = board()
        .node("reserved-memory", |reserved| {
            reserved
                .cells(2, 1)
                .node("secure@1000000", |node| node.numbers("reg", &[0, 0x100_0800, 0x100]).flag("no-map"))
                .node("frame@2000000", |node| node.numbers("reg", &[0, 0x200_0000, 0x1000]))
                .node("linux,cma", |node| node.numbers("size", &[0x400_0000]))
        })
        .finish(&[]);
    let platform = parse(&blob).expect("a sound tree");
    let ram = vec![region(0, 0x100_0000), region(0x100_1000, 0x3aff_f000), region(0x1_0000_0000, 0x8000_0000)];
    assert_eq!(platform.ram.to_vec(), ram, "RAM");
    assert_eq!(platform.reserved[0], region(0x200_0000, 0x1000), "reserved");
}

#[test]
fn memory_that_overlaps_is_refused() {
    let blob = board()
        .node("memory@10000000", |memory| {
            memory.text("device_type", "memory").numbers("reg", &[0, 0x1000_0000, 0x1000])
        })
        .finish(&[]);
    assert_eq!(parse(&blob).err(), Some(Error::OverlappingMemory { base: 0x1000_0000 }), "verdict");
}

#[test]
fn what_is_missing_is_named() {
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
        deface(&mut blob, word);
        let error = parse(&blob).err().map_or("accepted".to_string(), |error| error.to_string());
        assert!(error.contains(named), "without {word}: {error}");
    }
}

#[test]
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
