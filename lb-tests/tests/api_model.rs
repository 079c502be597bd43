//! A watch of the API server against all that it may do, by a seed: the index never loses what was always there, and ends
//! equal to the server's state.
//!
//! `FAIRLEAD_SEED=7 cargo nextest run -p lb-tests --test api_model` plays one seed.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::api::{ApiServer, Fault, Order, OrderId, Verb};
use lb_tests::follower::{Follower, PATIENCE, named, service, slice};
use serde_json::json;

/// Services that come and go.
const VOLATILE: u64 = 12;
/// Pause after each byte of a slow stream.
const A_BYTE: Duration = Duration::from_micros(100);
/// Changes while the server is silent or slow.
const CHANGES: u64 = 4;
/// Things that happen for each seed.
const STEPS: u64 = 60;

/// Numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }
}

/// A follower, and what its server does wrong just now.
struct Play {
    follower: Follower,
    orders: Vec<OrderId>,
}

impl Play {
    fn change(&self, dice: &mut Dice) -> Result<()> {
        let api = &self.follower.api;
        let name = format!("volatile{}", dice.below(VOLATILE));
        let (service_key, slice_key) = (format!("default/{name}"), format!("default/{name}-x"));
        let there = api.get("services", &service_key).is_some();
        match (there, dice.below(4)) {
            (false, _) => {
                api.create(service(&name, 80))?;
                api.create(slice(&name, dice.below(5_000)))?;
            }
            (true, 0) => {
                api.delete("services", &service_key)?;
                api.delete("endpointslices", &slice_key)?;
            }
            (true, 1) => drop(api.update(service(&name, 1 + dice.below(60_000)))?),
            (true, _) => drop(api.update(slice(&name, dice.below(5_000)))?),
        }
        Ok(())
    }

    /// Old news of everything that comes and goes, and then one thing that is new: no list puts right what the old news
    /// have led to.
    fn last_words(&mut self, dice: &mut Dice) -> Result<()> {
        for _ in 0..VOLATILE {
            self.change(dice)?;
        }
        self.follower.settle()?;
        let api = self.follower.api.clone();
        let lists = || api.requests(Verb::List, "services") + api.requests(Verb::List, "endpointslices");
        let before = lists();
        let mut shown = 0;
        for number in 0..VOLATILE {
            let (service, slice) = (
                format!("default/volatile{number}"),
                format!("default/volatile{number}-x"),
            );
            // What was not changed since the history begins has no older version.
            shown += u32::from(api.show_older("services", &service).is_ok());
            shown += u32::from(api.show_older("endpointslices", &slice).is_ok());
        }
        api.create(service("the-marker", 80))?;
        api.create(slice("the-marker", 1))?;
        let marker = named("the-marker");
        let end = Instant::now() + PATIENCE;
        while self.follower.index.service(&marker).is_none()
            || self.follower.index.slices(&marker).next().is_none()
        {
            ensure!(Instant::now() < end, "the marker does not come");
            self.follower.pump(Duration::from_millis(10))?;
        }
        ensure!(shown > 0, "nothing was old");
        ensure!(lists() == before, "a list came between");
        self.follower.agrees()
    }

    /// A server that serves an empty list, and then the whole one.
    fn empty_list(&mut self) -> Result<()> {
        let follower = &mut self.follower;
        // A server that is short again just when it is asked for the second opinion is believed, and rightly so.
        let end = Instant::now() + PATIENCE;
        while follower.index.is_in_doubt() {
            ensure!(Instant::now() < end, "the second opinion does not come");
            follower.pump(Duration::from_millis(20))?;
        }
        // An empty list, which counts when it was asked for. The second opinion is asked for when the server is
        // complete again, however long that takes.
        follower.short = true;
        let lists = |api: &ApiServer| api.requests(Verb::List, "services");
        let before = lists(&follower.api);
        let short = follower.api.order(Order::new(Fault::Short(0)).verb(Verb::List));
        follower.api.expire_watches(None);
        // A watch that sleeps between two attempts is not ended, and need not list.
        let end = Instant::now() + Duration::from_secs(3);
        while lists(&follower.api) == before && Instant::now() < end {
            follower.pump(Duration::from_millis(20))?;
        }
        follower.pump(Duration::from_millis(20))?;
        follower.api.lift(short);
        follower.short = false;
        Ok(())
    }

    /// Some changes while an order is in force, which is lifted then.
    fn changes_under(&mut self, order: OrderId, dice: &mut Dice) -> Result<()> {
        for _ in 0..CHANGES {
            self.change(dice)?;
            self.follower.pump(Duration::from_millis(dice.below(150)))?;
        }
        self.follower.api.lift(order);
        Ok(())
    }

