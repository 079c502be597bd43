//! The packet tables, natively and in the kernel.

use std::collections::HashSet;

use lb_common::{
    abi::{Meter, Traffic},
    datapath::{Hook, Role, Way},
    verdict::Reason,
};
use lb_tests::packets::{
    case::{Case, Outcome},
    cases,
    kernel::{Kernel, monotonic_ns},
    native,
    wire::Wire,
};
use lb_userspace::load;

/// The smallest number of cases: a table that shrinks by accident must not pass.
const CASES: usize = 200;
/// The same for those that only a wire carries.
const WIRE_CASES: usize = 100;
/// Cases with flows that are older than a day.
const MOST_AGED: usize = 12;

fn report(failures: &[String], cases: usize) {
    assert!(
        failures.is_empty(),
        "{} of {cases} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn case_names_are_unique_and_the_tables_complete() {
    let cases = cases::all();
    let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= CASES, "only {} cases", cases.len());
}

#[test]
fn every_case_holds_natively() {
    let cases = cases::all();
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case: &Case| {
            let complaints = case.complaints("native", &native::run(case));
            (!complaints.is_empty()).then(|| format!("{}\n{complaints}", case.name))
        })
        .collect();
    report(&failures, cases.len());
}

#[test]
fn every_case_holds_in_the_kernel_with_the_same_flows_as_natively() {
    let uptime = monotonic_ns();
    let (cases, aged): (Vec<Case>, Vec<Case>) = cases::all()
        .into_iter()
        .filter(Case::is_runnable)
        .partition(|case| case.oldest_flow() < uptime);
    // Flows that are a day old: a machine that has just started cannot have them.
    println!(
        "left to the native run, as this machine is {} s old: {}",
        uptime / 1_000_000_000,
        aged.len()
    );
    assert!(
        aged.len() <= MOST_AGED,
        "{} cases need a machine that has been up longer",
        aged.len()
    );
    assert!(cases.len() >= CASES, "only {} cases", cases.len());

    let mut kernel = Kernel::with_routes(lb_userspace::object::bytes().unwrap()).unwrap();
    report_against_native(&cases, |case| kernel.run(case));
}

/// How many packets XDP finishes at least: the check must not pass by finishing none.
const EARLY: usize = 50;
const UPLINK: Hook = Hook::Ingress(Role::Uplink);

/// Before the stack a packet is either finished as tc on an uplink would, or left to it as it came.
#[test]
fn early_finishes_as_tc_would_or_leaves_everything_as_it_was_natively() {
    let cases = cases::all();
    let mut finished = 0;
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let (_, tc) = native::run_at(case, UPLINK);
            let (way, early) = native::run_at(case, Hook::Early);
            let fine = if way == Way::Up {
                early.packet == case.packet
                    && early.flows == native::flows_before(case)
                    && early.counted.is_empty()
            } else {
                finished += 1;
                early == tc
            };
            (!fine).then(|| format!("{}\ntc {tc:#?}\nearly {way:?} {early:#?}", case.name))
        })
        .collect();
    report(&failures, cases.len());
    assert!(finished >= EARLY, "only {finished} of {} cases", cases.len());
}

#[test]
fn xdp_finishes_as_tc_would_or_leaves_everything_as_it_was() {
    let uptime = monotonic_ns();
    let mut kernel = Kernel::with_routes(lb_userspace::object::bytes().unwrap()).unwrap();
    let cases = cases::all();
    let cases: Vec<&Case> = cases
        .iter()
        .filter(|case| case.is_runnable() && case.oldest_flow() < uptime)
        .collect();
    for program in load::XDP_PROGRAMS {
        let mut finished = 0;
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|case| match kernel.run_early(case, program) {
                Ok(None) => None,
                Ok(Some(early)) => {
                    finished += 1;
                    let (_, tc) = native::run_at(case, UPLINK);
                    (early != tc).then(|| format!("{}\ntc {tc:#?}\nXDP {early:#?}", case.name))
                }
                Err(error) => Some(format!("{}\n{error:#}", case.name)),
            })
            .collect();
        println!("{program} finishes {finished} of {} cases", cases.len());
        report(&failures, cases.len());
        assert!(finished >= EARLY, "only {finished} of {} cases", cases.len());
    }
}

