//! The work of `soak`: for as long as asked, a crew of processes does whatever an address space can live through, in a
//! random mix, while CPUs go and come. After each period all comes to rest and the kernel's accounts are looked at.

mod accounts;
mod crew;
mod deeds;
mod hotplug;

use std::time::Duration;

use crate::report::{Report, Verdict};

pub use deeds::CHILD;

use accounts::Accounts;

/// Before the first look at memory this long a mix has run, or an eighth of the period: caches of the kernel and the
/// program's own pages have then been filled.
const WARM_UP: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many looks at the accounts.
    pub periods: u32,
    /// How long the mix runs between two.
    pub period: Duration,
    /// Of the random numbers.
    pub seed: u64,
}

/// Runs the plan; prints a line for each period.
pub fn run(plan: Plan, report: &mut Report) {
    let warm_up = WARM_UP.min(plan.period);
    let start = crew::run(warm_up, plan.seed, 0).and_then(|_| Accounts::first());
    let start = match start {
        Ok(start) => start,
        Err(why) => return report.add("soak", Err(why)),
    };
    println!("soak: seed {}, {} periods of {} s, {start}", plan.seed, plan.periods, plan.period.as_secs());
    let mut before = start.clone();
    for period in 1..=plan.periods {
        let result = one_period(plan, period, &start, &mut before);
        let failed = result.is_err();
        report.add(&format!("period-{period}"), result);
        if failed {
            return;
        }
    }
}

fn one_period(plan: Plan, period: u32, start: &Accounts, before: &mut Accounts) -> Verdict {
    let done = crew::run(plan.period, plan.seed, period.into())?;
    let now = Accounts::at_rest(start)?;
    println!("soak: period {period}: {done}; {}", now.change_since(before));
    *before = now;
    Ok(())
}
