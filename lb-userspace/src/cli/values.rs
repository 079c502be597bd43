//! What single settings mean: from what was typed to values, or what is wrong with it.

use std::{ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use lb_common::{datapath::Ports, limits};

use super::{bind::Bind, config::ConfigError, go_time, settings::Settings};
use crate::{devices::Pattern, load::Sizes, plan::Family, snat_ports};

pub(super) fn value(
    flag: &'static str,
    value: impl std::fmt::Display,
    problem: impl Into<String>,
) -> ConfigError {
    ConfigError::Value {
        flag,
        value: value.to_string(),
        problem: problem.into(),
    }
}

/// Where to listen; none if `text` is empty. An address alone takes the port of the default.
pub(super) fn bind(flag: &'static str, text: &str, default: Bind) -> Result<Option<Bind>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    match Bind::parse(text, default.addr().port()) {
        Some(bind) => Ok(Some(bind)),
        None => Err(value(
            flag,
            text,
            "is no address and port such as 0.0.0.0:10256 or [::]:10256; empty listens nowhere",
        )),
    }
}

pub(super) fn patterns(flag: &'static str, texts: &[String]) -> Result<Vec<Pattern>, ConfigError> {
    texts
        .iter()
        .map(|text| match text.as_str() {
            "" => Err(value(
                flag,
                "\"\"",
                "a pattern is not empty; `*` stands for any name",
            )),
            text if text.contains('/') => Err(value(flag, text, "device names hold no slash")),
            text => Ok(Pattern::new(text)),
        })
        .collect()
}

pub(super) fn snat_ports(
    settings: &Settings,
    node_ports: &RangeInclusive<u16>,
) -> Result<Ports, ConfigError> {
    let Some(text) = &settings.snat_ports else {
        return Ok(snat_ports::find(node_ports)?);
    };
    let range = port_range("snat-ports", text)?;
    if range.start() <= node_ports.end() && node_ports.start() <= range.end() {
        let problem = format!("meets the NodePorts {}-{}", node_ports.start(), node_ports.end());
        return Err(value("snat-ports", text, problem));
    }
    Ok(snat_ports::ports(&range))
}

/// Two ports, the first not above the last.
pub(super) fn port_range(flag: &'static str, text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let ends = text
        .split_once('-')
        .map(|(first, last)| (first.trim().parse(), last.trim().parse()));
    match ends {
        Some((Ok(first), Ok(last))) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(value(flag, text, "is not a range of ports such as 30000-32767")),
    }
}

/// The CIDRs, or none for the addresses of the node's uplinks.
pub(super) fn nodeport_addresses(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    const FLAG: &str = "nodeport-addresses";
    if texts.iter().any(|text| text == "primary") {
        return match texts {
            [_] => Ok(Vec::new()),
            _ => Err(value(
                FLAG,
                texts.join(","),
                "`primary` stands alone; leave it out or leave the CIDRs out",
            )),
        };
    }
    texts
        .iter()
        .map(|text| {
            text.parse::<IpNet>().map_err(|_| {
                value(
                    FLAG,
                    text,
                    "is neither `primary` nor a CIDR such as 192.0.2.0/24 or 2001:db8::/64",
                )
            })
        })
        .collect()
}

/// The networks of cluster IPs.
pub(super) fn service_cidrs(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    const FLAG: &str = "service-cidr";
    let mut nets = Vec::new();
    for text in texts {
        let problem = match text.parse::<IpNet>() {
            Ok(net) if net.prefix_len() == 0 => {
                "holds every address, and all traffic would be dropped; write the API server's \
                 --service-cluster-ip-range"
            }
            Ok(net) => {
                nets.push(net.trunc());
                continue;
            }
            Err(_) => "is no CIDR such as 10.96.0.0/12 or fd00:10:96::/112",
        };
        return Err(value(FLAG, text, problem));
    }
    for family in Family::ALL {
        let of_family = nets.iter().filter(|net| Family::of(net.addr()) == family);
        if of_family.count() > limits::SERVICE_CIDRS {
            let problem = format!(
                "has more than {} networks of {family}; write fewer, larger ones",
                limits::SERVICE_CIDRS
            );
            return Err(value(FLAG, texts.join(","), problem));
        }
    }
    Ok(nets)
}

/// How long changes may be collected at most: they wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A time for which changes are collected.
pub(super) fn wait(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    match go_time::parse(text).map(Duration::from_nanos) {
        Some(time) if time <= LONGEST_WAIT => Ok(time),
        Some(_) => Err(value(
            flag,
            text,
            "is too long: changes would wait for it; a minute is the most",
        )),
        None => Err(value(flag, text, "is not a time such as 10ms, 1s or 0.5s")),
    }
}

/// How often something is done; zero for never.
pub(super) fn period(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    match go_time::parse(text).map(Duration::from_nanos) {
        Some(time) if time.is_zero() || time >= Duration::from_secs(1) => Ok(time),
        Some(_) => Err(value(
            flag,
            text,
            "is too short; a second is the least, and 0 is never",
        )),
        None => Err(value(flag, text, "is not a time such as 30s, 5m or 1h")),
    }
}

/// How long somebody else may take.
pub(super) fn patience(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    match wait(flag, text)? {
        time if time < Duration::from_secs(1) => {
            Err(value(flag, text, "is too short; a second is the least"))
        }
        time => Ok(time),
    }
}

pub(super) fn sizes(settings: &Settings) -> Result<Sizes, ConfigError> {
    /// Beyond this a map would take gigabytes; it is a typing mistake.
    const MOST: u32 = 1 << 28;
    let size = |flag, given: Option<u32>, default| match given.unwrap_or(default) {
        number if number == 0 || number > MOST => {
            Err(value(flag, number, format!("must be from 1 to {MOST}")))
        }
        number => Ok(number),
    };
    let default = Sizes::default();
    let sizes = Sizes {
        flows: size("max-flows", settings.max_flows, default.flows)?,
        frontends: size("max-frontends", settings.max_frontends, default.frontends)?,
        services: size("max-services", settings.max_services, default.services)?,
        backends: size("max-backends", settings.max_backends, default.backends)?,
        maglev_slots: size("maglev-slots", settings.maglev_slots, default.maglev_slots)?,
        meters: meters(settings, default.meters)?,
    };
    if !sizes.maglev_slots.is_multiple_of(2) {
        return Err(value("maglev-slots", sizes.maglev_slots, "must be even"));
    }
    Ok(sizes)
}

/// How many service ports are counted by themselves: frontends and flows have 16 bits for it.
fn meters(settings: &Settings, default: u16) -> Result<u16, ConfigError> {
    let Some(given) = settings.metrics_max_services else {
        return Ok(default);
    };
    u16::try_from(given)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| {
            let problem = format!(
                "must be from 1 to {}; --service-stats=false counts none",
                u16::MAX
            );
            value("metrics-max-services", given, problem)
        })
}
