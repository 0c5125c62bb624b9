//! Host threads that work through one queue.

use std::sync::Mutex;
use std::{panic, thread};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::guest;

/// Of so many boots.
pub(crate) fn progress_bar(boots: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} boots, {elapsed_precise}, {eta} left  {msg}");
    Ok(ProgressBar::new(boots as u64).with_style(style.context("the progress bar's template is wrong")?))
}

/// What came of each task of which something came, in no order; each moves the bar by one.
///
/// # Errors
/// If `work` fails, or if the run is interrupted.
pub(crate) fn collect<I: Sync, T: Send>(
    tasks: &[I],
    workers: usize,
    work: impl Fn(&I, &ProgressBar) -> Result<Option<T>> + Sync,
) -> Result<Vec<T>> {
    let (found, bar) = (Mutex::new(Vec::new()), progress_bar(tasks.len())?);
    share(tasks.iter(), workers, |task| {
        let came = work(task, &bar)?;
        found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(came);
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    ensure!(!guest::stopped(), "interrupted; what was counted is kept, the same command goes on from there");
    Ok(found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

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
