//! What went through each Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::abi::Meter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::desired::ServicePortKey;

/// A port of a Service: namespace, name, name of the port.
type Port = [Arc<str>; 3];

/// Series of service ports, which come and go with them. The lock is held for no longer than it takes to change them: the
/// main loop waits for no reader.
#[derive(Clone, Debug, Default)]
pub struct Services(Arc<Mutex<Shared>>);

#[derive(Clone, Debug, Default)]
struct Shared {
    /// By the number of their meter. A port of both families has two.
    names: Arc<BTreeMap<u16, Port>>,
    read: Arc<BTreeMap<Port, Meter>>,
    /// Service ports that have no meter; none before it is known.
    left_out: Option<usize>,
}

impl Services {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("fairlead");
        registry.register_collector(Box::new(this.clone()));
        this
    }

    /// Whose each meter is, and how many service ports have none.
    pub(crate) fn name(&self, meters: &BTreeMap<u16, ServicePortKey>, left_out: usize) {
        let port = |key: &ServicePortKey| {
            let service = &key.service;
            [service.namespace.clone(), service.name.clone(), key.port.clone()]
        };
        let names = meters.iter().map(|(number, key)| (*number, port(key)));
        let names: Arc<BTreeMap<u16, Port>> = Arc::new(names.collect());
        let mut shared = self.lock();
        shared.names = names;
        shared.left_out = Some(left_out);
        shared.forget();
    }

    /// Takes in what the meters hold; nothing of it if one cannot be read.
    pub(crate) fn read<E>(&self, mut meter: impl FnMut(u16) -> Result<Meter, E>) -> Result<(), E> {
        let names = self.lock().names.clone();
        let mut read: BTreeMap<Port, Meter> = BTreeMap::new();
        for (number, port) in &*names {
            read.entry(port.clone()).or_default().add(&meter(*number)?);
        }
        let mut shared = self.lock();
        shared.read = Arc::new(read);
        if !Arc::ptr_eq(&names, &shared.names) {
            shared.forget();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Forgets what was read of ports that have no meter any more.
    fn forget(&mut self) {
        let ports: BTreeSet<&Port> = self.names.values().collect();
        if self.read.keys().any(|port| !ports.contains(port)) {
            Arc::make_mut(&mut self.read).retain(|port, _| ports.contains(port));
        }
    }
}

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shared = self.lock().clone();
        let Some(left_out) = shared.left_out else {
            return Ok(());
        };
        let help = "Packets of a Service, by its port";
        let mut packets = encoder.encode_descriptor("service_packets", help, None, MetricType::Counter)?;
        for (port, meter) in &*shared.read {
            ways(
                &mut packets,
                port,
                [meter.requests.packets, meter.replies.packets],
            )?;
        }
        let help = "Bytes of these packets, IP headers included";
        let mut bytes = encoder.encode_descriptor("service_bytes", help, None, MetricType::Counter)?;
        for (port, meter) in &*shared.read {
            ways(&mut bytes, port, [meter.requests.bytes, meter.replies.bytes])?;
        }
        let help = "New connections to a Service, by its port";
        let mut connections =
            encoder.encode_descriptor("service_connections", help, None, MetricType::Counter)?;
        for (port, meter) in &*shared.read {
            let number = meter.connections.wrapping_add(meter.sockets);
            ConstCounter::new(number).encode(connections.encode_family(&labels(port))?)?;
        }
        let help = "Service ports that have no such series: --metrics-max-services are taken";
        let gauge = encoder.encode_descriptor("service_ports_left_out", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(left_out).unwrap_or(i64::MAX)).encode(gauge)
    }
}

fn labels([namespace, service, port]: &Port) -> [(&'static str, &str); 3] {
    [("namespace", namespace), ("service", service), ("port", port)]
}

/// Two samples: what clients sent, and what they were answered.
fn ways(family: &mut MetricEncoder<'_>, port: &Port, values: [u64; 2]) -> fmt::Result {
    for (direction, value) in ["request", "reply"].into_iter().zip(values) {
        let [namespace, service, port] = labels(port);
        let labels = [namespace, service, port, ("direction", direction)];
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
