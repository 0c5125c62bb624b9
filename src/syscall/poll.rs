//! `ppoll` and `pselect6`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::files::descriptors;
use super::time::deadline_after;
use super::{Call, signals};
use crate::errno::Errno;
use crate::fs::descriptor::LIMIT;
use crate::fs::file::{OpenFile, Ready};
use crate::fs::poll;
use crate::heap;
use crate::user_memory;

/// What a call asks of one file; of none if the descriptor is not open.
struct Question {
    file: Option<Arc<OpenFile>>,
    wanted: Ready,
}

impl Question {
    /// What the file is ready for, of what is wanted or comes unasked.
    fn answer(&self) -> u16 {
        match &self.file {
            None => linux::POLLNVAL as u16,
            Some(file) => (file.file().ready() & (self.wanted | Ready::ERROR | Ready::HANG_UP)).bits(),
        }
    }
}

/// Waits until a question has an answer, or until the deadline.
fn ask<'a>(questions: impl Iterator<Item = &'a Question> + Clone, deadline: Option<u64>) -> Result<(), Errno> {
    let look = || questions.clone().any(|question| question.answer() != 0).then_some(());
    poll::wait(deadline, look).map(drop)
}

pub(super) fn ppoll(call: Call<'_>) -> Result<usize, Errno> {
    let (address, count) = (call.arg(0), call.arg32(1) as usize);
    if count > LIMIT {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline_after(call.arg(2))?;
    let descriptors = descriptors();
    let mut entries = Vec::new();
    heap::reserve(&mut entries, count)?;
    for index in 0..count as u64 {
        let entry: linux::pollfd = user_memory::read(address.wrapping_add(8 * index))?;
        // A negative descriptor asks nothing.
        let question = (entry.fd >= 0).then(|| Question {
            file: descriptors.get(entry.fd as u64).ok(),
            wanted: Ready::from_bits_retain(entry.events as u16),
        });
        entries.push((entry, question));
    }
    if call.arg(3) != 0 {
        signals::suspend_mask(call.arg(3), call.arg(4))?;
    }
    ask(entries.iter().filter_map(|(_, question)| question.as_ref()), deadline)?;
    signals::resume_mask();
    let mut ready = 0;
    for (index, (mut entry, question)) in entries.into_iter().enumerate() {
        entry.revents = question.map_or(0, |question| question.answer() as i16);
        ready += usize::from(entry.revents != 0);
        user_memory::write(address.wrapping_add(8 * index as u64), &entry)?;
    }
    Ok(ready)
}

/// A set of descriptors, as `select` takes it.
type Set = [u64; LIMIT / 64];

/// What each of the three sets asks, in words of `poll`.
const WANTED: [Ready; 3] = [Ready::READ, Ready::WRITE, Ready::empty()];
/// Which answers put a descriptor into each of the three sets.
const COUNTS: [Ready; 3] =
    [Ready::READ.union(Ready::HANG_UP).union(Ready::ERROR), Ready::WRITE.union(Ready::ERROR), Ready::empty()];

pub(super) fn pselect6(call: Call<'_>) -> Result<usize, Errno> {
    let count = call.arg32(0) as i32;
    if count < 0 {
        return Err(Errno::EINVAL);
    }
    let count = (count as usize).min(LIMIT);
    let sets = [read_set(call.arg(1), count)?, read_set(call.arg(2), count)?, read_set(call.arg(3), count)?];
    let deadline = deadline_after(call.arg(4))?;
    let descriptors = descriptors();
    let mut questions = Vec::new();
    for number in 0..count {
        for (which, set) in sets.iter().enumerate() {
            if set[number / 64] >> (number % 64) & 1 != 0 {
                let file = Some(descriptors.get(number as u64)?);
                heap::push(&mut questions, (number, which, Question { file, wanted: WANTED[which] }))?;
            }
        }
    }
    if call.arg(5) != 0 {
        let [mask, size]: [u64; 2] = user_memory::read(call.arg(5))?;
        if mask != 0 {
            signals::suspend_mask(mask, size)?;
        }
    }
    ask(questions.iter().map(|(_, _, question)| question), deadline)?;
    signals::resume_mask();
    let mut results = [[0; LIMIT / 64]; 3];
    let mut ready = 0;
    for (number, which, question) in questions {
        if question.answer() & COUNTS[which].bits() != 0 {
            results[which][number / 64] |= 1 << (number % 64);
            ready += 1;
        }
    }
    for (index, result) in results.iter().enumerate() {
        write_set(call.arg(index + 1), count, result)?;
    }
    Ok(ready)
}

fn read_set(address: u64, count: usize) -> Result<Set, Errno> {
    let mut set = [0; LIMIT / 64];
    if address != 0 {
        for (index, word) in set.iter_mut().enumerate().take(count.div_ceil(64)) {
            *word = user_memory::read(address.wrapping_add(8 * index as u64))?;
        }
    }
    Ok(set)
}

fn write_set(address: u64, count: usize, set: &Set) -> Result<(), Errno> {
    if address != 0 {
        for (index, word) in set.iter().enumerate().take(count.div_ceil(64)) {
            user_memory::write(address.wrapping_add(8 * index as u64), word)?;
        }
    }
    Ok(())
}
