//! The first process.

use alloc::boxed::Box;

use linux_raw_sys::general as linux;

use crate::cmdline;
use crate::errno::Errno;
use crate::fs::descriptor::Descriptors;
use crate::fs::file;
use crate::fs::path::{self, Last, Start};
use crate::process::exec::{self, LoadError};
use crate::process::signal::{Actions, AlternateStack, SignalSet};
use crate::process::stack::Strings;
use crate::process::{Process, Surroundings, UserThread, alarm, family, thread};
use crate::sched::Builder;
use crate::start::refuse;

/// Where the first program is looked for if the command line names none.
const CANDIDATES: [&str; 4] = ["/init", "/sbin/init", "/bin/init", "/bin/sh"];
/// What it finds in its environment, as with Linux.
const ENVIRONMENT: [&str; 2] = ["HOME=/", "TERM=linux"];

/// Starts the first process, and the kernel threads that processes need. It is found in the root
/// file system, by `init=` or at the usual places, and gets what follows `--` as arguments.
///
/// A boot without a program that can run is refused.
pub fn start() {
    alarm::init();
    let start = Start { directory: path::root().clone(), executable: None };
    let named = cmdline::get("init").or(cmdline::get("rdinit"));
    let path = match named {
        Some(path) => path,
        None => CANDIDATES
            .into_iter()
            .find(|path| path::lookup(&start, path.as_bytes(), Last::Follow).is_ok())
            .unwrap_or_else(|| {
                refuse(format_args!(
                    "no init: the root file system has none of {CANDIDATES:?}; give its path with init="
                ))
            }),
    };
    let own_name = core::iter::once(path);
    let words = own_name.chain(cmdline::line().init_arguments());
    run(start, path, words).unwrap_or_else(|error| refuse(format_args!("init {path}: {error}")));
}

fn run<'a>(start: Start, path: &str, words: impl Iterator<Item = &'a str>) -> Result<(), LoadError> {
    let arguments = Strings::of(words.map(str::as_bytes)).map_err(LoadError::Resources)?;
    let environment = Strings::of(ENVIRONMENT.map(str::as_bytes)).map_err(LoadError::Resources)?;
    let loaded = exec::load(&start, path.as_bytes(), arguments, &environment)?;
    let console = path::lookup(&start, b"/dev/console", Last::Follow).and_then(|node| file::open(&node, linux::O_RDWR));
    let files = Descriptors::with_standard(&console.map_err(LoadError::Resources)?).map_err(LoadError::Resources)?;
    let frame = Box::new(loaded.frame());
    let (executable, path, mm) = loaded.into_parts();
    let start = Start { executable: Some(executable), ..start };
    let surroundings = Surroundings { start, umask: 0o22, program: path };
    let pid = family::new_number().map_err(LoadError::Resources)?;
    let process = Process::new(pid, 0, Actions::initial(), files, surroundings);
    let thread = UserThread::new(pid, process.clone(), SignalSet::EMPTY, AlternateStack::NONE);
    thread.set_first_frame(frame, 0);
    let scheduled = Builder::new("user").tid(pid).mm(mm).extension(thread.clone()).build(thread::begin);
    let scheduled = scheduled.map_err(|_| LoadError::Resources(Errno::ENOMEM))?;
    thread.bind(&scheduled);
    family::add_process(&process, 0).map_err(LoadError::Resources)?;
    family::add_thread(&thread);
    process.threads.lock().push(thread);
    scheduled.start();
    Ok(())
}
