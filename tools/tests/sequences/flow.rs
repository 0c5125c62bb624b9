//! Which instructions may run after which, inside one function.
//!
//! A barrier somewhere in a function proves nothing: it has to stand on every way that leads to the end. The branches are
//! decoded by the Arm ARM, C4.1 (branches, exception generating and system instructions).

use std::collections::HashSet;

use super::Code;

/// What an instruction does to the order of execution.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Next,
    /// To another place, by so many instructions; and to the next one, too, if there is a condition.
    Branch(i64, bool),
    /// Comes back, if the function it calls does.
    Call,
    /// Nobody knows from here: a return, a jump to an address.
    Leave,
    /// Nothing follows.
    Stop,
}

fn kind(instruction: u32) -> Kind {
    let distance = |high: u32, low: u32| i64::from((instruction << (31 - high)) as i32 >> (31 - high + low));
    match instruction {
        i if i & 0xfc00_0000 == 0x1400_0000 => Kind::Branch(distance(25, 0), false),
        i if i & 0xfc00_0000 == 0x9400_0000 => Kind::Call,
        i if i & 0xff00_0000 == 0x5400_0000 => Kind::Branch(distance(23, 5), true),
        i if i & 0x7e00_0000 == 0x3400_0000 => Kind::Branch(distance(23, 5), true),
        i if i & 0x7e00_0000 == 0x3600_0000 => Kind::Branch(distance(18, 5), true),
        i if i & 0xffff_fc1f == 0xd63f_0000 => Kind::Call,
        i if i & 0xfe00_0000 == 0xd600_0000 => Kind::Leave,
        i if i & 0xffe0_001f == 0xd420_0000 || i >> 16 == 0 => Kind::Stop,
        _ => Kind::Next,
    }
}

impl Code {
    /// Follows every way on from an instruction, as far as `passes` lets it. Gives the first place that is `bad` or, with
    /// `leaving_is_bad`, from which the function is left, if any way comes to one.
    pub(super) fn way_to(
        &self,
        from: usize,
        passes: impl Fn(u32) -> bool,
        bad: impl Fn(u32) -> bool,
        leaving_is_bad: bool,
    ) -> Option<usize> {
        let (mut seen, mut open) = (HashSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            let instruction = self.instructions[at].1;
            if !seen.insert(at) {
                continue;
            }
            if bad(instruction) {
                return Some(at);
            }
            if !passes(instruction) {
                continue;
            }
            for next in self.successors(at) {
                match next.filter(|next| self.share_function(at, *next)) {
                    Some(next) => open.push(next),
                    None if leaving_is_bad => return Some(at),
                    None => {}
                }
            }
        }
        None
    }

    /// What may run after it; `None` for something outside.
    fn successors(&self, at: usize) -> Vec<Option<usize>> {
        if let Some(answers) = self.answers(at) {
            return answers.iter().map(|address| self.index_of(*address)).collect();
        }
        match kind(self.instructions[at].1) {
            Kind::Next => vec![Some(at + 1)],
            // A call that never comes back is the last of its way.
            Kind::Call if !self.share_function(at, at + 1) => vec![],
            Kind::Call => vec![Some(at + 1)],
            Kind::Branch(distance, conditional) => {
                let mut places = vec![at.checked_add_signed(distance as isize)];
                places.extend(conditional.then_some(Some(at + 1)));
                places
            }
            Kind::Leave => vec![None],
            Kind::Stop => vec![],
        }
    }

    /// The first instruction of the function that holds this one.
    pub(super) fn entry(&self, index: usize) -> usize {
        (0..index).rev().take_while(|at| self.share_function(*at, index)).last().unwrap_or(index)
    }
}

#[test]
fn branches_are_read_as_the_architecture_writes_them() {
    let known = [
        (0x1400_0002, Kind::Branch(2, false)),
        (0x17ff_ffff, Kind::Branch(-1, false)),
        (0x54ff_ffe0, Kind::Branch(-1, true)),
        (0xb400_0048, Kind::Branch(2, true)),
        (0x3607_ffe0, Kind::Branch(-1, true)),
        (0x9400_0001, Kind::Call),
        (0xd63f_0100, Kind::Call),
        (0xd61f_0100, Kind::Leave),
        (0xd65f_03c0, Kind::Leave),
        (0xd420_0020, Kind::Stop),
        (0xd503_201f, Kind::Next),
    ];
    for (instruction, expected) in known {
        assert_eq!(kind(instruction), expected, "{instruction:#x}");
    }
}
