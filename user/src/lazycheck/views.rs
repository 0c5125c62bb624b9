//! One address space on several CPUs: a change made on one is seen on all.

use std::mem::ManuallyDrop;

use super::{
    Check,
    crew::{self, Crew, RESTS},
};
use crate::{
    report::{Verdict, ensure},
    sys::{
        memory::{Mapping, PAGE},
        process::{self, Ended},
    },
};

pub(super) const CHECKS: &[Check] = &[
    ("munmap-is-seen", || both(munmap)),
    ("range-munmap-is-seen", || both(range_munmap)),
    ("table-goes-with-its-page", || both(table_goes)),
    ("replaced-page-is-seen", || both(replaced)),
    ("dontneed-is-seen", || both(dontneed)),
    ("read-only-is-seen", || both(read_only)),
    ("writable-again-is-seen", || both(writable_again)),
    ("copy-breaks-for-all-threads", || both(copy_breaks)),
    ("child-writes-to-its-own-copy", || both(child_writes)),
];

/// Rounds of each check: enough for other CPUs to be caught at various moments.
const ROUNDS: usize = 16;

fn both(check: fn(&Crew, usize) -> Verdict) -> Verdict {
    for rest in RESTS {
        crew::with(rest, |crew| (0..ROUNDS).try_for_each(|round| check(crew, round)))??;
    }
    Ok(())
}

/// A page that every CPU has loaded from, and so may have cached.
fn page_known_to_all(crew: &Crew, value: u8) -> Result<Mapping, crate::report::Failed> {
    let page = Mapping::private(PAGE)?;
    poke(&page, value);
    all_load(crew, address(&page), Some(value))?;
    crew.settle();
    Ok(page)
}

fn address(page: &Mapping) -> u64 {
    page.start() as u64
}

fn poke(page: &Mapping, value: u8) {
    // SAFETY: the first byte of a writable mapping.
    unsafe { page.start().write_volatile(value) };
}

fn peek(page: &Mapping) -> u8 {
    // SAFETY: the first byte of a readable mapping.
    unsafe { page.start().read_volatile() }
}

fn all_load(crew: &Crew, address: u64, expected: Option<u8>) -> Verdict {
    let seen = crew.load(address);
    ensure(seen.iter().all(|&value| value == expected), || format!("all should load {expected:?}, but: {seen:?}"))
}

fn all_store(crew: &Crew, address: u64, value: u8, expected: bool) -> Verdict {
    let done = crew.store(address, value);
    ensure(done.iter().all(|&could| could == expected), || format!("could store: {done:?}, expected: {expected}"))
}

fn munmap(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, round as u8)?;
    let address = address(&page);
    drop(page);
    all_load(crew, address, None)
}

/// Ranges on both sides of where a kernel may turn from single invalidations to a whole one, and of a table's end.
fn range_munmap(crew: &Crew, round: usize) -> Verdict {
    let pages = [1, 2, 3, 31, 32, 33, 513, 600][round % 8];
    let range = Mapping::private(pages * PAGE)?;
    let places = [0, pages / 2, pages - 1].map(|page| address(&range) + (page * PAGE) as u64);
    for page in 0..pages {
        range.touch(page);
    }
    places.iter().try_for_each(|&place| all_load(crew, place, Some(1)))?;
    crew.settle();
    drop(range);
    places.iter().try_for_each(|&place| all_load(crew, place, None))
}

/// The only page of its table: with it goes the table, and no CPU may find the way there any more.
fn table_goes(crew: &Crew, _: usize) -> Verdict {
    const TABLE: usize = 512 * PAGE;
    // Others may map something where we leave holes: it goes piece by piece.
    let range = ManuallyDrop::new(Mapping::private(2 * TABLE)?);
    let (start, page) = (address(&range), address(&range).next_multiple_of(TABLE as u64));
    let unmap = |from: u64, to: u64| {
        // SAFETY: the pages belong to `range`, which holds no reference into them and may find them gone.
        let failed = unsafe { libc::munmap(from as *mut _, (to - from) as usize) } != 0;
        ensure(!failed, || format!("munmap of {from:#x} to {to:#x} fails"))
    };
    let end = page + PAGE as u64;
    unmap(end, start + 2 * TABLE as u64)?;
    if start < page {
        unmap(start, page)?;
    }
    range.touch((page - start) as usize / PAGE);
    all_load(crew, page, Some(1))?;
    crew.settle();
    unmap(page, end)?;
    all_load(crew, page, None)
}

fn replaced(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, 0xaa)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the page belongs to `page`, which holds no reference into it and stays its owner.
    let placed = unsafe { libc::mmap(page.start().cast(), PAGE, protection, flags, -1, 0) };
    ensure(placed == page.start().cast(), || "mmap with MAP_FIXED went elsewhere".to_string())?;
    if round.is_multiple_of(2) {
        return all_load(crew, address(&page), Some(0));
    }
    poke(&page, round as u8);
    all_load(crew, address(&page), Some(round as u8))
}

fn dontneed(crew: &Crew, _: usize) -> Verdict {
    let page = page_known_to_all(crew, 0x55)?;
    // SAFETY: the page is ours, and its content may go.
    let done = unsafe { libc::madvise(page.start().cast(), PAGE, libc::MADV_DONTNEED) };
    ensure(done == 0, || "madvise failed".to_string())?;
    all_load(crew, address(&page), Some(0))
}

fn read_only(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, 1)?;
    // A store on every CPU, so that each may have cached the right to it.
    all_store(crew, address(&page), round as u8, true)?;
    crew.settle();
    page.protect(libc::PROT_READ)?;
    all_store(crew, address(&page), 0xff, false)?;
    all_load(crew, address(&page), Some(round as u8))
}

fn writable_again(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, 1)?;
    page.protect(libc::PROT_READ)?;
    all_load(crew, address(&page), Some(1))?;
    crew.settle();
    page.protect(libc::PROT_READ | libc::PROT_WRITE)?;
    all_store(crew, address(&page), round as u8, true)?;
    ensure(peek(&page) == round as u8, || "a store that was allowed is not there".to_string())
}

/// After a fork the page is shared, so the right to store that the other CPUs may have cached must be gone.
fn copy_breaks(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, 1)?;
    all_store(crew, address(&page), 2, true)?;
    crew.settle();
    let (from_parent, mut to_child) = std::io::pipe()?;
    let child = process::spawn(|| {
        let waited = std::io::Read::read_exact(&mut &from_parent, &mut [0]);
        if waited.is_ok() { peek(&page).into() } else { 99 }
    })?;
    all_store(crew, address(&page), 3 + round as u8, true)?;
    all_load(crew, address(&page), Some(3 + round as u8))?;
    std::io::Write::write_all(&mut to_child, &[1])?;
    let ended = process::wait(child)?.1;
    ensure(ended == Ended::Exited(2), || format!("the child should still see 2, but: {ended:?}"))
}

fn child_writes(crew: &Crew, round: usize) -> Verdict {
    let page = page_known_to_all(crew, round as u8)?;
    let child = process::spawn(|| {
        poke(&page, 200);
        peek(&page).into()
    })?;
    let ended = process::wait(child)?.1;
    ensure(ended == Ended::Exited(200), || format!("the child should see 200, but: {ended:?}"))?;
    all_load(crew, address(&page), Some(round as u8))?;
    all_store(crew, address(&page), 201, true)?;
    ensure(peek(&page) == 201, || "a store after the child's end is lost".to_string())
}
