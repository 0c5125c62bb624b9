//! Who is whose child, and who has which number.
//!
//! One lock over one table: relations change in pairs (a parent's list and a child's field), and
//! births and deaths are rare beside everything else. [`endings`] has the deaths.

pub mod endings;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::heap;
use crate::process::signal::Signal;
use crate::process::{Ending, Process, UserThread};
use crate::sync::SpinLock;

/// The number of the first process, which inherits orphans.
pub const INIT: u32 = 1;
/// One past the highest number; then they start again.
const NUMBERS: u32 = 1 << 22;
/// The most threads of programs at a time. Each has a kernel stack of 16 KiB.
const MAX_THREADS: usize = 16 << 10;

struct Member {
    process: Arc<Process>,
    children: Vec<u32>,
    group: u32,
    session: u32,
    /// Set when all its threads are gone: it only waits for its parent to ask.
    ending: Option<Ending>,
    /// It has run `execve`: its parent may no longer move it to another group.
    has_executed: bool,
}

struct Family {
    members: BTreeMap<u32, Member>,
    threads: BTreeMap<u32, Arc<UserThread>>,
    next: u32,
}

static FAMILY: SpinLock<Family> =
    SpinLock::new(Family { members: BTreeMap::new(), threads: BTreeMap::new(), next: INIT });

impl Family {
    fn new_number(&mut self) -> Result<u32, Errno> {
        if self.threads.len() >= MAX_THREADS {
            return Err(Errno::EAGAIN);
        }
        loop {
            let number = self.next;
            self.next = if number + 1 == NUMBERS { INIT + 1 } else { number + 1 };
            let is_group = || self.members.values().any(|member| member.group == number || member.session == number);
            let taken = self.members.contains_key(&number) || self.threads.contains_key(&number);
            if !taken && !is_group() {
                return Ok(number);
            }
        }
    }

    fn member(&self, pid: u32) -> Result<&Member, Errno> {
        self.members.get(&pid).ok_or(Errno::ESRCH)
    }
}

/// A number for a new thread or process.
pub fn new_number() -> Result<u32, Errno> {
    FAMILY.lock().new_number()
}

/// Adds a process as a child of `parent`; the first one is nobody's.
pub fn add_process(process: &Arc<Process>, parent: u32) -> Result<(), Errno> {
    let mut family = FAMILY.lock();
    let pid = process.pid;
    let members = family.members.len();
    if let Some(init) = family.members.get_mut(&INIT) {
        // It may inherit them all one day, when it is too late to be refused the memory.
        let more = 1 + members.saturating_sub(init.children.len());
        heap::reserve(&mut init.children, more)?;
    }
    let (group, session) = family.members.get(&parent).map_or((pid, pid), |member| (member.group, member.session));
    if let Some(member) = family.members.get_mut(&parent) {
        heap::push(&mut member.children, pid)?;
    }
    process.set_parent(parent);
    let process = process.clone();
    let children = Vec::new();
    family.members.insert(pid, Member { process, children, group, session, ending: None, has_executed: false });
    Ok(())
}

/// Takes back a process that never ran.
pub fn remove_process(pid: u32) {
    let mut family = FAMILY.lock();
    let removed = family.remove(pid);
    drop(family);
    drop(removed);
}

/// Adds a thread under its number.
pub fn add_thread(thread: &Arc<UserThread>) {
    FAMILY.lock().threads.insert(thread.tid(), thread.clone());
}

/// Gives a thread, the last of its process, the process's number.
pub fn rename_thread(thread: &UserThread) {
    let mut family = FAMILY.lock();
    if let Some(own) = family.threads.remove(&thread.tid()) {
        thread.become_first();
        family.threads.insert(thread.tid(), own);
    }
}

/// Takes a thread out.
pub fn remove_thread(tid: u32) {
    let removed = FAMILY.lock().threads.remove(&tid);
    drop(removed);
}

/// The process with this number; also one that has ended and was not asked for yet.
pub fn process(pid: u32) -> Result<Arc<Process>, Errno> {
    FAMILY.lock().member(pid).map(|member| member.process.clone())
}

/// The thread with this number.
pub fn thread(tid: u32) -> Result<Arc<UserThread>, Errno> {
    FAMILY.lock().threads.get(&tid).cloned().ok_or(Errno::ESRCH)
}

/// All processes, or those of one group. Each is looked for when its turn comes: to gather them first would take memory,
/// and whoever is to be killed may have it all.
pub fn processes(group: Option<u32>) -> impl Iterator<Item = Arc<Process>> {
    let mut next = INIT;
    core::iter::from_fn(move || {
        let family = FAMILY.lock();
        let mut rest = family.members.range(next..);
        let (&pid, member) = rest.find(|(_, member)| group.is_none_or(|group| member.group == group))?;
        next = pid + 1;
        Some(member.process.clone())
    })
}

/// How many processes there are.
pub fn count() -> usize {
    FAMILY.lock().members.len()
}

impl Family {
    fn remove(&mut self, pid: u32) -> Option<Member> {
        let member = self.members.remove(&pid)?;
        if let Some(parent) = self.members.get_mut(&member.process.parent()) {
            parent.children.retain(|&child| child != pid);
        }
        Some(member)
    }
}

/// The process group of a process.
pub fn group(pid: u32) -> Result<u32, Errno> {
    FAMILY.lock().member(pid).map(|member| member.group)
}

/// The session of a process.
pub fn session(pid: u32) -> Result<u32, Errno> {
    FAMILY.lock().member(pid).map(|member| member.session)
}

/// Notes that a process ran `execve`: from now on it tells of its end as most do.
pub fn note_exec(pid: u32) {
    if let Some(member) = FAMILY.lock().members.get_mut(&pid) {
        member.has_executed = true;
        member.process.set_exit_signal(Signal::SIGCHLD);
    }
}

/// Moves `pid`, which is `caller` or a child of it, to a group of their session.
pub fn set_group(caller: u32, pid: u32, group: u32) -> Result<(), Errno> {
    let mut family = FAMILY.lock();
    let session = family.member(caller)?.session;
    let member = family.member(pid)?;
    if pid != caller && member.process.parent() != caller {
        return Err(Errno::ESRCH);
    }
    if pid != caller && member.has_executed {
        return Err(Errno::EACCES);
    }
    let exists = family.members.values().any(|other| other.group == group && other.session == session);
    if member.session != session || member.session == pid || (group != pid && !exists) {
        return Err(Errno::EPERM);
    }
    family.members.get_mut(&pid).ok_or(Errno::ESRCH)?.group = group;
    Ok(())
}

/// Starts a session, whose first group is the process alone.
pub fn new_session(pid: u32) -> Result<u32, Errno> {
    let mut family = FAMILY.lock();
    if family.members.values().any(|member| member.group == pid) {
        return Err(Errno::EPERM);
    }
    let member = family.members.get_mut(&pid).ok_or(Errno::ESRCH)?;
    member.group = pid;
    member.session = pid;
    Ok(pid)
}
