//! Runs each case in a child of its own and collects what it noted.

use std::{
    io::{self, PipeReader, Read, pipe},
    os::fd::AsRawFd,
};

use super::{GROUPS, Notes};
use crate::sys::{
    check,
    process::{self, Ended},
};

/// One noted answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Group, case and check, joined by `/`.
    pub name: String,
    /// The answer in words.
    pub value: String,
}

/// A case that is silent for longer hangs. Even an emulator on a busy machine needs a fraction of it.
const PATIENCE_MS: i32 = 30_000;

/// Runs the cases whose `group/case` starts with one of the words (all, if there are none); gives each check to `each`.
pub fn run(words: &[String], each: &mut dyn FnMut(Check)) -> io::Result<()> {
    for (group, cases) in GROUPS {
        for (case, body) in *cases {
            let name = format!("{group}/{case}");
            if words.is_empty() || words.iter().any(|word| name.starts_with(word.as_str())) {
                run_case(&name, *body, each)?;
            }
        }
    }
    Ok(())
}

fn run_case(name: &str, body: fn(&mut Notes), each: &mut dyn FnMut(Check)) -> io::Result<()> {
    let (reader, writer) = pipe()?;
    let child_name = name.to_string();
    // The closure owns the writing end. In this process it is dropped, so that the end of the child ends the reading.
    let child = process::spawn(move || {
        body(&mut Notes::new(child_name, Box::new(writer)));
        0
    })?;
    let (text, silent) = read_notes(reader)?;
    if silent {
        // SAFETY: the child is ours and not reaped yet, so the number names it.
        check(unsafe { libc::kill(child, libc::SIGKILL) }.into())?;
    }
    let ended = process::wait(child)?.1;
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        each(Check { name: name.to_string(), value: value.to_string() });
    }
    if ended != Ended::Exited(0) {
        let how = if silent { "hangs".to_string() } else { format!("{ended:?}") };
        each(Check { name: format!("{name}/ends"), value: format!("{how} after {} checks", text.lines().count()) });
    }
    Ok(())
}

/// What the child wrote, and whether it fell silent before it ended.
fn read_notes(mut reader: PipeReader) -> io::Result<(String, bool)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut wanted = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which outlives the call.
        let silent = check(unsafe { libc::poll(&mut wanted, 1, PATIENCE_MS) }.into())? == 0;
        let count = if silent { 0 } else { reader.read(&mut chunk)? };
        if count == 0 {
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), silent));
        }
        bytes.extend_from_slice(&chunk[..count]);
    }
}
