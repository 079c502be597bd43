//! An agent's view of an API server, without a kernel and without a lab: the watch, and the index that it fills.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use lb_testkit::api::{ADMIN, ApiServer};
use lb_userspace::{
    cli::config::ApiServer as Address,
    index::Index,
    objects::{Name, Reader, Service, Slice},
    watch::{Kind, Kubernetes},
};
use serde_json::{Value, json};

/// How long it may take until the view is the server's state: kube waits up to half a minute between two attempts.
pub const PATIENCE: Duration = Duration::from_secs(150);
/// Services that are there from the first to the last moment.
const STABLE: u64 = 5;
/// A list that takes away too much is asked for again after this time. The agent waits for longer.
const SECOND_OPINION: Duration = Duration::from_secs(1);
/// A server that does not answer is given up after this time.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// A Service with a cluster IP of its own, made of its name.
pub fn service(name: &str, port: u64) -> Value {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u64 = name[letters.len()..].parse().unwrap_or_default();
    let ip = format!("10.96.{}.{}", letters.len(), 1 + number);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "ports": [{"port": port, "protocol": "TCP"}]},
    })
}

/// The slice of a Service, with one endpoint.
pub fn slice(name: &str, host: u64) -> Value {
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

/// The name of a Service in the namespace `default`.
pub fn named(name: &str) -> Name {
    Name {
        namespace: "default".into(),
        name: Arc::from(name),
    }
}

/// A server and an agent's view of it.
pub struct Follower {
    runtime: tokio::runtime::Runtime,
    source: Kubernetes,
    /// The view.
    pub index: Index,
    /// Lists that were not believed, and when to ask for them again.
    relists: Vec<(Instant, Kind)>,
    /// The server's lists are short: they are not asked for again until they are whole.
    pub short: bool,
    /// The server.
    pub api: Arc<ApiServer>,
    _folder: tempfile::TempDir,
}

impl Follower {
    /// A server with some Services that nobody changes, which is followed from now on.
    ///
    /// # Errors
    ///
    /// If the server cannot listen.
    pub fn new() -> Result<Self> {
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
            timeout: IMPATIENCE,
        };
        let source = runtime.block_on(Kubernetes::start(&address, "node1", &[]))?;
        Ok(Self {
            runtime,
            source,
            index: Index::doubting(),
            relists: Vec::new(),
            short: false,
            api: Arc::new(api),
            _folder: folder,
        })
    }

    /// Takes the next event in; says whether there was one within that time.
    ///
    /// # Errors
    ///
    /// If the source has ended.
    pub fn take(&mut self, limit: Duration) -> Result<bool> {
        let next = async { tokio::time::timeout(limit, self.source.next()).await };
        let Ok(event) = self.runtime.block_on(next) else {
            return Ok(false);
        };
        self.index.handle(event.context("the source ended")?);
        Ok(true)
    }

    /// Takes events in for some time, as the agent's main loop does, and looks that nothing stable is missing.
    ///
    /// # Errors
    ///
    /// If something is, or the source has ended.
    pub fn pump(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let (short, now) = (self.short, Instant::now());
            for (_, kind) in self.relists.extract_if(.., |(at, _)| !short && *at <= now) {
                self.index.believe_next(kind);
                self.source.relist(kind);
            }
            if !self.take(left)? {
                break;
            }
            let later = Instant::now() + SECOND_OPINION;
            let doubts = self.index.take_doubts();
            self.relists.extend(doubts.into_iter().map(|kind| (later, kind)));
            if self.index.is_listed() {
                self.has_what_is_stable()?;
            }
        }
        Ok(())
    }

    /// What was always there is there.
    fn has_what_is_stable(&self) -> Result<()> {
        for number in 0..STABLE {
            let name = named(&format!("stable{number}"));
            ensure!(self.index.service(&name).is_some(), "Service {name} was lost");
            let slices = self.index.slices(&name);
            let endpoints: usize = slices.map(|slice| slice.endpoints.len()).sum();
            ensure!(endpoints == 1, "Service {name} has {endpoints} endpoints");
        }
        Ok(())
    }

    /// Whether the view is the server's state.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn agrees(&self) -> Result<()> {
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
    ///
    /// # Errors
    ///
    /// What differs after [`PATIENCE`], or as [`Self::pump`].
    pub fn settle(&mut self) -> Result<()> {
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
}
