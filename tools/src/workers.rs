//! Host threads that work through one queue.

use std::sync::Mutex;
use std::{panic, thread};

use anyhow::Result;

use crate::guest;

/// Has so many threads do `work` for one task after the other, until none is left or the run is interrupted.
///
/// # Errors
/// If `work` fails: that thread then takes no more tasks.
pub(crate) fn share<I>(tasks: I, workers: usize, work: impl Fn(I::Item) -> Result<()> + Sync) -> Result<()>
where
    I: Iterator + Send,
{
    let queue = Mutex::new(tasks);
    let next = || queue.lock().ok()?.next().filter(|_| !guest::stopped());
    let labour = || -> Result<()> {
        while let Some(task) = next() {
            work(task)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(labour)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}
