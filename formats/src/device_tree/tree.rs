//! Walking the device tree: nodes with their ancestors, addresses as the CPU sees them.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use super::Region;

/// Nodes deeper than this are not looked at: a damaged tree must not exhaust the stack.
const MAX_DEPTH: usize = 12;

/// A node and the way up to the root.
pub(super) struct Place<'p, 't> {
    /// The node.
    pub(super) node: FdtNode<'t>,
    parent: Option<&'p Place<'p, 't>>,
}

/// Calls `visit` for each enabled node, parents first.
pub(super) fn walk<'t>(tree: Fdt<'t>, visit: &mut dyn FnMut(&Place<'_, 't>)) {
    let _: Option<()> = search(tree, &mut |place| {
        visit(place);
        None
    });
}

/// Calls `visit` for each enabled node, parents first, until it returns something.
pub(super) fn search<'t, R>(tree: Fdt<'t>, visit: &mut dyn FnMut(&Place<'_, 't>) -> Option<R>) -> Option<R> {
    search_below(&Place { node: tree.root(), parent: None }, MAX_DEPTH, visit)
}

fn search_below<'t, R>(
    place: &Place<'_, 't>,
    depth_left: usize,
    visit: &mut dyn FnMut(&Place<'_, 't>) -> Option<R>,
) -> Option<R> {
    if depth_left == 0 || !is_enabled(&place.node) {
        return None;
    }
    visit(place).or_else(|| {
        place.node.children().find_map(|node| search_below(&Place { node, parent: Some(place) }, depth_left - 1, visit))
    })
}

/// Calls `visit` for the node at an absolute path.
pub(super) fn at_path<'t, R>(
    tree: Fdt<'t>,
    path: &str,
    visit: &mut dyn FnMut(&Place<'_, 't>) -> Option<R>,
) -> Option<R> {
    let path = path.strip_prefix('/')?;
    at_path_below(&Place { node: tree.root(), parent: None }, path, MAX_DEPTH, visit)
}

fn at_path_below<'t, R>(
    place: &Place<'_, 't>,
    path: &str,
    depth_left: usize,
    visit: &mut dyn FnMut(&Place<'_, 't>) -> Option<R>,
) -> Option<R> {
    if path.is_empty() {
        return visit(place);
    }
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    let node = place.node.child(name)?;
    at_path_below(&Place { node, parent: Some(place) }, rest, depth_left.checked_sub(1)?, visit)
}

/// Whether the node may be used: no `status`, or one that says so.
pub(super) fn is_enabled(node: &FdtNode<'_>) -> bool {
    string(node, "status").is_none_or(|status| matches!(status, "okay" | "ok"))
}

/// A property that holds one string.
pub(super) fn string<'t>(node: &FdtNode<'t>, name: &str) -> Option<&'t str> {
    node.property(name)?.value_as::<&'t str>().ok()
}

/// A property that holds one number of one or two cells.
pub(super) fn number(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    match property.value().len() {
        4 => property.value_as::<u32>().ok().map(u64::from),
        8 => property.value_as::<u64>().ok(),
        _ => None,
    }
}

impl Place<'_, '_> {
    /// The `index`th region of `reg`, at the address where the CPU finds it.
    pub(super) fn region(&self, index: usize) -> Option<Region> {
        let reg = self.node.reg().ok()??.nth(index)?;
        Region::new(self.to_cpu_address(reg.address().ok()?)?, reg.size().ok()?)
    }

    /// Applies the `ranges` of each bus between this node and the root.
    ///
    /// A bus without `ranges` cannot be reached from the CPU; an empty one changes nothing
    /// (Devicetree Specification, section 2.3.8).
    fn to_cpu_address(&self, address: u64) -> Option<u64> {
        let bus = self.parent?;
        if bus.parent.is_none() {
            return Some(address);
        }
        if bus.node.property("ranges")?.value().is_empty() {
            return bus.to_cpu_address(address);
        }
        let translated = bus.node.ranges().ok()??.find_map(|range| {
            let offset = address.checked_sub(range.child_bus_address().ok()?)?;
            let inside = offset < range.length().ok()?;
            inside.then_some(range.parent_bus_address::<u64>().ok()?.checked_add(offset)?)
        });
        bus.to_cpu_address(translated?)
    }
}

/// The INTID of a node's `index`th interrupt, for a GIC whose specifiers have `cells` cells.
///
/// The first cell tells a shared (0) from a private (1) peripheral interrupt, the second
/// counts from the first of its kind: INTID 32 and INTID 16.
pub(super) fn interrupt(node: &FdtNode<'_>, index: usize, cells: usize) -> Option<u32> {
    let property = node.property("interrupts")?;
    let specifier = property.value().chunks_exact(cells.checked_mul(4)?).nth(index)?;
    let (words, _) = specifier.as_chunks::<4>();
    let number = u32::from_be_bytes(*words.get(1)?);
    match u32::from_be_bytes(*words.first()?) {
        0 if number < 988 => Some(32 + number),
        1 if number < 16 => Some(16 + number),
        _ => None,
    }
}
