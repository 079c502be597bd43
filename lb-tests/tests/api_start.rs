//! Watches of the API server that do not start.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::api::{Fault, Order, Verb};
use lb_tests::follower::{Follower, PATIENCE, named, service};

/// Attempts in a row until the objects are listed anew (docs/ARCHITECTURE.md).
const ATTEMPTS: u64 = 5;

/// A version that the server cannot serve any more, without saying so: nothing but a list leads on from there.
#[test]
fn a_watch_that_fails_to_start_again_and_again_gives_way_to_a_new_list() {
    stuck().unwrap();
}

fn stuck() -> Result<()> {
    let mut follower = Follower::new()?;
    follower.settle().context("at the start")?;
    let api = follower.api.clone();
    api.create(service("told", 80))?;
    follower.settle().context("by the first watch")?;
    let asked = |verb| api.requests(verb, "services");
    let (lists, watches) = (asked(Verb::List), asked(Verb::Watch));
    ensure!(lists == 1, "{lists} lists at the start");
    let fault = Fault::Status {
        code: 500,
        retry_after: None,
    };
    let order = api.order(Order::new(fault).verb(Verb::Watch).resource("services"));
    api.end_watches(Some("services"));
    // No watch is there to tell of it.
    api.create(service("unheard", 80))?;
    let end = Instant::now() + PATIENCE;
    while asked(Verb::List) == lists {
        ensure!(Instant::now() < end, "it is not listed anew");
        ensure!(
            follower.index.service(&named("unheard")).is_none(),
            "it was told by nobody"
        );
        follower.pump(Duration::from_millis(20))?;
    }
    let failed = asked(Verb::Watch) - watches;
    // The watch that follows the list may have been asked for by now.
    ensure!(
        failed == ATTEMPTS || failed == ATTEMPTS + 1,
        "listed anew after {failed} attempts"
    );
    // The list is enough, though watches do not start still.
    follower.settle().context("by a list")?;
    api.lift(order);
    api.create(service("heard", 80))?;
    follower.settle().context("by a watch")?;
    ensure!(
        asked(Verb::Watch) > watches + failed,
        "a watch has started at last"
    );
    Ok(())
}
