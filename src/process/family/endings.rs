//! How a process leaves: what its parent is told and finds, and who gets its children.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{FAMILY, Family, INIT, Member};
use crate::errno::Errno;
use crate::process::signal::Signal;
use crate::process::{Ending, Process};

/// What becomes of a process that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It waits for its parent to ask.
    Waits,
    /// Its parent has said that it will not ask.
    IsForgotten,
}

/// Sends a parent the signal that its child has ended, if it wants one, and says what becomes of the child.
///
/// Called under the lock of the family: it may take locks of a process, but neither wait nor ask the family.
pub type Tell = fn(parent: &Arc<Process>, child: &Process, ending: Ending) -> Rest;

/// Which children a `wait4` asks for.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// Any.
    Any,
    /// The one with this number.
    Pid(u32),
    /// Those of this group.
    Group(u32),
}

/// Which of them, by how they tell of their end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By SIGCHLD.
    Usual,
    /// By another signal, or none (`__WCLONE`).
    Clones,
    /// Either (`__WALL`).
    All,
}

/// What a parent asks.
#[derive(Clone, Copy)]
pub struct Question {
    /// For which children.
    pub wanted: Wanted,
    /// And for which of these.
    pub kind: Kind,
    /// Whether the child can be asked for once more.
    pub keep: bool,
}

/// What a parent asked for.
pub struct Found {
    /// The child.
    pub pid: u32,
    /// How it ended.
    pub ending: Ending,
}

/// A process ended: its children become the first process's, and its parent is told. The parent sees the end and the
/// signal at once, because it looks under the lock that both are made under: it is never told of a child that it does
/// not find, and never finds one before the signal has reached it.
///
/// Gives the processes whose `changed` is to be woken: the parent, and the first process if that has dead children now.
pub fn end(pid: u32, ending: Ending, tell: Tell) -> Vec<Arc<Process>> {
    let mut family = FAMILY.lock();
    let mut gone = Vec::new();
    let mut concerned = Vec::new();
    if family.orphan(pid, tell, &mut gone) {
        concerned.extend(family.members.get(&INIT).map(|init| init.process.clone()));
    }
    if let Some(member) = family.members.get_mut(&pid) {
        member.ending = Some(ending);
        let parent = member.process.parent();
        gone.extend(family.tell_parent(pid, tell));
        concerned.extend(family.members.get(&parent).map(|parent| parent.process.clone()));
    }
    drop(family);
    drop(gone);
    concerned
}

/// Looks for a child of `parent` that has ended. `Ok(None)` says that there are such children, and none has ended.
pub fn find_ended(parent: u32, question: &Question) -> Result<Option<Found>, Errno> {
    let mut family = FAMILY.lock();
    let mut any = false;
    let mut found = None;
    for &pid in &family.member(parent)?.children {
        let child = family.member(pid)?;
        let matches = question.means(pid, child);
        any |= matches;
        if let (true, Some(ending)) = (matches, child.ending) {
            found = Some(Found { pid, ending });
            break;
        }
    }
    if !any {
        return Err(Errno::ECHILD);
    }
    let removed = match &found {
        Some(found) if !question.keep => family.remove(found.pid),
        _ => None,
    };
    drop(family);
    drop(removed);
    Ok(found)
}

impl Question {
    fn means(&self, pid: u32, child: &Member) -> bool {
        let is_usual = child.process.exit_signal() == Signal::SIGCHLD.number();
        let is_kind = match self.kind {
            Kind::All => true,
            Kind::Usual => is_usual,
            Kind::Clones => !is_usual,
        };
        is_kind
            && match self.wanted {
                Wanted::Any => true,
                Wanted::Pid(wanted) => pid == wanted,
                Wanted::Group(group) => child.group == group,
            }
    }
}

impl Family {
    /// Tells the parent of a process that has ended. Takes the process out if its parent wants no more of it.
    fn tell_parent(&mut self, pid: u32, tell: Tell) -> Option<Member> {
        let child = self.members.get(&pid)?;
        let (ending, parent) = (child.ending?, self.members.get(&child.process.parent())?);
        match tell(&parent.process, &child.process, ending) {
            Rest::Waits => None,
            Rest::IsForgotten => self.remove(pid),
        }
    }

    /// Gives the children of a process to the first one, which is told of those that have ended already. Whether there
    /// were such; those that it wants no more of go to `gone`.
    ///
    /// However a child wanted to tell of its end, it wanted to tell somebody else: the first process gets SIGCHLD, as
    /// from Linux (kernel/exit.c, `reparent_leader`).
    fn orphan(&mut self, pid: u32, tell: Tell, gone: &mut Vec<Member>) -> bool {
        let Some(member) = self.members.get_mut(&pid) else { return false };
        let mut any_ended = false;
        for pid in core::mem::take(&mut member.children) {
            let Some(child) = self.members.get_mut(&pid) else { continue };
            child.process.set_parent(INIT);
            child.process.set_exit_signal(Signal::SIGCHLD);
            any_ended |= child.ending.is_some();
            if let Some(init) = self.members.get_mut(&INIT) {
                init.children.push(pid);
            }
            gone.extend(self.tell_parent(pid, tell));
        }
        any_ended
    }
}
