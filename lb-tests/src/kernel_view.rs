//! What a node's kernel programs know of Services, beside what the API server has of them.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use anyhow::{Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::abi::{Frontend, FrontendKey, map, port_from_wire};
use serde_json::Value;

use crate::{cluster::Cluster, flow_tables::maps};

/// An address, a port and an IP protocol.
type Place = (IpAddr, u16, u8);

/// Compares the maps of a node's agent with the API server: the ports of all cluster IPs, and the addresses and ports of all
/// endpoints. For Services that have nothing but cluster IPs, and no endpoints that nobody is to use.
///
/// # Errors
///
/// What differs.
pub fn agrees(cluster: &Cluster, node: usize) -> Result<()> {
    let folder = maps(&cluster.lab, node);
    let mut frontends = keys::<u32, Frontend>(folder.join(map::FRONTENDS4))?;
    frontends.extend(keys::<[u32; 4], Frontend>(folder.join(map::FRONTENDS6))?);
    let wanted = cluster_ips(&cluster.api.list("services"));
    ensure!(
        frontends == wanted,
        "frontends are {frontends:?}, the API server has {wanted:?}"
    );
    let mut endpoints = keys::<u32, u32>(folder.join(map::ENDPOINTS4))?;
    endpoints.extend(keys::<[u32; 4], u32>(folder.join(map::ENDPOINTS6))?);
    let wanted = addresses(&cluster.api.list("endpointslices"));
    ensure!(
        endpoints == wanted,
        "endpoints are {endpoints:?}, the API server has {wanted:?}"
    );
    Ok(())
}

/// The keys of a map, without those that stand for an address whatever the port.
fn keys<A: Copy + Bytes + 'static, V: aya::Pod>(pin: PathBuf) -> Result<BTreeSet<Place>>
where
    FrontendKey<A>: aya::Pod,
{
    let map = Map::HashMap(MapData::from_pin(pin)?);
    let map = HashMap::<_, FrontendKey<A>, V>::try_from(map)?;
    let mut places = BTreeSet::new();
    for key in map.keys() {
        let key = key?;
        if !key.is_address() {
            places.insert((key.addr.ip(), port_from_wire(key.port), key.proto));
        }
    }
    Ok(places)
}

/// An address as map keys hold it.
trait Bytes {
    fn ip(self) -> IpAddr;
}

impl Bytes for u32 {
    fn ip(self) -> IpAddr {
        self.to_ne_bytes().into()
    }
}

impl Bytes for [u32; 4] {
    fn ip(self) -> IpAddr {
        let mut bytes = [0; 16];
        for (part, word) in bytes.chunks_mut(4).zip(self) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        bytes.into()
    }
}

fn cluster_ips(services: &[Value]) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for spec in services.iter().map(|service| &service["spec"]) {
        let ips = spec["clusterIPs"].as_array().into_iter().flatten();
        for ip in ips.filter_map(|ip| text(ip)?.parse().ok()) {
            places.extend(ports(spec).map(|(port, proto)| (ip, port, proto)));
        }
    }
    places
}

fn addresses(slices: &[Value]) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for slice in slices {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let first = endpoints.filter_map(|endpoint| text(&endpoint["addresses"][0])?.parse().ok());
        for ip in first {
            places.extend(ports(slice).map(|(port, proto)| (ip, port, proto)));
        }
    }
    places
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// The ports of a Service's spec or a slice.
fn ports(of: &Value) -> impl Iterator<Item = (u16, u8)> {
    let ports = of["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| {
        let proto = match text(&port["protocol"])? {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => return None,
        };
        Some((port["port"].as_u64()?.try_into().ok()?, proto))
    })
}
