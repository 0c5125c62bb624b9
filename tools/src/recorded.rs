//! Boots with `trace=on`: what happened must have been recorded.

use std::path::Path;

use crate::job::{Expect, Job};
use crate::qemu::Machine;
use crate::scenario::{Parts, owned};
use crate::trace;

/// A boot that records: a name, the command line, the workload, and what must have happened.
type Recorded = (&'static str, &'static str, &'static str, &'static [&'static str]);

const RECORDED: [Recorded; 2] = [
    (
        "trace-shootdown",
        "lazy_tlb=shootdown",
        "exit-threads --ops 20",
        &[
            "switch_user_user",
            "switch_user_kernel",
            "switch_kernel_kernel",
            "switch_kernel_same",
            "switch_kernel_other",
            "shoot_found_lazy",
            "shoot_found_gone",
            "unlazied",
            "tlbi_leaf_is",
            "tlbi_asid_is",
            "asids_given",
            "mms_made",
            "mms_died",
            "mms_freed",
            "call_enter",
            "call_exit",
            "fault_enter",
            "fault_exit",
            "ipi_send",
            "ipi_handle",
            "ipi_ack",
            "ipi_done",
            "name",
        ],
    ),
    (
        "trace-handoff",
        "lazy_tlb=handoff tlbi=ipi asid_bits=4",
        "fork-exit --ops 40",
        &["slots_tagged", "asid_rollovers", "tlbi_all_local", "tlbi_asid_local", "mms_died", "mms_freed"],
    ),
];

impl Parts {
    /// Boots that must record what they do.
    pub(crate) fn recorded(&self, initrd: &Path) -> Vec<Job> {
        let job = |&(name, cmdline, workload, events): &Recorded| {
            let cmdline = format!("{cmdline} {}", trace::ON);
            let job = self.job(name, Some(initrd.to_owned()), &cmdline, Expect::Trace(owned(events)));
            let args = format!("--trace /bin/lazybench {workload}");
            let machine = Machine { init: Some("/bin/init".to_owned()), args, icount: true, ..job.machine };
            Job { machine, timeout_s: 60, ..job }
        };
        RECORDED.iter().map(job).collect()
    }
}
