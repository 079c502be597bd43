//! A watch of the API server against all that it may do, by a seed: the index never loses what was always there, and ends
//! equal to the server's state.
//!
//! `FAIRLEAD_SEED=7 cargo nextest run -p lb-tests --test api_model` plays one seed.

use std::{
    collections::BTreeMap,
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use lb_testkit::api::{ADMIN, ApiServer, Fault, Order, OrderId, Verb};
use lb_userspace::{
    cli::config::ApiServer as Address,
    index::Index,
    objects::{Name, Reader, Service, Slice},
    watch::{Kind, Kubernetes},
};
use serde_json::{Value, json};

/// Services that are there from the first to the last moment.
const STABLE: u64 = 5;
/// Services that come and go.
const VOLATILE: u64 = 12;
/// Things that happen for each seed.
const STEPS: u64 = 60;
/// kube waits up to half a minute between two attempts.
const PATIENCE: Duration = Duration::from_secs(150);

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

/// A Service with a cluster IP of its own, made of its name.
fn service(name: &str, port: u64) -> Value {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u64 = name[letters.len()..].parse().unwrap_or_default();
    let ip = format!("10.96.{}.{}", letters.len(), 1 + number);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "ports": [{"port": port, "protocol": "TCP"}]},
    })
}

fn slice(name: &str, host: u64) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [format!("10.1.{}.{}", host / 250, 1 + host % 250)]}],
        "ports": [{"port": 8080, "protocol": "TCP"}],
    })
}

/// A list that takes away too much is asked for again after this time. The agent waits for longer.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// A server and an agent's view of it.
struct Play {
    runtime: tokio::runtime::Runtime,
    source: Option<Kubernetes>,
    index: Index,
    orders: Vec<OrderId>,
    /// Lists that were not believed, and when to ask for them again.
    relists: Vec<(Instant, Kind)>,
    /// The server's lists are short.
    short: bool,
    api: ApiServer,
    _folder: tempfile::TempDir,
}

impl Play {
    fn new() -> Result<Self> {
        let api = ApiServer::on_loopback()?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        api.kubeconfig(&kubeconfig, ADMIN, &api.urls())?;
        for number in 0..STABLE {
            api.create(service(&format!("stable{number}"), 80))?;
            api.create(slice(&format!("stable{number}"), number))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let address = Address {
            kubeconfig: Some(kubeconfig),
            masters: Vec::new(),
            timeout: Duration::from_secs(2),
        };
        let source = runtime.block_on(Kubernetes::start(&address, "node1"))?;
        Ok(Self {
            runtime,
            source: Some(source),
            index: Index::doubting(),
            orders: Vec::new(),
            relists: Vec::new(),
            short: false,
            api,
            _folder: folder,
        })
    }

    /// Takes events in for some time, as the agent's main loop does, and looks that nothing stable is missing.
    fn pump(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let Some(source) = &mut self.source else {
            return Ok(());
        };
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let (short, now) = (self.short, Instant::now());
            for (_, kind) in self.relists.extract_if(.., |(at, _)| !short && *at <= now) {
                self.index.believe_next(kind);
                source.relist(kind);
            }
            let next = async { tokio::time::timeout(left, source.next()).await };
            let Ok(event) = self.runtime.block_on(next) else {
                break;
            };
            self.index.handle(event.context("the source ended")?);
            let later = Instant::now() + SECOND_OPINION;
            let doubts = self.index.take_doubts();
            self.relists.extend(doubts.into_iter().map(|kind| (later, kind)));
            if self.index.is_listed() {
                stable(&self.index)?;
            }
        }
        Ok(())
    }

    /// Whether the agent's view is the server's state.
    fn agrees(&self) -> Result<()> {
        let mut reader = Reader::default();
        let services: BTreeMap<Name, Service> = self
            .api
            .list("services")
            .into_iter()
            .map(|object| Ok(reader.service(&serde_json::from_value::<v1::Service>(object)?)))
            .map(|service| service.map(|service| (service.name.clone(), service)))
            .collect::<Result<_>>()?;
        let names: Vec<&Name> = self.index.names().collect();
        let wanted: Vec<&Name> = services.keys().collect();
        ensure!(names == wanted, "Services {names:?}, the server has {wanted:?}");
        let slices: Vec<Slice> = self
            .api
            .list("endpointslices")
            .into_iter()
            .map(|object| Ok(reader.slice(&serde_json::from_value::<EndpointSlice>(object)?)))
            .collect::<Result<_>>()?;
        for (name, service) in &services {
            ensure!(
                self.index.service(name) == Some(service),
                "Service {name} differs"
            );
            let found: Vec<&Slice> = self.index.slices(name).collect();
            let of_service = slices.iter().filter(|slice| slice.service.as_ref() == Some(name));
            let wanted: Vec<&Slice> = of_service.collect();
            ensure!(
                found == wanted,
                "slices of {name}: {found:?}, the server has {wanted:?}"
            );
        }
        Ok(())
    }

