//! Every client × frontend × endpoint × policy, over TCP and UDP, IPv4 and IPv6: who answers, which source the endpoint sees,
//! and which peer the client; or whether it is refused or dropped. `lb_tests::matrix` has the table and the rules.

use anyhow::{Result, ensure};
use lb_testkit::Wiring;
use lb_tests::matrix::{
    play::{Theatre, play},
    rules::Rule,
    services,
};

fn cells(wiring: Wiring) -> Result<()> {
    let services = services::all();
    let mut theatre = Theatre::new(wiring)?;
    theatre.set(&services)?;
    let kept = play(&theatre, &services)?;
    println!("cells in which a rule was kept: {kept:#?}");
    for rule in Rule::ALL {
        ensure!(kept.contains_key(&rule), "no cell shows {rule:?}");
    }
    Ok(())
}

#[test]
fn every_client_is_served_by_the_rules_with_routed_pods() {
    cells(Wiring::Routed).unwrap();
}

#[test]
fn every_client_is_served_by_the_rules_with_bridged_pods() {
    cells(Wiring::Bridged).unwrap();
}

#[test]
fn every_client_is_served_by_the_rules_with_pods_on_an_overlay() {
    cells(Wiring::Overlay).unwrap();
}
