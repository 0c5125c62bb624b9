//! Random programs on random machines of 1 to 64 CPUs, judged by the oracle alone. What fails is made small.
//!
//! Everything follows from a seed. Without a word in the environment, as many seeds as go into a minute are tried, from 0 on;
//! `LAZULI_SECONDS=n` takes that long, `LAZULI_FROM=s` begins elsewhere (`make overnight`), `LAZULI_SEEDS=n` tries just so
//! many, and `LAZULI_SEED=s` tries that one.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::program::{self, Plan};

/// How long to go on by default.
const SECONDS: u64 = 60;
/// How often a line tells how far it got, where that takes long.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Attempts to make a failure smaller.
const MOST_SHRINKS: u32 = 3000;
/// How many schedules a smaller program gets to fail again.
const SCHEDULES: u64 = 8;

#[test]
fn random_programs() {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("LAZULI_SEED").or(number("LAZULI_FROM")).unwrap_or(0);
    let most = number("LAZULI_SEED").map(|_| 1).or(number("LAZULI_SEEDS"));
    let time = Duration::from_secs(number("LAZULI_SECONDS").unwrap_or(SECONDS));
    let (start, mut told) = (Instant::now(), Instant::now());
    let enough = |tried| most.map_or_else(|| start.elapsed() > time, |most| tried == most);
    let mut tried = 0;
    while !enough(tried) {
        try_out(first + tried);
        tried += 1;
        if told.elapsed() > TELL_EVERY {
            println!("{tried} programs, the last from seed {}", first + tried - 1);
            told = Instant::now();
        }
    }
    println!("{tried} random programs in {:.0} s", start.elapsed().as_secs_f64());
}

/// What a failure prints is enough to see it again.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        let run = || isolated(plan_of(seed).1.current(), seed).expect("nothing is broken");
        assert_eq!(run(), run(), "seed {seed}");
    }
}

fn plan_of(seed: u64) -> (TestRunner, impl ValueTree<Value = Plan>) {
    let mut bytes = [0x5e; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { max_shrink_iters: MOST_SHRINKS, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let tree = program::plans().new_tree(&mut runner).expect("no value is refused");
    (runner, tree)
}

/// Runs the program of a seed. If it fails, tells the smallest that does, and how.
fn try_out(seed: u64) {
    let (mut runner, tree) = plan_of(seed);
    if isolated(tree.current(), seed).is_ok() {
        return;
    }
    let fails = |plan: Plan| {
        let failure = (seed..seed + SCHEDULES).find_map(|schedule| isolated(plan.clone(), schedule).err());
        failure.map_or(Ok(()), |failure| Err(proptest::test_runner::TestCaseError::fail(failure)))
    };
    match runner.run_one(tree, fails) {
        Err(TestError::Fail(failure, plan)) => {
            panic!("LAZULI_SEED={seed} fails; the smallest of its kind:\n{plan:#?}\n{failure}")
        }
        other => panic!("LAZULI_SEED={seed} failed once and then not: {other:?}"),
    }
}

/// Runs a plan on a thread of the host of its own: where a machine failed, nothing else can be trusted.
fn isolated(plan: Plan, schedule: u64) -> Result<(u64, u64), String> {
    let run = thread::spawn(move || plan.run(schedule));
    run.join().unwrap_or_else(|_| Err("the test itself panicked".to_string()))
}
