//! What `glutton` takes: each meal is eaten by children, who are then killed, and must leave nothing behind.

mod meals;

use std::{io, sync::atomic::Ordering, thread, time::Duration};

use crate::{
    report::{Verdict, ensure},
    sys::{
        self,
        memory::SharedPage,
        process::{self, Ended},
    },
};

pub use meals::MEALS;

/// Eats until the kernel refuses. Gives what it was refused with, as an errno.
pub type Meal = fn() -> i32;

/// Most children that share a meal: each has limits of its own, and only together they reach the kernel's.
const GUESTS: usize = 40;

/// A guest is done: set beside the errno.
const TOLD: u32 = 1 << 31;

/// Lets children eat one after another until one is refused by more than a limit of its own, and all hold what they have. Then a
/// child is started, to see that the kernel still can, and the guests are sent home.
pub fn serve(meal: Meal) -> Verdict {
    let mut guests = Vec::new();
    let mut last = 0;
    while guests.len() < GUESTS && [0, libc::EMFILE].contains(&last) {
        match seat(meal) {
            Ok((guest, refused_with)) => {
                guests.push(guest);
                last = refused_with;
            }
            Err(_) => break,
        }
    }
    for guest in &guests {
        // SAFETY: a group that a child of ours leads, who is not reaped yet; the call touches no memory.
        unsafe { sys::raw(libc::SYS_kill, [-i64::from(*guest) as u64, libc::SIGKILL as u64, 0, 0, 0, 0]) };
    }
    // Theirs, too, if this is the first process, which inherits them.
    while process::wait(-1).is_ok() {}
    // Not before: a page of this program's own may have to be copied to print it, and there was none left.
    println!("glutton: {} guests, the last was refused with {last}", guests.len());
    let child = process::spawn(|| 7)?;
    let ended = process::wait(child)?.1;
    ensure(ended == Ended::Exited(7), || format!("a child after the meal: {ended:?}"))
}

/// Starts a child that eats, tells what it was refused with, and stays. Gives its number and the errno.
fn seat(meal: Meal) -> io::Result<(i32, i32)> {
    // Not a pipe: that takes memory, which may just be gone.
    let page = SharedPage::new()?;
    let guest = process::spawn(|| {
        // A group of its own, so that its children go with it.
        // SAFETY: moves this process and touches no memory.
        unsafe { libc::setpgid(0, 0) };
        page[0].store(TOLD | meal() as u32, Ordering::Relaxed);
        loop {
            // SAFETY: waits for a signal and touches no memory.
            unsafe { libc::pause() };
        }
    })?;
    loop {
        let word = page[0].load(Ordering::Relaxed);
        if word != 0 {
            return Ok((guest, (word & !TOLD) as i32));
        }
        // Who takes the last page dies of it.
        if process::try_wait(guest)?.is_some() {
            return Ok((guest, libc::EFAULT));
        }
        thread::sleep(Duration::from_millis(1));
    }
}
