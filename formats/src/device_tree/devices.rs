//! From the device tree to the serial port, its clock and pins, and the LED.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use super::found::{Found, Port};
use super::{Led, Pin, Table, Uart, tree};

/// The port of `/chosen/stdout-path` if it is one we know, else the first such.
pub(super) fn uart(tree: Fdt<'_>, found: &Found<'_>, interrupt_cells: usize) -> Option<Uart> {
    let named = stdout_path(tree).and_then(|path| tree::at_path(tree, path, &mut Port::at));
    let Port { node, kind, registers } = named.or(found.port)?;
    let interrupt = tree::interrupt(&node, 0, interrupt_cells);
    Some(Uart { kind, registers, interrupt, clock_hz: clock(tree, &node), pins: pins(tree, &node) })
}

/// `stdout-path` without its `:options`, its alias resolved.
fn stdout_path(tree: Fdt<'_>) -> Option<&str> {
    let stdout = tree::string(&tree.find_node("/chosen")?, "stdout-path")?;
    let name = stdout.split(':').next()?;
    if name.starts_with('/') {
        return Some(name);
    }
    tree::string(&tree.find_node("/aliases")?, name)
}

/// The frequency of a node's first clock, if that never changes.
fn clock(tree: Fdt<'_>, node: &FdtNode<'_>) -> Option<u32> {
    let clock = by_phandle(tree, word(node, "clocks", 0)?)?;
    u32::try_from(tree::number(&clock, "clock-frequency")?).ok()
}

/// The pins of a node's default state; more than the table holds, or half a description, are left out.
fn pins(tree: Fdt<'_>, node: &FdtNode<'_>) -> Table<Pin, 8> {
    let mut pins = Table::new();
    let groups = (0..).map_while(|index| word(node, "pinctrl-0", index));
    for group in groups.filter_map(|phandle| by_phandle(tree, phandle)) {
        for index in 0..8 {
            // One function and pull may stand for all pins.
            let for_pin = |name| word(&group, name, index).or_else(|| word(&group, name, 0));
            let Some(number) = word(&group, "brcm,pins", index) else { break };
            let Some(function) = for_pin("brcm,function") else { break };
            let pull = for_pin("brcm,pull").map(|pull| match pull {
                // The binding counts down, up; the registers of this chip up, down.
                1 => 2,
                2 => 1,
                _ => 0,
            });
            // As many as fit.
            let _ = pins.push(Pin { number: number as u8, function: function as u8, pull });
        }
    }
    pins
}

/// The LED that shows activity: `gpios` names the controller, the pin, and in bit 0 whether low lights it.
pub(super) fn led(tree: Fdt<'_>, found: &Found<'_>) -> Option<Led> {
    let is_activity = |node: &FdtNode<'_>| {
        matches!(tree::string(node, "label"), Some("ACT" | "led0")) || node.name_without_address() == "led-act"
    };
    let node = found.leds?.children().find(is_activity)?;
    // The power LED hangs on another controller; only the first is known here.
    let controller = by_phandle(tree, word(&node, "gpios", 0)?)?;
    controller.is_compatible("brcm,bcm2711-gpio").then_some(())?;
    Some(Led { number: word(&node, "gpios", 1)? as u8, active_low: word(&node, "gpios", 2)? & 1 != 0 })
}

/// A word of a property that is a list of words.
fn word(node: &FdtNode<'_>, name: &str, index: usize) -> Option<u32> {
    let property = node.property(name)?;
    let (words, _) = property.value().as_chunks::<4>();
    words.get(index).map(|word| u32::from_be_bytes(*word))
}

fn by_phandle<'t>(tree: Fdt<'t>, phandle: u32) -> Option<FdtNode<'t>> {
    tree::search(tree, &mut |place| (word(&place.node, "phandle", 0) == Some(phandle)).then_some(place.node))
}
