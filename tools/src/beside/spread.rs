//! The same operations while QEMU runs each virtual CPU as a host thread: how far apart counts are then. Noise, which is
//! shown and never judged.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Kernel, Options, boot};
use crate::bars::Bar;
use crate::counted::Counted;
use crate::qemu::Machine;
use crate::table;
use crate::watched::Mode;
use crate::workers;

/// What is told: instructions of the kernel, and lines that moved.
const MODES: [(Mode, &str); 2] = [(Mode::Instructions, "instructions"), (Mode::Lines, "lines")];

/// Several boots of one operation on one kernel.
pub(super) struct Spread {
    operation: &'static str,
    kernel: &'static str,
    what: &'static str,
    /// From the least to the most.
    values: Vec<f64>,
}

impl Spread {
    /// The least, the middle, the most.
    fn ends(&self) -> Option<[f64; 3]> {
        let (first, last) = (self.values.first()?, self.values.last()?);
        Some([*first, self.values[self.values.len() / 2], *last])
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { operation, kernel, what, values } = self;
        json!({"operation": operation, "kernel": kernel, "what": what, "values": values, "ends": self.ends()})
    }

    fn row(&self) -> Vec<String> {
        let numbers = self.ends().map_or(["-", "-", "-"].map(str::to_owned), |ends| ends.map(table::number));
        [self.operation, self.kernel, self.what].map(str::to_owned).into_iter().chain(numbers).collect()
    }
}

/// Boots each operation of two CPUs so many times on each kernel.
pub(super) fn measure(options: &Options, kernels: &[Kernel], bars: &[&Bar]) -> Result<Vec<Spread>> {
    let mut tasks = Vec::new();
    for bar in bars.iter().filter(|bar| bar.work.moves_lines()) {
        for kernel in kernels {
            tasks.extend(
                MODES.iter().flat_map(|mode| (0..options.spread).map(move |number| (*bar, kernel, *mode, number))),
            );
        }
    }
    let values = workers::collect(&tasks, options.jobs, |(bar, kernel, (mode, what), number), progress| {
        let machine = parallel(kernel.run(bar));
        let name = format!("{} {} parallel {number}{}", kernel.name, bar.work.workload, mode.suffix());
        let count = || Counted::of(&machine, &options.counting.plugin, bar.work, *mode);
        let counted = boot(kernel, &machine, &name, count, progress)?;
        let value = |counted: Counted| if *mode == Mode::Lines { counted.lines() } else { counted.cost() };
        Ok(counted.map(|counted| ((bar.what, kernel.name, *what), value(counted))))
    })?;
    let mut found = BTreeMap::<_, Vec<f64>>::new();
    values.into_iter().for_each(|(what, value)| found.entry(what).or_default().push(value));
    let spread = |((operation, kernel, what), mut values): ((_, _, _), Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        Spread { operation, kernel, what, values }
    };
    Ok(found.into_iter().map(spread).collect())
}

/// The machine with a host thread for each virtual CPU, whose time is the host's.
fn parallel(machine: Machine) -> Machine {
    let extra = ["-accel", "tcg,thread=multi"].map(str::to_owned).into_iter().chain(machine.extra).collect();
    Machine { icount: false, extra, ..machine }
}

/// The table, and what it is.
pub(super) fn text(spreads: &[Spread]) -> String {
    let rows: Vec<_> = spreads.iter().map(Spread::row).collect();
    let table = table::render(&["operation", "kernel", "what", "least", "median", "most"], 3, &rows);
    format!("{table}The same with a host thread for each virtual CPU: noise, by which nothing is judged.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_the_middle_and_the_most_are_told() {
        let spread =
            |values: &[f64]| Spread { operation: "pipe", kernel: "Linux", what: "lines", values: values.to_vec() };
        assert_eq!(spread(&[61.0, 70.0, 90.5]).row().join(" "), "pipe Linux lines 61.0 70.0 90.5");
        assert_eq!(spread(&[]).ends(), None);
        assert!(text(&[spread(&[1.0])]).contains("noise"));
    }

    #[test]
    fn time_is_the_hosts() {
        let line = parallel(Machine { icount: true, ..Machine::of("k".into()) }).shell_line();
        assert!(line.ends_with("-accel tcg,thread=multi") && !line.contains("-icount"), "{line}");
    }
}