    /// Waits until they agree.
    fn settle(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.pump(Duration::from_millis(50))?;
            match self.agrees() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn change(&mut self, dice: &mut Dice) -> Result<()> {
        let name = format!("volatile{}", dice.below(VOLATILE));
        let (service_key, slice_key) = (format!("default/{name}"), format!("default/{name}-x"));
        let there = self.api.get("services", &service_key).is_some();
        match (there, dice.below(4)) {
            (false, _) => {
                self.api.create(service(&name, 80))?;
                self.api.create(slice(&name, dice.below(5_000)))?;
            }
            (true, 0) => {
                self.api.delete("services", &service_key)?;
                self.api.delete("endpointslices", &slice_key)?;
            }
            (true, 1) => drop(self.api.update(service(&name, 1 + dice.below(60_000)))?),
            (true, _) => drop(self.api.update(slice(&name, dice.below(5_000)))?),
        }
        Ok(())
    }

    /// Old news of everything that comes and goes, and then one thing that is new: no list puts right what the old news
    /// have led to.
    fn last_words(&mut self, dice: &mut Dice) -> Result<()> {
        for _ in 0..VOLATILE {
            self.change(dice)?;
        }
        self.settle()?;
        let lists =
            self.api.requests(Verb::List, "services") + self.api.requests(Verb::List, "endpointslices");
        let mut shown = 0;
        for number in 0..VOLATILE {
            let (service, slice) = (
                format!("default/volatile{number}"),
                format!("default/volatile{number}-x"),
            );
            // What was not changed since the history begins has no older version.
            shown += u32::from(self.api.show_older("services", &service).is_ok());
            shown += u32::from(self.api.show_older("endpointslices", &slice).is_ok());
        }
        self.api.create(service("the-marker", 80))?;
        self.api.create(slice("the-marker", 1))?;
        let marker = Name {
            namespace: "default".into(),
            name: "the-marker".into(),
        };
        let end = Instant::now() + PATIENCE;
        while self.index.service(&marker).is_none() || self.index.slices(&marker).next().is_none() {
            ensure!(Instant::now() < end, "the marker does not come");
            self.pump(Duration::from_millis(10))?;
        }
        ensure!(shown > 0, "nothing was old");
        let after =
            self.api.requests(Verb::List, "services") + self.api.requests(Verb::List, "endpointslices");
        ensure!(lists == after, "a list came between");
        self.agrees()
    }

    /// A server that serves an empty list, and then the whole one.
    fn empty_list(&mut self) -> Result<()> {
        // A server that is short again just when it is asked for the second opinion is believed, and rightly so.
        let end = Instant::now() + PATIENCE;
        while self.index.is_in_doubt() {
            ensure!(Instant::now() < end, "the second opinion does not come");
            self.pump(Duration::from_millis(20))?;
        }
        // An empty list, which counts when it was asked for. The second opinion is asked for when the server is
        // complete again, however long that takes.
        self.short = true;
        let lists = |api: &ApiServer| api.requests(Verb::List, "services");
        let before = lists(&self.api);
        let short = self.api.order(Order::new(Fault::Short(0)).verb(Verb::List));
        self.api.expire_watches(None);
        // A watch that sleeps between two attempts is not ended, and need not list.
        let end = Instant::now() + Duration::from_secs(3);
        while lists(&self.api) == before && Instant::now() < end {
            self.pump(Duration::from_millis(20))?;
        }
        self.pump(Duration::from_millis(20))?;
        self.api.lift(short);
        self.short = false;
        Ok(())
    }

    fn misbehave(&mut self, dice: &mut Dice) -> Result<()> {
        let resource = [None, Some("services"), Some("endpointslices")][dice.below(3) as usize];
        let order = |fault: Fault| {
            let order = Order::new(fault);
            resource.map_or_else(|| order.clone(), |name| order.clone().resource(name))
        };
        let api = &self.api;
        match dice.below(14) {
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
                self.pump(Duration::from_millis(30))?;
                self.api.accept_again()?;
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

/// What was always there is there.
fn stable(index: &Index) -> Result<()> {
    for number in 0..STABLE {
        let name = Name {
            namespace: "default".into(),
            name: Arc::from(format!("stable{number}")),
        };
        ensure!(index.service(&name).is_some(), "Service {name} was lost");
        let endpoints: usize = index.slices(&name).map(|slice| slice.endpoints.len()).sum();
        ensure!(endpoints == 1, "Service {name} has {endpoints} endpoints");
    }
    Ok(())
}

fn play(seed: u64) -> Result<()> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut play = Play::new()?;
    play.settle().context("at the start")?;
    for step in 0..STEPS {
        let at = || format!("step {step}");
        if dice.below(3) == 0 {
            play.misbehave(&mut dice).with_context(at)?;
            // Long enough for a second attempt, or not.
            play.pump(Duration::from_millis(dice.below(1_200)))
                .with_context(at)?;
        } else {
            play.change(&mut dice).with_context(at)?;
            play.pump(Duration::from_millis(dice.below(20)))
                .with_context(at)?;
        }
    }
    play.api.lift_all();
    play.settle().context("at the end")?;
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
    let mut play = Play::new()?;
    for number in 0..VOLATILE {
        play.api.create(service(&format!("volatile{number}"), 80))?;
        play.api.create(slice(&format!("volatile{number}"), number))?;
    }
    play.settle()?;
    let api = &play.api;
    std::thread::scope(|scope| {
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
        let source = play.source.as_mut().context("a source")?;
        while !flood.is_finished() {
            let next = async { tokio::time::timeout(Duration::from_millis(10), source.next()).await };
            if let Ok(event) = play.runtime.block_on(next) {
                play.index.handle(event.context("the source ended")?);
                taken += 1;
            }
        }
        flood
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(taken > 40_000, "only {taken} events came while there were 50,000");
        anyhow::Ok(())
    })?;
    play.settle()
}
