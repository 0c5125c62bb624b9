//! From the text of a trace to its file.

use serde_json::{Value, json};

use super::chrome::{CPUS, LAZY, convert};
use super::{Made, check, file_of, judge, parse};

/// Two CPUs: a call that waits on one CPU and ends on the other, a shoot, and a lazy CPU that leaves by it.
const TEXT: &str = "\
#       seconds cpu     task event                what
# cpu0: 10 records, 0 of them overwritten
# cpu1: 9 records, 0 of them overwritten
    0.000000100   0        7 call_enter           read x0=0x3
    0.000000100   1        0 switch_kernel_kernel thread=idle
    0.000000200   0        0 switch_user_kernel   mm=0x4000 thread=idle
    0.000000300   1        7 switch_kernel_other  mm=0x4000
    0.000000400   1        7 name                 reader
    0.000000500   1        7 call_exit            read returns=5
    0.000000600   1        7 mms_died             mm=0x5000 dead=1
    0.000000700   1        7 ipi_send             shoot to=0
    0.000000800   0        0 ipi_handle           shoot from=1
    0.000000800   0        0 shoot_found_lazy     mm=0x4000
    0.000000800   0        0 unlazied             mm=0x4000
    0.000000900   0        0 ipi_ack              shoot from=1
    0.000001000   1        7 ipi_done             shoot
    0.000001100   1        7 mms_freed            mm=0x5000 dead=0
    0.000001200   1        7 asid_rollovers       generation=2
    0.000001300   0        9 switch_kernel_other  mm=0x6000
    0.000001400   0        9 fault_enter          at=0x1000 esr=0x92000007
    0.000001500   0        9 fault_exit           at=0x1000 esr=0x92000007
    0.000001600   0        9 name                 other
";

fn events() -> Vec<Value> {
    let file = convert(&parse::parse(TEXT).unwrap(), &json!({}));
    check::check(&file).unwrap();
    file["traceEvents"].as_array().unwrap().clone()
}

/// Phase, name and nanoseconds of a track's slices.
fn slices(group: u64, cpu: u64) -> Vec<(String, String, u64)> {
    let is_slice =
        |event: &&Value| event["pid"] == group && event["tid"] == cpu && (event["ph"] == "B" || event["ph"] == "E");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |event: &Value| {
        (text(&event["ph"]), text(&event["name"]), (event["ts"].as_f64().unwrap() * 1000.0).round() as u64)
    };
    events().iter().filter(is_slice).map(of).collect()
}

fn expected(slices: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
    slices.iter().map(|&(phase, name, ns)| (phase.to_owned(), name.to_owned(), ns)).collect()
}

#[test]
fn a_call_goes_on_where_its_thread_does() {
    let left = [
        ("B", "reader 7", 100),
        ("B", "read", 100),
        ("E", "read", 200),
        ("E", "reader 7", 200),
        ("B", "idle", 200),
        ("B", "shoot", 800),
        ("E", "shoot", 900),
        ("E", "idle", 1300),
        ("B", "other 9", 1300),
        ("B", "fault", 1400),
        ("E", "fault", 1500),
        ("E", "other 9", 1600),
    ];
    assert_eq!(slices(CPUS, 0), expected(&left));
    let entered = [
        ("B", "kernel", 100),
        ("E", "kernel", 100),
        ("B", "idle", 100),
        ("E", "idle", 300),
        ("B", "reader 7", 300),
        ("B", "read", 300),
        ("E", "read", 500),
        ("B", "ask: shoot", 700),
        ("E", "ask: shoot", 1000),
        ("E", "reader 7", 1600),
    ];
    assert_eq!(slices(CPUS, 1), expected(&entered));
}

#[test]
fn a_cpu_is_lazy_until_it_leaves() {
    assert_eq!(slices(LAZY, 0), expected(&[("B", "mm 0x4000", 200), ("E", "mm 0x4000", 800)]));
    assert_eq!(slices(LAZY, 1), expected(&[]));
}

#[test]
fn arrows_marks_and_counts_are_drawn() {
    let events = events();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).cloned().collect::<Vec<_>>();
    let arrow = ["s", "t", "f"].map(|phase| (of(phase)[0]["tid"].clone(), of(phase)[0]["ts"].clone()));
    assert_eq!(arrow, [(json!(1), json!(0.7)), (json!(0), json!(0.8)), (json!(0), json!(0.9))]);
    let dead: Vec<_> = of("C").iter().map(|event| event["args"]["dead Mms"].clone()).collect();
    assert_eq!(dead, [json!(1), json!(0)]);
    let global: Vec<_> = of("i").into_iter().filter(|event| event["s"] == "g").collect();
    assert_eq!(global.len(), 1);
    assert_eq!(global[0]["args"], json!({ "generation": "2" }));
}

#[test]
fn what_was_not_recorded_is_missed() {
    assert!(judge(TEXT, &["mms_died".to_owned()]).is_ok());
    let error = judge(TEXT, &["mms_died".to_owned(), "tlbi_leaf_is".to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), "the trace has no tlbi_leaf_is");
    let Made { sum, .. } = file_of(TEXT, "").unwrap();
    assert_eq!(sum, "19 records (0 older ones overwritten): 12 slices, 5 instants, 1 arrows, 2 counts");
}
