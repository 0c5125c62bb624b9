//! The member of the crew that takes CPUs down and brings them up.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    thread,
    time::Duration,
};

use super::crew::Work;
use super::deeds::HOTPLUG;
use crate::{
    random::Random,
    report::{Failed, Verdict},
};

const CPUS: &str = "/sys/devices/system/cpu";

/// How many CPUs the machine has, online or not.
pub(super) fn present() -> usize {
    let text = fs::read_to_string(format!("{CPUS}/present")).unwrap_or_default();
    text.trim().rsplit('-').next().and_then(|last| last.parse().ok()).map_or(1, |last: usize| last + 1)
}

/// That member.
pub(super) struct Hotplug {
    random: Random,
    /// Every CPU but the first, which stays.
    switches: Vec<File>,
}

impl Hotplug {
    pub(super) fn new(random: Random) -> Result<Self, Failed> {
        let open = |cpu| OpenOptions::new().write(true).open(format!("{CPUS}/cpu{cpu}/online"));
        // A kernel without such files keeps its CPUs.
        let switches = (1..present()).filter_map(|cpu| open(cpu).ok()).collect();
        Ok(Self { random, switches })
    }

    fn switch(&self, number: usize, on: bool) -> Verdict {
        let text = if on { "1" } else { "0" };
        let done = (&self.switches[number]).write_all(text.as_bytes());
        done.map_err(|error| Failed::Because(format!("{text} to CPU {}: {error}", number + 1)))
    }
}

impl Work for Hotplug {
    fn choose(&mut self) -> u32 {
        HOTPLUG
    }

    fn go(&mut self) -> Verdict {
        thread::sleep(Duration::from_millis(self.random.below(100)));
        if self.switches.is_empty() {
            return Ok(());
        }
        let number = self.random.below(self.switches.len() as u64) as usize;
        // More often up than down, or one CPU would do nearly all.
        let on = !self.random.one_in(3);
        self.switch(number, on)
    }

    fn end(&mut self) -> Verdict {
        (0..self.switches.len()).try_for_each(|number| self.switch(number, true))
    }
}
