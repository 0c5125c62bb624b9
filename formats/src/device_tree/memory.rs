//! From the device tree to the RAM there is, and what of it is taken.

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};

use super::{Error, Platform, Region, Table, tree};

/// Fills in `ram` and `reserved`; `initrd` is known.
pub(super) fn read<'t>(tree: Fdt<'t>, platform: &mut Platform<'t>) -> Result<(), Error> {
    ram(tree, &mut platform.ram)?;
    for entry in tree.memory_reservations() {
        let region = Region::new(entry.address(), entry.size());
        reserve(platform, region.ok_or(Error::bad("the reservation block", "address and size"))?)?;
    }
    let parent = tree.find_node("/reserved-memory");
    for node in parent.into_iter().flat_map(|parent| parent.children()).filter(tree::is_enabled) {
        for region in regions(&node, "/reserved-memory")? {
            if node.property("no-map").is_some() {
                // A Normal mapping would let the CPU read it speculatively, which firmware that
                // protects it may answer with an SError.
                cut(&mut platform.ram, region?.outward())?;
            } else {
                reserve(platform, region?)?;
            }
        }
    }
    platform.initrd.map_or(Ok(()), |initrd| reserve(platform, initrd))
}

fn ram<const N: usize>(tree: Fdt<'_>, ram: &mut Table<Region, N>) -> Result<(), Error> {
    let is_memory = |node: &FdtNode<'_>| tree::string(node, "device_type") == Some("memory");
    for node in tree.root().children().filter(is_memory).filter(tree::is_enabled) {
        for region in regions(&node, "/memory")? {
            push(ram, region?.inward(), "memory regions")?;
        }
    }
    ram.sort_unstable();
    if let Some(pair) = ram.windows(2).find(|pair| pair[0].end() > pair[1].base) {
        return Err(Error::OverlappingMemory { base: pair[1].base });
    }
    if ram.is_empty() { Err(Error::Missing("a /memory node with a size")) } else { Ok(()) }
}

fn reserve(platform: &mut Platform<'_>, region: Region) -> Result<(), Error> {
    push(&mut platform.reserved, region.outward(), "reserved regions")
}

/// Appends a region, unless it is empty.
pub(super) fn push<const N: usize>(
    table: &mut Table<Region, N>,
    region: Region,
    what: &'static str,
) -> Result<(), Error> {
    if region.len == 0 {
        return Ok(());
    }
    table.push(region).map_err(|_| Error::TooMany { what, most: N })
}

/// The regions of `reg`, for a node whose addresses are the CPU's; none if there is no `reg`.
fn regions<'t>(
    node: &FdtNode<'t>,
    role: &'static str,
) -> Result<impl Iterator<Item = Result<Region, Error>> + use<'t>, Error> {
    let reg = node.reg().map_err(|_| Error::bad(role, "reg"))?;
    Ok(reg.into_iter().flatten().map(move |reg| {
        let region = reg.address().ok().zip(reg.size().ok());
        region.and_then(|(base, len)| Region::new(base, len)).ok_or(Error::bad(role, "reg"))
    }))
}

/// Takes `hole` out of the table; the order stays.
fn cut<const N: usize>(ram: &mut Table<Region, N>, hole: Region) -> Result<(), Error> {
    let mut rest = Table::new();
    for region in ram.iter() {
        for part in region.without(hole) {
            push(&mut rest, part, "memory regions")?;
        }
    }
    *ram = rest;
    Ok(())
}
