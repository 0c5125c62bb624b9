//! `threads N`: N threads of the standard library share a mutex, a condition variable and a channel.

use std::{
    process::ExitCode,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
};

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).map_or(Ok(8), |word| word.parse());
    let Ok(count @ 1..=1000) = wanted else {
        eprintln!("usage: threads N, with N from 1 to 1000");
        return ExitCode::from(2);
    };
    let (by_lock, by_channel) = sums(count);
    let expected = count * (count + 1) / 2;
    println!("threads: {count} threads, sum {by_lock} by mutex, {by_channel} by channel");
    if (by_lock, by_channel) == (expected, expected) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each thread adds its number to a sum behind a lock, in the order of the numbers, and sends it through a channel.
fn sums(count: u64) -> (u64, u64) {
    let state = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let (sender, receiver) = mpsc::channel();
    let threads: Vec<_> = (1..=count)
        .map(|number| {
            let (state, sender) = (Arc::clone(&state), sender.clone());
            thread::spawn(move || {
                let (lock, turned) = &*state;
                let mut guard = lock.lock().expect("no thread panics");
                while guard.0 + 1 != number {
                    guard = turned.wait(guard).expect("no thread panics");
                }
                *guard = (number, guard.1 + number);
                turned.notify_all();
                sender.send(number).expect("the receiver waits for all");
            })
        })
        .collect();
    drop(sender);
    let by_channel = receiver.iter().sum();
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    let by_lock = state.0.lock().expect("no thread panics").1;
    (by_lock, by_channel)
}
