//! The kernel's arithmetic of memory maps, against a list of pages, on the maps of Raspberry Pis with 1 to 8 GiB.

use std::collections::BTreeSet;

use formats::device_tree::Region;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn region(range: std::ops::Range<u64>) -> Region {
    Region::new(range.start, range.end - range.start).expect("within 48 bits")
}

/// The RAM that firmware leaves to the ARM cores: not the VideoCore's part of the first GiB, nor the peripherals below
/// 4 GiB.
fn pi(gib: u64) -> Vec<Region> {
    let pieces = [0..0x3b40_0000, GIB..0xfc00_0000, 4 * GIB..8 * GIB];
    let within = pieces.map(|piece| piece.start..piece.end.min(gib * GIB));
    within.into_iter().filter(|piece| !piece.is_empty()).map(region).collect()
}

fn cut(ram: &[Region], holes: &[Region]) -> Vec<Region> {
    let remove = |rest: Vec<Region>, hole: &Region| {
        let parts = rest.into_iter().flat_map(|piece| piece.without(hole.outward()));
        parts.filter(|part| part.len != 0).collect()
    };
    holes.iter().fold(ram.to_vec(), remove)
}

fn pages(regions: &[Region]) -> BTreeSet<u64> {
    regions.iter().flat_map(|region| region.base / PAGE..region.end() / PAGE).collect()
}

#[test]
fn what_is_taken_is_cut_out_and_nothing_else() {
    let holes = [
        region(0..PAGE),
        region(2 * MIB..3 * MIB + 1),
        // Over the end of a piece, over a whole one, in no piece, touching one, within one page, and nothing.
        region(0x3b00_0000..0x3c00_0000),
        region(4 * GIB..4 * GIB + 1),
        region(0xfc00_0000..GIB * 4),
        region(GIB + 5..GIB + 6),
        region(8 * GIB - 17..8 * GIB),
        region(GIB + 8 * MIB..GIB + 8 * MIB),
        region(0x3000_0fff..0x3000_1001),
    ];
    for gib in [1, 2, 4, 8] {
        let ram = pi(gib);
        let found = cut(&ram, &holes);
        let touched = holes.iter().filter(|hole| hole.len != 0);
        let taken: BTreeSet<u64> = touched.flat_map(|hole| hole.base / PAGE..hole.end().div_ceil(PAGE)).collect();
        let wanted: BTreeSet<u64> = pages(&ram).difference(&taken).copied().collect();
        assert!(pages(&found) == wanted, "{gib} GiB: {found:x?}");
        assert!(found.windows(2).all(|pair| pair[0].end() <= pair[1].base), "in order and disjoint: {found:x?}");
    }
}

#[test]
fn a_hole_as_large_as_all_leaves_nothing() {
    assert_eq!(cut(&pi(8), &[region(0..1 << 40)]), []);
}

#[test]
fn pages_inside_and_pages_touched() {
    let odd = region(PAGE + 1..3 * PAGE + 1);
    assert_eq!((odd.inward(), odd.outward()), (region(2 * PAGE..3 * PAGE), region(PAGE..4 * PAGE)));
    let tiny = region(5..6);
    assert_eq!((tiny.inward().len, tiny.outward()), (0, region(0..PAGE)));
    assert!(Region::new(1 << 47, 1 << 48).is_none());
}
