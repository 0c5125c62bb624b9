//! The mutations: what is broken, and by which replacements (file, what stands there, what instead).

/// One rule broken.
pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    /// The test that catches it.
    pub(crate) by: &'static str,
    pub(crate) edits: &'static [(&'static str, &'static str, &'static str)],
}

/// Every mutation, by the rule that it breaks.
pub(crate) const MUTATIONS: &[Mutation] = &[
    // Rule 1: the order of the switch.
    Mutation {
        name: "drop the DSB from the switch",
        by: "asids::numbers_always_suffice",
        edits: &[("ops.rs", "LoadRoot(ttbr): [MsrTtbr0 Isb DsbNsh];", "LoadRoot(ttbr): [MsrTtbr0 Isb];")],
    },
    Mutation {
        name: "drop the ISB from the switch",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("ops.rs", "LoadRoot(ttbr): [MsrTtbr0 Isb DsbNsh];", "LoadRoot(ttbr): [MsrTtbr0 DsbNsh];")],
    },
    Mutation {
        name: "publish the slot before the MSR",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "        M::run(Sequence::LoadRoot, ttbr.0);\n",
            "        self.loaded.publish(next);\n        M::run(Sequence::LoadRoot, ttbr.0);\n",
        )],
    },
    Mutation {
        name: "set the mask bit after the MSR",
        by: "asids::numbers_always_suffice",
        edits: &[
            ("switch.rs", "            next.holders().set_own(self.id);\n", ""),
            (
                "switch.rs",
                "        M::run(Sequence::LoadRoot, ttbr.0);\n",
                "        M::run(Sequence::LoadRoot, ttbr.0);\n        next.holders().set_own(self.id);\n",
            ),
        ],
    },
    Mutation {
        name: "drop the barrier between mask bit and MSR",
        by: "contract::rollover",
        edits: &[("switch.rs", "            M::run(Sequence::PublishHolder, 0);\n", "")],
    },
    Mutation {
        name: "drop the barrier from the switch between tasks",
        by: "contract::sequences",
        edits: &[("ops.rs", "TaskSwitch(): [DsbIsh];", "TaskSwitch(): [];")],
    },
    // Rule 2: whose bits.
    Mutation {
        name: "clear other CPUs' mask bits",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/shootdown.rs",
            "    point::<M>(Point::MaskRead);\n",
            "    point::<M>(Point::MaskRead);\n    targets.iter().for_each(|cpu| mm.holders().clear_own(cpu));\n",
        )],
    },
    Mutation {
        name: "clear the own mask bit before leaving",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/shootdown.rs",
            "    cpu.unlazy();\n",
            "    mm.holders().clear_own(cpu.id);\n    cpu.unlazy();\n",
        )],
    },
    Mutation {
        name: "empty the mask with each new ASID",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "        M::system().asids.activate(next.context(), self)\n",
            "        let before = next.context().asid();\n        \
             let asid = M::system().asids.activate(next.context(), self);\n        \
             if before != Some(asid) {\n            \
             let others = M::system().cpus().iter().filter(|cpu| cpu.id != self.id);\n            \
             others.for_each(|cpu| next.holders().clear_own(cpu.id));\n        \
             }\n        \
             asid\n",
        )],
    },
    // Rule 3: slot, task and TTBR0 together. The assertions go too: the machine itself must notice.
    Mutation {
        name: "leave interrupts on in transition",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[
            ("switch.rs", "        let masked = M::mask_irqs();\n", "        let masked = M::pin();\n"),
            ("switch.rs", "fn finish_transition(masked: M::IrqsMasked) {", "fn finish_transition(masked: M::Pinned) {"),
            (
                "switch.rs",
                "        debug_assert!(M::irqs_masked(), \"TTBR0 and its slot change together, interrupts masked\");\n",
                "",
            ),
            (
                "switch.rs",
                "        debug_assert!(M::irqs_masked(), \"slot, task and TTBR0 change together, interrupts masked\");\n",
                "",
            ),
            (
                "sync.rs",
                "        debug_assert!(M::irqs_masked(), \"a switch lock was taken with interrupts on\");\n",
                "",
            ),
        ],
    },
    // Rule 4: who may wait.
    Mutation {
        name: "wait for other CPUs where waiting is not allowed",
        by: "hotplug::t23_dies_at_each_stage",
        edits: &[("lazy/final_drop.rs", "    if M::may_wait() {", "    if M::may_wait() || true {")],
    },
    // Rule 5: users.
    Mutation {
        name: "let users rise from zero",
        by: "lifetimes::t08_users_never_rise_from_zero",
        edits: &[("mm.rs", "(users != 0).then(|| users + 1)", "Some(users + 1)")],
    },
    // Rule 6: flush, then free.
    Mutation {
        name: "skip the teardown TLBI",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("flush/pieces.rs", "        return one(S::ASID, 0);\n", "        return;\n")],
    },
    Mutation {
        name: "skip the TLBI of an unmap",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "flush/pieces.rs",
            "        Some(pieces) => pieces.for_each(|piece| match",
            "        Some(pieces) => pieces.take(0).for_each(|piece| match",
        )],
    },
    Mutation {
        name: "read the ASID before the DSB",
        by: "flush::t51_rollover_within_a_flush",
        edits: &[(
            "flush/mod.rs",
            "    M::run(Sequence::PublishEntries, 0);\n    point::<M>(Point::EntriesPublished);\n    let Some(asid) = asid_after_publish(mm) else {\n        return;\n    };\n",
            "    let Some(asid) = asid_after_publish(mm) else {\n        return;\n    };\n    point::<M>(Point::EntriesPublished);\n    M::run(Sequence::PublishEntries, 0);\n",
        )],
    },
    Mutation {
        name: "drop the DSB before the TLBI",
        by: "contract::teardown",
        edits: &[(
            "flush/mod.rs",
            "    M::run(Sequence::PublishEntries, 0);\n    point::<M>(Point::EntriesPublished);\n",
            "    point::<M>(Point::EntriesPublished);\n",
        )],
    },
    Mutation {
        name: "drop the DSB after the TLBI",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "flush/mod.rs",
            "    M::run(Sequence::Complete, 0);\n    if system.hardware.repeat_tlbi {\n",
            "    if system.hardware.repeat_tlbi {\n",
        )],
    },
    Mutation {
        name: "keep walk caches when a table goes",
        by: "contract::unmap_and_protect",
        edits: &[("flush/pieces.rs", "(Sequence::InvalidateWalk, Counter::", "(Sequence::InvalidateLeaf, Counter::")],
    },
    Mutation {
        name: "flush with preemption on",
        by: "flush::a_teardown_is_not_moved",
        edits: &[(
            "flush/mod.rs",
            "    let _pinned = M::pin();\n    let config = &M::system().config;\n",
            "    let config = &M::system().config;\n",
        )],
    },
    Mutation {
        name: "free before the flush",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "stale.rs",
            "        point::<M>(Point::Unmapped);\n        invalidate(mm, &self.extent);\n",
            "        point::<M>(Point::Unmapped);\n        self.free();\n        invalidate(mm, &self.extent);\n",
        )],
    },
    Mutation {
        name: "do not flush narrowed rights",
        by: "contract::unmap_and_protect",
        edits: &[("table.rs", "            stale.add_narrowed(page);\n", "")],
    },
    Mutation {
        name: "link a table before its zeroes are out",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "table.rs",
            "    M::run(Sequence::PublishEntries, 0);\n    frames.mark_used(parent, index);\n",
            "    frames.mark_used(parent, index);\n",
        )],
    },
    // Rule 6 where only holders are asked (`tlbi=ipi`, `tlbi=auto`), and rule 2.
    Mutation {
        name: "invalidate, then leave, in the flush handler",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[
            (
                "flush/holders.rs",
                "    if cpu.has_loaded(mm) {\n",
                "    here(mm, &Extent::All);\n    if cpu.has_loaded(mm) {\n",
            ),
            ("flush/holders.rs", "    cpu.forget(mm);\n", "    mm.holders().clear_own(cpu.id);\n"),
        ],
    },
    Mutation {
        name: "clear the own bit and keep the entries (tlbi=ipi)",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("switch.rs", "        if M::system().config.flush.asks_holders() {\n", "        if cfg!(any()) {\n")],
    },
    Mutation {
        name: "look at the mask after a DSB ISHST",
        by: "contract::sequences",
        edits: &[("ops.rs", "PublishAndLook(): [DsbIsh];", "PublishAndLook(): [DsbIshst];")],
    },
    Mutation {
        name: "look at the mask after no DSB",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("ops.rs", "PublishAndLook(): [DsbIsh];", "PublishAndLook(): [];")],
    },
    Mutation {
        name: "read the mask before the DSB (tlbi=ipi)",
        by: "flush::a_cpu_enters_within_a_flush",
        edits: &[(
            "flush/holders.rs",
            "    M::run(Sequence::PublishAndLook, 0);\n    point::<M>(Point::EntriesPublished);\n    let holders = online_holders(mm);\n",
            "    let holders = online_holders(mm);\n    point::<M>(Point::EntriesPublished);\n    M::run(Sequence::PublishAndLook, 0);\n",
        )],
    },
    Mutation {
        name: "skip the second look (tlbi=auto)",
        by: "flush::a_cpu_enters_within_a_flush",
        edits: &[(
            "flush/holders.rs",
            "    let reach = reach(mm);\n    point::<M>(Point::HoldersRead);\n    match reach {\n",
            "    point::<M>(Point::HoldersRead);\n    match guess {\n",
        )],
    },
    Mutation {
        name: "unload what the running task owns (tlbi=auto)",
        by: "asids::t25_lazy_across_a_rollover",
        edits: &[("flush/holders.rs", "    if !trim || cpu.owns(mm) {\n", "    if !trim {\n")],
    },
    Mutation {
        name: "clear the bit of what the running task owns (tlbi=auto)",
        by: "asids::t25_lazy_across_a_rollover",
        edits: &[(
            "flush/holders.rs",
            "        return here(mm, extent);\n    }\n    if cpu.has_loaded(mm) {\n",
            "        here(mm, extent);\n        if trim {\n            mm.holders().clear_own(cpu.id);\n        }\n        return;\n    }\n    if cpu.has_loaded(mm) {\n",
        )],
    },
    Mutation {
        name: "read the ASID before the DSB (tlbi=ipi)",
        by: "flush::t51_rollover_within_a_flush",
        edits: &[(
            "flush/holders.rs",
            "    M::run(Sequence::PublishAndLook, 0);\n    point::<M>(Point::EntriesPublished);\n    let holders = online_holders(mm);\n",
            "    let early = mm.context().asid();\n    point::<M>(Point::EntriesPublished);\n    M::run(Sequence::PublishAndLook, 0);\n    let holders = online_holders(mm);\n    if !trim && holders.count() > 1 {\n        return M::on_cpus(&holders, IpiReason::Flush, &|_| {\n            if let Some(asid) = early {\n                super::pieces::issue::<M, super::pieces::Here>(asid, extent);\n                M::run(Sequence::CompleteLocal, 0);\n            }\n        });\n    }\n",
        )],
    },
    Mutation {
        name: "acknowledge before the local DSB",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("flush/mod.rs", "        M::run(Sequence::CompleteLocal, 0);\n", "")],
    },
    Mutation {
        name: "invalidate one unit of a range too few",
        by: "flush_modes::t41_ranges_are_gone_on_every_cpu",
        edits: &[("flush/pieces.rs", "(units - 1) << 39", "(units - 1) / 2 << 39")],
    },
    Mutation {
        name: "retire without a round",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "flush/mod.rs",
            "    if !M::system().config.scheme.dismiss(mm) {\n        return false;\n    }\n",
            "",
        )],
    },
    Mutation {
        name: "skip self when an ASID is retired",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "lazy/mod.rs",
            "            Self::Shootdown => shootdown::shoot(M::system(), mm),\n            // They left",
            "            Self::Shootdown => {\n                let here = M::cpu_state().id;\n                let others: crate::CpuSet = mm.holders().snapshot().iter().filter(|cpu| *cpu != here).collect();\n                M::on_cpus(&others, crate::IpiReason::Shoot, &|_| {\n                    let cpu = M::cpu_state();\n                    if cpu.has_loaded(mm) {\n                        cpu.unlazy();\n                    }\n                    cpu.forget(mm);\n                });\n                true\n            }\n            // They left",
        )],
    },
    Mutation {
        name: "keep walk caches of a table whose pages were never used",
        by: "flush_modes::a_table_of_unused_pages_is_invalidated",
        edits: &[(
            "stale.rs",
            "            self.extend(pages, true);\n",
            "            if M::table(table).entries().iter().any(|entry| entry.get().may_be_cached()) {\n                self.extend(pages, true);\n            }\n",
        )],
    },
    Mutation {
        name: "do not flush a used page of shared memory",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "stale.rs",
            "        if removed.may_be_cached() {\n",
            "        if removed.may_be_cached() && cfg!(any()) {\n",
        )],
    },
    // Rule 7: ASIDs.
    Mutation {
        name: "drop the barrier after a new ASID",
        by: "contract::rollover",
        edits: &[("asid.rs", "            M::run(Sequence::PublishAsid, 0);\n", "")],
    },
    Mutation {
        name: "do not flush at the end of a generation",
        by: "asids::t24_a_cpu_that_comes_late",
        edits: &[("asid.rs", "            cpu.asid.flush_pending.store(true, Ordering::Relaxed);\n", "")],
    },
    Mutation {
        name: "forget a lazy CPU's number at the second rollover",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("asid.rs", "                kept = cpu.asid.reserved.load(Ordering::Relaxed);\n", "")],
    },
    Mutation {
        name: "do not reserve what CPUs have loaded",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("asid.rs", "            numbers.take(number(kept));\n", "")],
    },
    Mutation {
        name: "renew one CPU's reservation only",
        by: "asids::a_lazy_cpu_keeps_the_number_that_another_took_on",
        edits: &[("asid.rs", "                found = true;\n", "                return true;\n")],
    },
    Mutation {
        name: "do not wait for a CPU between ASID and MSR",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "asid.rs",
            "            while cpu.asid.switching.load(Ordering::Acquire) {\n",
            "            while false {\n",
        )],
    },
    Mutation {
        name: "accept an ASID of the last generation",
        by: "asids::numbers_always_suffice",
        edits: &[("asid.rs", "        if active != 0 && current {\n", "        if active != 0 && wanted != 0 {\n")],
    },
    // Rule 9: a failed check never frees.
    Mutation {
        name: "free although a check failed",
        by: "lifetimes::a_slot_that_names_the_dead_keeps_it",
        edits: &[(
            "lazy/final_drop.rs",
            "        if self.config.check && !nobody_admits(&dead) || !nobody_holds(&dead) {\n            return self.keep(dead);\n        }\n",
            "        let _ = self.config.check && !nobody_admits(&dead) || !nobody_holds(&dead);\n",
        )],
    },
    // The schemes.
    Mutation {
        name: "skip self in the shoot",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[(
            "lazy/shootdown.rs",
            "    let targets = targets(system, mm);\n",
            "    let here = M::cpu_state().id;\n    let targets: CpuSet = targets(system, mm).iter().filter(|cpu| *cpu != here).collect();\n",
        )],
    },
    Mutation {
        name: "snapshot the mask before the count reaches zero",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[
            (
                "handle.rs",
                "        if self.drop_count() {\n            lazy::final_drop(DeadMm(self.0));\n",
                "        let early = self.holders().snapshot();\n        crate::machine::point::<M>(crate::Point::CountZero);\n        if self.drop_count() {\n            self.early.store(early.words()[0], Ordering::Relaxed);\n            lazy::final_drop(DeadMm(self.0));\n",
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
                "mm.holders().snapshot().intersection(&M::online()),\n",
                "CpuSet::from_words(&[mm.early.load(Ordering::Relaxed)]).intersection(&M::online()),\n",
            ),
        ],
    },
    Mutation {
        name: "acknowledge the shoot without leaving",
        by: "asids::numbers_always_suffice",
        edits: &[("lazy/shootdown.rs", "    cpu.unlazy();\n", "")],
    },
    Mutation {
        name: "shoot nobody",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/mod.rs",
            "            Self::Shootdown if shootdown::shoot(system, &dead) => Evicted::Gone(dead),\n",
            "            Self::Shootdown if cfg!(all()) => Evicted::Gone(dead),\n",
        )],
    },
    Mutation {
        name: "take no reference when a CPU becomes lazy (refcount)",
        by: "asids::a_lazy_cpu_returns_under_a_stale_asid",
        edits: &[("lazy/refcount.rs", "    cpu.lazy.put(left.to_ref());\n", "    let _ = left;\n")],
    },
    Mutation {
        name: "give the lazy reference back before leaving",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "            unfinished = self.load(next);\n            if let Some(left) = self.leave_lazy() {\n                self.departed.put(left);\n                unfinished = true;\n            }\n",
            "            drop(self.leave_lazy());\n            unfinished = self.load(next);\n",
        )],
    },
    Mutation {
        name: "add the share after the compare-and-swap (handoff)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/handoff.rs",
            "        dead.add_share();\n        point::<M>(Point::ShareAdded);\n        if cpu.tag(&dead) {\n            note_of(&dead, Counter::SlotsTagged);\n        } else {\n            dead.take_back_share();\n        }\n",
            "        if cpu.tag(&dead) {\n            point::<M>(Point::ShareAdded);\n            note_of(&dead, Counter::SlotsTagged);\n            dead.add_share();\n        }\n",
        )],
    },
    Mutation {
        name: "store plainly over a tag (handoff)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "        let dead = self.loaded.swap(next);\n",
            "        self.loaded.publish(next);\n        let dead = None;\n",
        )],
    },
    Mutation {
        name: "free at once (handoff)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "lazy/mod.rs",
            "            Self::Handoff => handoff::hand_off(system, dead).map_or(Evicted::HandedOver, Evicted::Gone),\n",
            "            Self::Handoff => match system.config.scheme {\n                _ => Evicted::Gone(dead),\n            },\n",
        )],
    },
    Mutation {
        name: "free in the switch (handoff)",
        by: "asids::numbers_always_suffice",
        edits: &[(
            "switch.rs",
            "            self.left_last.put(dead);\n",
            "            M::system().frames.free_root(dead.root());\n            core::mem::forget(dead);\n",
        )],
    },
    Mutation {
        name: "keep the user root loaded (eager)",
        by: "asids::numbers_always_suffice",
        edits: &[("lazy/eager.rs", "    cpu.unlazy();\n", "    let _ = cpu;\n")],
    },
    // Hotplug.
    Mutation {
        name: "hotplug without unlazy",
        by: "hotplug::t23_comes_back_to_nothing_old",
        edits: &[("hotplug.rs", "        cpu.unlazy();\n", "")],
    },
    Mutation {
        name: "come back without a full local flush",
        by: "hotplug::t23_comes_back_to_nothing_old",
        edits: &[("hotplug.rs", "        M::run(Sequence::FlushLocal, 0);\n", "")],
    },
    Mutation {
        name: "keep the lazy reference of a CPU that goes (refcount)",
        by: "hotplug::t23_dies_at_each_stage",
        edits: &[("hotplug.rs", "        drop(cpu.leave_lazy());\n", "")],
    },
    Mutation {
        name: "keep the number of a CPU that goes",
        by: "hotplug::t24_comes_back_without_a_number",
        edits: &[("hotplug.rs", "        M::system().asids.release(cpu);\n", "")],
    },
];
