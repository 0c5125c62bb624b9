//! Mutations of the modifiers, and of the schemes under which dead `Mm`s wait.

use super::list::Mutation;

/// Every one of them.
pub(crate) const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "stay lazy at the exit (exit=init)",
        by: "contract::exit_to_init",
        edits: &[(
            "switch.rs",
            "            M::cpu_state().leave_for_good();\n",
            "            let _ = CpuState::<M>::leave_for_good;\n",
        )],
    },
    Mutation {
        name: "look at the slots before the count is zero (target=slot)",
        by: "lifetimes::a_cpu_enters_while_a_reference_is_dropped",
        edits: &[
            (
                "handle.rs",
                "        if self.drop_count() {\n            lazy::final_drop(DeadMm(self.0));\n",
                "        let named = M::system().cpus().iter().filter(|cpu| cpu.has_loaded(&**self)).map(|cpu| cpu.id);\n        let early: crate::CpuSet = named.collect();\n        crate::machine::point::<M>(crate::Point::CountZero);\n        if self.drop_count() {\n            self.early.store(early.words()[0], Ordering::Relaxed);\n            lazy::final_drop(DeadMm(self.0));\n",
            ),
            (
                "mm.rs",
                "    pub(crate) died_at: AtomicU64,\n",
                "    pub(crate) died_at: AtomicU64,\n    pub(crate) early: AtomicU64,\n",
            ),
            (
                "mm.rs",
                "            died_at: AtomicU64::new(0),\n",
                "            died_at: AtomicU64::new(0),\n            early: AtomicU64::new(0),\n",
            ),
            (
                "lazy/shootdown.rs",
                "system.cpus().iter().filter(|cpu| cpu.has_loaded(mm)).map(|cpu| cpu.id).collect(),\n",
                "{ let _ = system; CpuSet::from_words(&[mm.early.load(Ordering::Relaxed)]) }\n",
            ),
        ],
    },
    Mutation {
        name: "ask the CPUs of one only (batch)",
        by: "modifiers::t15_everybody_kills",
        edits: &[("lazy/batch.rs", ".reduce(|all, some| all.union(&some))", ".last()")],
    },
    Mutation {
        name: "free a batch before asking (batch)",
        by: "lifetimes::a_cpu_enters_while_a_reference_is_dropped",
        edits: &[(
            "lazy/batch.rs",
            "        M::on_cpus(&targets, IpiReason::Shoot, &|_: CpuId| leave_dead(M::cpu_state()));\n",
            "        let _ = leave_dead::<M>;\n",
        )],
    },
    Mutation {
        name: "leave a live Mm too, and clear its bit (batch)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/batch.rs",
            "    if !cpu.with_loaded(Mm::is_dead) {\n        return note(cpu, Counter::ShootFoundGone, || 0);\n    }\n",
            "    cpu.with_loaded(|mm| mm.holders().clear_own(cpu.id));\n",
        )],
    },
    Mutation {
        name: "let one more wait (batch)",
        by: "modifiers::t21_more_than_may_wait",
        edits: &[("lazy/waiting.rs", "(number < self.limit)", "(number <= self.limit)")],
    },
    Mutation {
        name: "let those who wait keep the last frames",
        by: "modifiers::t21_want_of_memory_frees_who_waits",
        edits: &[("frame.rs", "            M::out_of_frames();\n", "")],
    },
    Mutation {
        name: "never look at the time (batch)",
        by: "modifiers::t21_a_batch_does_not_wait_for_ever",
        edits: &[("lazy/batch.rs", "=> M::wake_reaper_at(M::now_ns() + LONGEST_WAIT),", "=> {}")],
    },
    Mutation {
        name: "trim before leaving (trim=dying)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "        M::run(Sequence::LoadRoot, ttbr.0);\n",
            "        self.loaded.with(|left| if left.is_dying() { left.holders().clear_own(self.id) });\n        M::run(Sequence::LoadRoot, ttbr.0);\n",
        )],
    },
    Mutation {
        name: "trim before naming the next (trim=dying, mask)",
        by: "modifiers::a_trim_races_with_the_last_drop",
        edits: &[(
            "lazy/mod.rs",
            "            (_, true, Target::Mask) => Self::PublishAndTrim,\n",
            "            (_, true, Target::Mask) => Self::TrimAndPublish,\n",
        )],
    },
    Mutation {
        name: "never trim (trim=dying)",
        by: "contract::trim",
        edits: &[("switch.rs", "        if left.is_dying() {\n", "        if left.is_dying() && cfg!(any()) {\n")],
    },
    Mutation {
        name: "note the epoch at idle while lazy (qsbr)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/qsbr.rs",
            "        let now = M::now_ns();\n        let until = *since",
            "        cpu.note_epoch();\n        let now = M::now_ns();\n        let until = *since",
        )],
    },
    Mutation {
        name: "stamp a death with the epoch before it (qsbr)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/qsbr.rs",
            "system.epoch.fetch_add(1, Ordering::AcqRel) + 1;",
            "system.epoch.fetch_add(1, Ordering::AcqRel);",
        )],
    },
    Mutation {
        name: "let one CPU's epoch stand for all (qsbr)",
        by: "asids::numbers_always_suffice",
        edits: &[("lazy/qsbr.rs", "system.cpus().iter().all(", "system.cpus().iter().any(")],
    },
    Mutation {
        name: "free what has waited long without asking (qsbr)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/qsbr.rs",
            "    M::on_cpus(&targets, IpiReason::Shoot, &|_: CpuId| batch::leave_dead(M::cpu_state()));\n",
            "    let targets: crate::CpuSet = targets;\n    let nobody = targets.intersection(&crate::CpuSet::EMPTY);\n    M::on_cpus(&nobody, IpiReason::Shoot, &|_: CpuId| batch::leave_dead(M::cpu_state()));\n",
        )],
    },
    Mutation {
        name: "let an idle CPU stay for ever (qsbr)",
        by: "modifiers::t15_everybody_kills",
        edits: &[("lazy/qsbr.rs", "        if now < until {\n", "        if now < until || cfg!(all()) {\n")],
    },
    Mutation {
        name: "lose what a shot CPU was the last to leave (handoff, shoot_after)",
        by: "lifetimes::a_cpu_enters_while_a_reference_is_dropped",
        edits: &[("lazy/handoff.rs", "            cpu.settle();\n", "            let _ = CpuState::<M>::settle;\n")],
    },
    Mutation {
        name: "never shoot (handoff, shoot_after)",
        by: "modifiers::t11_in_the_middle_of_a_switch",
        edits: &[("lazy/handoff.rs", "cpu.tagged_at() + time <= now", "cpu.tagged_at() + time <= now && cfg!(any())")],
    },
];