/// Frames that end within the IP header: `BPF_PROG_TEST_RUN` does not take them, a wire does.
#[test]
fn frames_that_cannot_be_run_hold_on_a_wire() {
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| !case.is_runnable())
        .collect();
    assert!(cases.len() >= WIRE_CASES, "only {} cases", cases.len());
    let wire = Wire::lay().unwrap();
    let mut kernel = Kernel::load(lb_userspace::object::bytes().unwrap()).unwrap();
    let hook = cases[0].hook;
    assert!(
        cases.iter().all(|case| case.hook == hook),
        "one program is attached to the wire"
    );
    kernel.attach(hook).unwrap();
    report_against_native(&cases, |case| kernel.run_over(&wire, case));
}

/// The smallest number of packets that are counted for a service.
const COUNTED: usize = 100;

/// What is sent on to or from an endpoint is counted for its service, as one packet with its bytes in the right direction;
/// nothing else is. Where there is a connection to the endpoint's own address, or a fragment of which no service is known,
/// there may be nobody to count for.
#[test]
fn what_is_translated_is_counted_once_and_nothing_else_is() {
    let cases = cases::all();
    let mut counted = 0;
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let outcome = native::run(case);
            let (opened, reply) = match outcome.reason {
                Reason::NewFlow | Reason::Rechosen => (true, false),
                Reason::Established => (false, false),
                Reason::ReplyRestored => (false, true),
                _ => {
                    let none = outcome.counted.is_empty();
                    return (!none).then(|| format!("{}: {:?}", case.name, outcome.counted));
                }
            };
            let meters: Vec<&Meter> = outcome.counted.values().collect();
            let fine = match meters[..] {
                [meter] => {
                    counted += 1;
                    let way = if reply { meter.replies } else { meter.requests };
                    let traffic = Traffic {
                        packets: 1,
                        bytes: ip_len(&case.packet),
                    };
                    let total = meter.requests.packets + meter.replies.packets;
                    (way, total) == (traffic, 1) && meter.connections <= u64::from(opened)
                }
                [] => case.name.contains("direct") || !case.world.fragments.is_empty(),
                _ => false,
            };
            (!fine).then(|| format!("{}: {:?}", case.name, outcome.counted))
        })
        .collect();
    report(&failures, cases.len());
    assert!(counted >= COUNTED, "only {counted} of {}", cases.len());
}

/// The length of an Ethernet frame's IP packet, in bytes.
fn ip_len(frame: &[u8]) -> u64 {
    let word = |at: usize| u64::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if frame[12] == 0x86 {
        40 + word(18)
    } else {
        word(16)
    }
}

/// The kernel's outcome must be what the case says, with the same flow entries as natively.
fn report_against_native(cases: &[Case], mut run: impl FnMut(&Case) -> anyhow::Result<Outcome>) {
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| match run(case) {
            Ok(outcome) => {
                let mut complaints = case.complaints("kernel", &outcome);
                let native = native::run(case);
                if native.flows != outcome.flows {
                    complaints += &format!(
                        "flows differ\nnative {:#?}\nkernel {:#?}\n",
                        native.flows, outcome.flows
                    );
                }
                if native.counted != outcome.counted {
                    complaints += &format!("counted {:?}, natively {:?}\n", outcome.counted, native.counted);
                }
                (!complaints.is_empty()).then(|| format!("{}\n{complaints}", case.name))
            }
            Err(error) => Some(format!("{}\n{error:#}", case.name)),
        })
        .collect();
    println!("{} cases in the kernel", cases.len());
    report(&failures, cases.len());
}
