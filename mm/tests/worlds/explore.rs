//! Every interleaving of a small world: each state is reached once, and everything that can happen next is tried from it.
//!
//! A state is the memory of the machine: what the mm layer keeps, the stacks of all threads, and what the hardware holds.
//! Two ways that lead to the same bytes have the same futures, so the second is not followed again. `docs/decisions/0015` has why.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use mm::lying::World;
use mm::lying::director::Director;
use mm::lying::told::{Choice, Digest};

use crate::arena;
use crate::report::Case;
use crate::snapshot::Snapshot;

/// States after which a world is no small one: then it is not closed, and the result says so.
const MOST_STATES: usize = 3_000_000;
/// What a thread of the host needs that explores.
const STACK: usize = 8 << 20;

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// States from which nothing can happen any more.
    pub(crate) ends: usize,
    /// The longest way to a state.
    pub(crate) depth: usize,
    /// Ways from the first state to an end: what it would take to try them one by one.
    pub(crate) schedules: f64,
    /// Every state was reached.
    pub(crate) closed: bool,
    pub(crate) failure: Option<String>,
}

/// Explores the world that `begin` prepares, on a thread of the host of its own: one that fails is left as it is.
pub(crate) fn explore(case: Case, cpus: usize, begin: impl FnOnce(&Director) + Send + 'static) -> Outcome {
    // What lives longer than the region must not lie in it.
    mm::lying::baton::catch_panics();
    let run = move || {
        arena::prepare();
        let director = arena::inside(|| {
            let director = Director::new(case.setup(cpus));
            begin(&director);
            director.obey(case.naps(cpus));
            director
        });
        let mut explorer = Explorer::new(&director);
        let failure = explorer.run();
        let Explorer { seen, outcome, edges, dead_ends, ways, .. } = explorer;
        let stranded = || stranded(seen.len(), &edges, &dead_ends);
        let failure = failure.or_else(|| outcome.closed.then(stranded)?);
        if failure.is_none() {
            // SAFETY: the machine with all its threads is forgotten, and what is left of the explorer lies outside.
            unsafe { arena::give_back() };
        }
        let schedules = ways.first().copied().unwrap_or_default();
        Outcome { states: seen.len(), ends: dead_ends.len(), schedules, failure, ..outcome }
    };
    let host = thread::Builder::new().stack_size(STACK).spawn(run).expect("the host has a thread left");
    host.join().unwrap_or_else(|_| Outcome { failure: Some("the explorer itself failed".into()), ..Outcome::default() })
}

/// A state on the way to the present one.
struct Node {
    id: u32,
    snapshot: Snapshot,
    choices: Vec<Choice>,
}

struct Explorer<'a> {
    director: &'a Director,
    seen: HashMap<u128, u32>,
    /// From, to.
    edges: Vec<(u32, u32)>,
    dead_ends: Vec<u32>,
    /// For each state, the ways from it to an end.
    ways: Vec<f64>,
    path: Vec<Node>,
    /// The state that the machine is in, as far as that is known.
    present: Snapshot,
    ignored: Vec<Range<usize>>,
    outcome: Outcome,
}

impl<'a> Explorer<'a> {
    fn new(director: &'a Director) -> Self {
        let mut ignored = director.ignored();
        ignored.sort_by_key(|range| range.start);
        Self {
            director,
            seen: HashMap::new(),
            edges: Vec::new(),
            dead_ends: Vec::new(),
            ways: Vec::new(),
            path: Vec::new(),
            present: Snapshot::default(),
            ignored,
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self) -> Option<String> {
        if let Some(failure) = self.arrive(None) {
            return Some(failure);
        }
        while let Some(node) = self.path.last_mut() {
            let Some(choice) = node.choices.pop() else {
                let node = self.path.pop().expect("just seen");
                if let Some(before) = self.path.last() {
                    self.ways[before.id as usize] += self.ways[node.id as usize];
                }
                continue;
            };
            let from = node.id;
            node.snapshot.put_back(&self.present);
            self.present = node.snapshot.clone();
            self.outcome.steps += 1;
            let failure = arena::inside(|| self.director.perform(choice)).map(outside);
            if let Some(failure) = failure.or_else(|| self.arrive(Some(from))) {
                return Some(failure);
            }
            if self.seen.len() > MOST_STATES {
                return None;
            }
        }
        self.outcome.closed = true;
        None
    }

    /// A state was reached. Unless it was before, what can happen next is to be tried.
    fn arrive(&mut self, from: Option<u32>) -> Option<String> {
        let new = self.seen.len() as u32;
        let (digest, choices) = self.look();
        let id = *self.seen.entry(digest).or_insert(new);
        if let Some(from) = from.filter(|&from| from != id) {
            self.edges.push((from, id));
        }
        if id != new {
            // One that is on the way itself counts for nothing yet: that would be a way in a circle.
            if let Some(from) = from.filter(|&from| from != id) {
                self.ways[from as usize] += self.ways[id as usize];
            }
            return None;
        }
        self.ways.push(0.0);
        if choices.is_empty() {
            self.dead_ends.push(id);
            self.ways[id as usize] = 1.0;
            if let Some(from) = from {
                self.ways[from as usize] += 1.0;
            }
            self.present = Snapshot::default();
            return arena::inside(|| self.end()).map(outside);
        }
        self.path.push(Node { id, snapshot: self.present.clone(), choices });
        self.outcome.depth = self.outcome.depth.max(self.path.len());
        None
    }

    /// Nothing can happen any more: is all as it should be?
    fn end(&self) -> Option<String> {
        if let Some(failure) = self.director.stuck() {
            return Some(failure);
        }
        self.director.let_go();
        self.director.outlive().and_then(|()| self.director.close()).err()
    }

    /// Looks at the state that the machine is in now: what tells it from others, and what can happen next. The region
    /// changes no more before something does.
    fn look(&mut self) -> (u128, Vec<Choice>) {
        let world: &World = self.director;
        let (machine, stacks, choices) = arena::inside(|| {
            let state = world.lock();
            let (digest, stacks) = (state.digest(), state.stacks().collect::<Vec<_>>());
            drop(state);
            (digest, stacks, world.choices())
        });
        let (stacks, choices) = (outside(stacks), outside(choices));
        self.present = Snapshot::take(stacks, &self.present, &self.ignored);
        let mut digest = Digest::default();
        digest.add(machine as u64);
        digest.add((machine >> 64) as u64);
        self.present.add_to(&mut digest);
        (digest.value(), choices)
    }
}

/// A copy that outlives the region.
fn outside<T: Clone>(of: T) -> T {
    of.clone()
}

/// Looks for states from which no end can be reached: there, under whatever fairness, something waits for ever (I13).
fn stranded(states: usize, edges: &[(u32, u32)], ends: &[u32]) -> Option<String> {
    let mut before = vec![Vec::new(); states];
    edges.iter().for_each(|&(from, to)| before[to as usize].push(from));
    let mut reaches = vec![false; states];
    let mut todo = ends.to_vec();
    while let Some(state) = todo.pop() {
        if !std::mem::replace(&mut reaches[state as usize], true) {
            todo.extend(&before[state as usize]);
        }
    }
    let lost = reaches.iter().filter(|reaches| !**reaches).count();
    (lost != 0).then(|| format!("I13: from {lost} of {states} states no end can be reached: something waits for ever"))
}
