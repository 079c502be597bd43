//! Which source ports the kernel programs may give to flows that cannot keep their own.
//!
//! They must be ports that nobody else uses on the node's addresses: the node's own sockets take theirs from the local
//! ephemeral range, and NodePorts are asked from outside. Servers of the node below these ranges (6443, 10250 …) do no
//! harm: a flow has its port towards one endpoint only, and nobody else is asked by that endpoint from that port.

use std::{fs, io, ops::RangeInclusive};

use lb_common::datapath::Ports;
use thiserror::Error;

/// Where the kernel says which ports sockets are given (ip-sysctl.rst), for IPv4 and IPv6.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports below are for servers that are started as root.
const FIRST_UNPRIVILEGED: u16 = 1_024;

/// The fewest ports that are worth starting with.
const FEWEST: u16 = 1_024;

/// Why there are no ports.
#[derive(Debug, Error)]
pub enum SnatPortsError {
    /// The local ephemeral range cannot be read.
    #[error("read {EPHEMERAL}: {0}; name the ports with --snat-ports")]
    Read(#[source] io::Error),
    /// The file does not hold two ports.
    #[error("{EPHEMERAL} holds {text:?} and not two ports; name the ports with --snat-ports")]
    Text {
        /// What it holds.
        text: String,
    },
    /// Everything is taken.
    #[error(
        "the local ephemeral range {}-{} and the NodePorts leave no {FEWEST} ports in a row for flows to other nodes; \
         make net.ipv4.ip_local_port_range smaller, or name the ports with --snat-ports",
        ephemeral.start(), ephemeral.end()
    )]
    None {
        /// The local ephemeral range.
        ephemeral: RangeInclusive<u16>,
    },
}

/// The largest range beside the local ephemeral range of this network namespace and the NodePorts.
///
/// # Errors
///
/// [`SnatPortsError`] with the remedy.
pub fn find(node_ports: &RangeInclusive<u16>) -> Result<Ports, SnatPortsError> {
    let text = fs::read_to_string(EPHEMERAL).map_err(SnatPortsError::Read)?;
    let ephemeral = parse(&text).ok_or(SnatPortsError::Text { text })?;
    largest_gap(&ephemeral, node_ports).ok_or(SnatPortsError::None { ephemeral })
}

/// Two ports apart by white space.
fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    match (words.next()??, words.next()??, words.next()) {
        (first, last, None) if first <= last => Some(first..=last),
        _ => None,
    }
}

/// A range as [`Ports`].
pub fn ports(range: &RangeInclusive<u16>) -> Ports {
    Ports {
        first: *range.start(),
        count: (range.end() - range.start()).saturating_add(1),
    }
}

/// The largest range of unprivileged ports that meets neither of the two.
fn largest_gap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> Option<Ports> {
    let (low, high) = if one.start() <= other.start() {
        (one, other)
    } else {
        (other, one)
    };
    let gaps = [
        (u32::from(FIRST_UNPRIVILEGED), u32::from(*low.start())),
        (u32::from(*low.end()) + 1, u32::from(*high.start())),
        (u32::from((*low.end()).max(*high.end())) + 1, 1 << 16),
    ];
    gaps.into_iter()
        .filter_map(|(first, end)| {
            let count = end.checked_sub(first.max(u32::from(FIRST_UNPRIVILEGED)))?;
            Some(Ports {
                first: u16::try_from(first.max(u32::from(FIRST_UNPRIVILEGED))).ok()?,
                count: u16::try_from(count).ok()?,
            })
        })
        .filter(|ports| ports.count >= FEWEST)
        .max_by_key(|ports| ports.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(ephemeral: RangeInclusive<u16>, node_ports: RangeInclusive<u16>) -> Option<(u16, u16)> {
        largest_gap(&ephemeral, &node_ports).map(|ports| (ports.first, ports.count))
    }

    #[test]
    fn the_usual_ranges_leave_what_is_below_the_node_ports() {
        assert_eq!(gap(32_768..=60_999, 30_000..=32_767), Some((1_024, 28_976)));
    }

    #[test]
    fn the_largest_gap_is_taken_wherever_it_is() {
        assert_eq!(gap(1_024..=40_000, 30_000..=32_767), Some((40_001, 25_535)));
        assert_eq!(gap(50_000..=65_535, 1_024..=10_000), Some((10_001, 39_999)));
        assert_eq!(gap(60_000..=65_535, 61_000..=62_000), Some((1_024, 58_976)));
        assert_eq!(gap(1..=20_000, 30_000..=32_767), Some((32_768, 32_768)));
    }

    #[test]
    fn nothing_is_left_of_everything() {
        assert_eq!(gap(1_024..=65_535, 30_000..=32_767), None);
        assert_eq!(
            gap(2_000..=65_535, 30_000..=32_767),
            None,
            "976 ports are too few"
        );
    }

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(parse("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "2 1", "1 2 3", "a b", "1 70000"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert!(find(&(30_000..=32_767)).is_ok(), "on this machine");
    }
}
