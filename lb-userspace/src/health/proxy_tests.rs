//! What /healthz and /livez say, and when.

use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;

/// A moment `seconds` after the test's begin, on both clocks.
fn at(begin: Instant, seconds: u64) -> Now {
    Now {
        monotonic: begin + Duration::from_secs(seconds),
        wall: "2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap()
            + SignedDuration::from_secs(seconds.cast_signed()),
    }
}

/// An agent that has brought everything to the kernel.
fn current(now: Now) -> ProxyHealth {
    let mut health = ProxyHealth::default();
    health.set_serving(Serving::Current);
    health.turned(now);
    health.queued(now);
    for family in Family::ALL {
        health.updated(family, now);
    }
    health
}

fn json_of(report: &Report) -> Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn the_answer_has_kube_proxys_fields_and_tells_what_is_served() {
    let begin = Instant::now();
    let mut health = current(at(begin, 0));
    health.set_node(NodeState::Eligible);
    health.set_api(Reach::Reached, at(begin, 1));
    let report = health.report(at(begin, 10));
    let family = json!({"lastUpdated": "2026-01-02T03:04:05Z", "healthy": true});
    let expected = json!({
        "lastUpdated": "2026-01-02T03:04:15Z",
        "currentTime": "2026-01-02T03:04:15Z",
        "nodeEligible": true,
        "healthy": true,
        "status": {"IPv4": family, "IPv6": family},
        "mainLoop": "turning",
        "serving": "current",
        "api": {"state": "reached", "since": "2026-01-02T03:04:06Z"},
    });
    assert_eq!(json_of(&report), expected);
    assert!(report.is_eligible());
    let mut live = expected;
    live.as_object_mut().unwrap().remove("nodeEligible");
    assert_eq!(json_of(&report.without_node()), live);
}

#[test]
fn a_change_that_waits_for_a_minute_is_unhealthy_and_only_for_its_family() {
    let begin = Instant::now();
    let mut health = current(at(begin, 0));
    health.queued(at(begin, 5));
    health.turned(at(begin, 60));
    health.updated(Family::V4, at(begin, 6));
    assert!(
        health.report(at(begin, 64)).healthy,
        "late after 60 s, not before"
    );
    let report = health.report(at(begin, 65));
    assert!(!report.healthy && !report.is_eligible());
    let json = json_of(&report);
    assert_eq!(json["status"]["IPv4"]["healthy"], true);
    assert_eq!(json["status"]["IPv6"]["healthy"], false);
    assert_eq!(json["lastUpdated"], "2026-01-02T03:04:11Z", "that of IPv4");
    health.updated(Family::V6, at(begin, 66));
    assert!(health.report(at(begin, 67)).healthy);
}

#[test]
fn further_changes_do_not_make_a_waiting_one_younger() {
    let begin = Instant::now();
    let mut health = current(at(begin, 0));
    for second in 1..=61 {
        health.queued(at(begin, second));
        health.turned(at(begin, second));
    }
    assert!(!health.report(at(begin, 61)).healthy);
}

#[test]
fn a_main_loop_that_does_not_turn_is_unhealthy_for_livez_too() {
    let begin = Instant::now();
    let health = current(at(begin, 0));
    assert!(health.report(at(begin, 59)).healthy);
    let report = health.report(at(begin, 60)).without_node();
    assert!(!report.healthy);
    assert_eq!(json_of(&report)["mainLoop"], "stuck");
}

#[test]
fn who_starts_is_healthy_but_gets_no_connections_before_there_is_something_to_serve() {
    let begin = Instant::now();
    let mut health = ProxyHealth::default();
    health.turned(at(begin, 119));
    health.queued(at(begin, 0));
    let report = health.report(at(begin, 120));
    assert!(report.healthy && !report.is_eligible());
    assert_eq!(json_of(&report)["status"], Value::Null);
    health.set_serving(Serving::Pinned);
    let report = health.report(at(begin, 120));
    assert!(report.is_eligible());
    assert_eq!(json_of(&report)["serving"], "pinned");
}

#[test]
fn a_node_that_is_missing_or_on_its_way_out_is_not_eligible_but_live() {
    let begin = Instant::now();
    for (node, eligible) in [
        (NodeState::Unknown, true),
        (NodeState::Eligible, true),
        (NodeState::Missing, false),
        (NodeState::Deleting, false),
        (NodeState::ToBeDeleted, false),
    ] {
        let mut health = current(at(begin, 0));
        health.set_node(node);
        let report = health.report(at(begin, 1));
        assert_eq!(report.is_eligible(), eligible, "{node:?}");
        assert_eq!(json_of(&report)["nodeEligible"], eligible);
        assert!(report.healthy, "{node:?}");
    }
}

#[test]
fn the_api_server_that_is_away_is_told_with_the_time_and_does_no_harm() {
    let begin = Instant::now();
    let mut health = current(at(begin, 0));
    health.set_api(Reach::Away, at(begin, 2));
    health.set_api(Reach::Away, at(begin, 9));
    let report = health.report(at(begin, 10));
    assert!(report.is_eligible());
    assert_eq!(
        json_of(&report)["api"],
        json!({"state": "away", "since": "2026-01-02T03:04:07Z"})
    );
}
