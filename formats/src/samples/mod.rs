//! Sound input of each format, made by hand: for tests, which then break it.

pub mod archive;
pub mod program;
pub mod tree;

use alloc::vec::Vec;

use tree::Tree;

/// A tree like a Raspberry Pi 4's, with what else may legally stand there.
pub fn board() -> Tree {
    Tree::root()
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

/// A small machine: addresses of one cell, a GICv3 with two stretches of redistributors, interrupts of four cells.
pub fn small_board() -> Tree {
    Tree::root()
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
}

/// Device trees.
pub fn trees() -> Vec<Vec<u8>> {
    let reserved = board().node("reserved-memory", |reserved| {
        reserved
            .cells(2, 1)
            .node("secure@1000000", |node| node.numbers("reg", &[0, 0x100_0800, 0x100]).flag("no-map"))
            .node("frame@2000000", |node| node.numbers("reg", &[0, 0x200_0000, 0x1000]))
            .node("linux,cma", |node| node.numbers("size", &[0x400_0000]))
    });
    [board().finish(&[(0, 0x1000), (0x1000_0800, 0x1000)]), small_board().finish(&[]), reserved.finish(&[])].into()
}

/// Command lines.
pub fn lines() -> Vec<Vec<u8>> {
    [
        "earlycon console=ttyAMA0 quiet nokaslr panic=-1 root=/dev/ram0 rdinit=/init 8250.nr_uarts=0 -- --any=thing",
        "init=/bin/a lazy_tlb=shootdown lazy_tlb.batch=16 lazy_tlb.target=slot tlbi=ipi tlbi.piggyback=on -- -x \"a b\"",
        "watchdog=30 loglevel=7 lazy_tlb=handoff lazy_tlb.shoot_after=5 asid_bits=8 exit=restart\ninit=/b test=\"a  b\" --",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into()
}