    fn misbehave(&mut self, dice: &mut Dice) -> Result<()> {
        let resource = [None, Some("services"), Some("endpointslices")][dice.below(3) as usize];
        let order = |fault: Fault| {
            let order = Order::new(fault);
            resource.map_or_else(|| order.clone(), |name| order.clone().resource(name))
        };
        let api = self.follower.api.clone();
        match dice.below(19) {
            0 => api.end_watches(resource),
            1 => api.expire_watches(resource),
            2 => api.tear_watches(resource),
            3 => api.compact(),
            4 => {
                let code = [429, 500, 503][dice.below(3) as usize];
                let fault = Fault::Status {
                    code,
                    retry_after: None,
                };
                self.orders.push(api.order(order(fault).times(2)));
                api.end_watches(resource);
            }
            5 => {
                self.orders.push(api.order(order(Fault::Torn).times(1)));
                api.end_watches(resource);
            }
            6 => {
                self.orders.push(api.order(order(Fault::Reset).times(2)));
                api.tear_watches(resource);
            }
            7 => {
                self.orders
                    .push(api.order(order(Fault::Expired).verb(Verb::Watch).times(2)));
                api.end_watches(resource);
            }
            8 => {
                self.orders.push(api.order(order(Fault::Twice)));
                api.end_watches(resource);
            }
            9 => {
                // One that has no older version to show tells so.
                let number = dice.below(VOLATILE);
                let _ = api.show_older("services", &format!("default/volatile{number}"));
                let _ = api.show_older("endpointslices", &format!("default/volatile{number}-x"));
            }
            10 => {
                let number = dice.below(VOLATILE);
                let _ = api.repeat("services", &format!("default/volatile{number}"));
            }
            11 => self.empty_list()?,
            12 => {
                api.refuse();
                api.cut()?;
                self.follower.pump(Duration::from_millis(30))?;
                api.accept_again()?;
            }
            13 => {
                // Whoever waits too long for the start of a watch tries again.
                self.orders
                    .push(api.order(order(Fault::Hang).verb(Verb::Watch).times(1)));
                api.end_watches(resource);
            }
            14 => {
                self.orders
                    .push(api.order(order(Fault::Hang).verb(Verb::List).times(1)));
                api.expire_watches(resource);
            }
            15 => {
                self.orders
                    .push(api.order(order(Fault::Mute).verb(Verb::Watch).times(1)));
                api.end_watches(resource);
            }
            16 => {
                let silence = api.order(order(Fault::Silence));
                // Open watches are silent, or new ones do not begin.
                if dice.below(2) == 0 {
                    api.tear_watches(resource);
                }
                self.changes_under(silence, dice)?;
            }
            17 => {
                let slow = api.order(order(Fault::Slow(A_BYTE)));
                if dice.below(2) == 0 {
                    api.end_watches(resource);
                } else {
                    api.expire_watches(resource);
                }
                self.changes_under(slow, dice)?;
                // What is slow stays so to its end, which comes in the middle of it.
                api.cut()?;
            }
            _ => {
                for order in self.orders.drain(..) {
                    api.lift(order);
                }
            }
        }
        Ok(())
    }
}

fn play(seed: u64) -> Result<()> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut play = Play {
        follower: Follower::new()?,
        orders: Vec::new(),
    };
    play.follower.settle().context("at the start")?;
    for step in 0..STEPS {
        let at = || format!("step {step}");
        let pause = if dice.below(3) == 0 {
            play.misbehave(&mut dice).with_context(at)?;
            // Long enough for a second attempt, or not.
            dice.below(1_200)
        } else {
            play.change(&mut dice).with_context(at)?;
            dice.below(20)
        };
        play.follower
            .pump(Duration::from_millis(pause))
            .with_context(at)?;
    }
    play.follower.api.lift_all();
    play.follower.settle().context("at the end")?;
    play.last_words(&mut dice).context("after events out of order")
}

#[test]
fn the_index_never_loses_what_is_there_and_ends_equal_to_the_server_s_state() {
    let seeds = match env::var("FAIRLEAD_SEED") {
        Ok(seed) => vec![seed.parse().expect("FAIRLEAD_SEED is a number")],
        Err(_) => (1..=6).collect(),
    };
    // Most of the time goes by in pauses between attempts.
    std::thread::scope(|scope| {
        let plays: Vec<_> = seeds
            .iter()
            .map(|seed| scope.spawn(move || play(*seed)))
            .collect();
        for (seed, played) in seeds.iter().zip(plays) {
            let played = played
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Err(error) = played {
                panic!("FAIRLEAD_SEED={seed}: {error:#}");
            }
        }
    });
}

#[test]
fn fifty_thousand_events_as_fast_as_they_are_taken_end_in_the_server_s_state() {
    flood().unwrap();
}

fn flood() -> Result<()> {
    let mut follower = Follower::new()?;
    let api = follower.api.clone();
    for number in 0..VOLATILE {
        api.create(service(&format!("volatile{number}"), 80))?;
        api.create(slice(&format!("volatile{number}"), number))?;
    }
    follower.settle()?;
    let begin = Instant::now();
    let taken = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            api.burst(50_000, |event| {
                let name = format!("default/volatile{}-x", event % VOLATILE);
                let addr = format!("10.2.{}.{}", event / 250 % 250, 1 + event % 250);
                (
                    "endpointslices",
                    name,
                    json!({"endpoints": [{"addresses": [addr]}]}),
                )
            })
        });
        let mut taken = 0;
        while !flood.is_finished() {
            taken += u64::from(follower.take(Duration::from_millis(10))?);
        }
        flood
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok(taken)
    })?;
    let rate = taken as f64 / begin.elapsed().as_secs_f64();
    eprintln!("{rate:.0} events a second by the watch and the index alone");
    ensure!(taken > 40_000, "only {taken} events came while there were 50,000");
    follower.settle()
}
