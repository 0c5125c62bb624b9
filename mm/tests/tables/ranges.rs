//! T41: which pages the TLBI operations of a flush cover, by a decoder of the tests' own.

use std::collections::BTreeMap;

use mm::flush::pieces;
use mm::{Hardware, Page, PageRange};
use proptest::prelude::*;

const PLAIN: Hardware = Hardware::plain(16);
const RANGES: Hardware = Hardware { tlbi_range: true, tlbi_ttl: true, ..PLAIN };

fn run(start: u64, count: u64) -> PageRange {
    Page::from_number(start)..Page::from_number(start + count)
}

/// The field `high:low` of an operand.
fn field(operand: u64, high: u32, low: u32) -> u64 {
    operand << (63 - high) >> (63 - high + low)
}

/// How often each run of pages is covered: start and length of every operation, in order. Fields as
/// in Arm ARM C5.5, "TLBI RVALE1IS" and "TLBI VALE1IS", for the 4 KiB granule.
fn covered(pages: &PageRange, leaf_only: bool, hardware: Hardware) -> Option<BTreeMap<u64, u64>> {
    let decode = |piece: mm::flush::Piece| {
        assert_eq!(field(piece.operand, 63, 48), 0, "the ASID is the caller's");
        let hint = u64::from(leaf_only && hardware.tlbi_ttl);
        if !piece.is_range {
            assert_eq!(field(piece.operand, 47, 44), hint * 0b0111, "TTL: 4 KiB, level 3");
            return (field(piece.operand, 43, 0), 1);
        }
        assert!(hardware.tlbi_range);
        assert_eq!(field(piece.operand, 47, 46), 0b01, "TG: 4 KiB");
        assert_eq!(field(piece.operand, 38, 37), hint * 0b11, "TTL: level 3");
        let (scale, num) = (field(piece.operand, 45, 44), field(piece.operand, 43, 39));
        (field(piece.operand, 36, 0), (num + 1) << (5 * scale + 1))
    };
    Some(pieces(pages, leaf_only, hardware)?.map(decode).collect())
}

/// Every page once, and no other.
fn check(start: u64, count: u64, leaf_only: bool, hardware: Hardware) -> usize {
    let covered = covered(&run(start, count), leaf_only, hardware).expect("not too many");
    let mut next = start;
    for (&from, &length) in &covered {
        assert_eq!(from, next, "{covered:?} for {count} pages from {start:#x}");
        next += length;
    }
    assert_eq!(next, start + count, "{covered:?} for {count} pages from {start:#x}");
    covered.len()
}

#[test]
fn borders() {
    for start in [0x400, 0x401, 0x5ff, 0x7_ffff_ffff] {
        for (count, operations) in [(1, 1), (2, 1), (3, 2), (31, 2), (32, 1), (33, 2), (63, 2), (64, 1), (512, 1)] {
            assert_eq!(check(start, count, true, RANGES), operations, "{count} pages");
        }
        // 31 units of 2^16 pages, of 2^11, of 2^6, of 2, and one page.
        assert_eq!(check(start, (1 << 21) - 1, true, RANGES), 5);
        assert!(pieces(&run(start, 1 << 21), true, RANGES).is_none(), "by ASID");
    }
}

#[test]
fn without_ranges_page_by_page_or_by_asid() {
    assert_eq!(check(0x400, 64, true, PLAIN), 64);
    assert!(pieces(&run(0x400, 65), true, PLAIN).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_page_once(start in 0..1_u64 << 35, bits in 0..21_u32, low: u64, leaf_only: bool, tlbi_ttl: bool) {
        let count = 1 << bits | low & ((1 << bits) - 1);
        let operations = check(start, count, leaf_only, Hardware { tlbi_ttl, ..RANGES });
        prop_assert!(operations <= 5);
    }
}
