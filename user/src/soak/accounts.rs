//! The kernel's accounts when nothing runs: what must balance, and what must come back.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use crate::{
    bench::counters::{self, Counters},
    report::{Failed, Verdict, ensure},
    sys::cpu,
};

/// Frames that may be gone: caches of the kernel grow when more than before happens at a time.
const TOLERATED: i64 = 32;
/// How long all may take to come to rest, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// The accounts at one moment; none on a kernel that keeps none.
#[derive(Clone)]
pub(super) struct Accounts {
    counters: Counters,
    scheme: String,
    cpus: i64,
}

impl Accounts {
    /// Waits until the last that ended have left the CPUs, and looks.
    pub(super) fn first() -> Result<Self, Failed> {
        let mut now = Self::now()?;
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            thread::sleep(LOOK);
            let before = std::mem::replace(&mut now, Self::now()?);
            if now.living() == before.living() && now.get("dead_now") <= now.most_dead() {
                break;
            }
        }
        Ok(now)
    }

    /// Waits until they agree with those at the start.
    pub(super) fn at_rest(start: &Self) -> Result<Self, Failed> {
        let since = Instant::now();
        loop {
            thread::sleep(LOOK);
            let now = Self::now()?;
            match now.agree_with(start) {
                Ok(()) => return Ok(now),
                // What the last that ended held may still be on its way back.
                Err(_) if since.elapsed() < PATIENCE => {}
                Err(why) => return Err(why),
            }
        }
    }

    fn now() -> Result<Self, Failed> {
        let scheme = counters::option("scheme").unwrap_or_default();
        Ok(Self { counters: Counters::read(), scheme, cpus: cpu::allowed()?.len() as i64 })
    }

    fn get(&self, name: &str) -> i64 {
        let all = self.counters.since(&Counters::default());
        all.into_iter().find_map(|(own, value)| (own == name).then_some(value)).unwrap_or(0)
    }

    /// How many address spaces may stay dead when nothing runs: one on each CPU where laziness or a share keeps it, as
    /// many as wait for more where they wait, and none where nobody is lazy on them.
    fn most_dead(&self) -> i64 {
        match self.scheme.as_str() {
            "refcount" | "handoff" => self.cpus,
            "eager" => 0,
            _ => self.get("waiting_limit"),
        }
    }

    /// Address spaces that are made and neither freed nor dead.
    fn living(&self) -> i64 {
        self.get("mms_made") - self.get("mms_freed") - self.get("dead_now")
    }

    /// What balances whatever happened, and the memory that was free at the start.
    fn agree_with(&self, start: &Self) -> Verdict {
        let (dead, most) = (self.get("dead_now"), self.most_dead());
        ensure(dead <= most, || format!("{dead} address spaces stay dead, and {most} may"))?;
        ensure(self.get("mms_leaked") == 0, || format!("{} address spaces leaked", self.get("mms_leaked")))?;
        // Those that a lazy CPU's count keeps are not dead yet.
        let kept = if self.scheme == "refcount" { self.cpus } else { 0 };
        let (born, now) = (start.living(), self.living());
        ensure((now - born).abs() <= kept, || format!("{now} address spaces live by the counts, {born} at the start"))?;
        let held = self.get("lazy_grabs") - self.get("lazy_drops");
        ensure((0..=kept).contains(&held), || format!("{held} references are held by {kept} CPUs that may count"))?;
        let (waited, limit) = (self.get("waiting_max"), self.get("waiting_limit"));
        ensure(waited <= limit, || format!("{waited} dead waited at once, and {limit} may"))?;
        let (set, cleared) = (self.get("mask_bits_set"), self.get("mask_bits_cleared"));
        ensure(cleared <= set, || format!("{cleared} bits of masks were cleared, and {set} set"))?;
        let (before, now) = (start.get("free_frames_now"), self.get("free_frames_now"));
        let lost = before - now - (dead - start.get("dead_now")).max(0);
        ensure(lost <= TOLERATED, || format!("{before} frames were free at the start, {now} are now"))
    }

    /// What happened since, in one line.
    pub(super) fn change_since(&self, before: &Self) -> String {
        let change = |name: &str| self.get(name) - before.get(name);
        format!(
            "{} mms freed, {} rollovers, {} shoots; {self}",
            change("mms_freed"),
            change("asid_rollovers"),
            change("shoot_found_lazy") + change("shoot_found_gone"),
        )
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dead, {} frames free", self.get("dead_now"), self.get("free_frames_now"))
    }
}
