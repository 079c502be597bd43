//! Headers: options, tags, checksums, fields that contradict each other.

use lb_common::{
    abi::{FrontendKind, proto},
    verdict::Reason,
};
use lb_testkit::packet::{Build, ip, sctp, syn, tcp, udp};

use super::{FROM_UPLINK, FROM_WORKLOAD, MATRIX, V4, V6, first, rewritten, service, untouched};
use crate::packets::{case::Case, world::World};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = other_networks();
    cases.extend(tags());
    cases.extend(ipv4_fields());
    cases.extend(transport_fields());
    cases.extend(sound_variants());
    cases.extend(checksums());
    cases
}

/// A world in which the destination of these packets is a TCP and a UDP service: what is passed here is passed for the
/// header's sake.
fn world(proto: u8) -> World {
    let addresses = if proto == proto::ICMPV6 { V6 } else { V4 };
    let mut world = service(
        proto::TCP,
        FrontendKind::ClusterIp,
        addresses.cluster_ip,
        addresses.remote,
        false,
    );
    world.services.extend(
        service(
            proto::UDP,
            FrontendKind::ClusterIp,
            addresses.cluster_ip,
            addresses.remote,
            false,
        )
        .services,
    );
    world
}

fn pass(name: &str, packet: Vec<u8>, reason: Reason) -> Case {
    let proto = if packet.get(12..14) == Some(&[0x86, 0xdd]) {
        proto::ICMPV6
    } else {
        proto::TCP
    };
    untouched(name, FROM_WORKLOAD, world(proto), packet, reason)
}

fn v4_syn() -> Build {
    syn(V4.pod, V4.cluster_ip)
}

fn v6_syn() -> Build {
    syn(V6.pod, V6.cluster_ip)
}

fn other_networks() -> Vec<Case> {
    let unicast_elsewhere = v4_syn().for_other_host();
    vec![
        pass(
            "arp_is_passed",
            v4_syn().ether_type(0x0806).bytes(),
            Reason::NotIp,
        ),
        pass(
            "lldp_is_passed",
            v4_syn().ether_type(0x88cc).bytes(),
            Reason::NotIp,
        ),
        pass(
            "mpls_is_passed",
            v4_syn().ether_type(0x8847).bytes(),
            Reason::NotIp,
        ),
        pass(
            "an_802_3_length_is_passed",
            v4_syn().ether_type(46).bytes(),
            Reason::NotIp,
        ),
        untouched(
            "a_frame_for_another_machine_is_passed_on_an_uplink",
            FROM_UPLINK,
            service(proto::TCP, FrontendKind::ClusterIp, V4.cluster_ip, V4.local, true),
            unicast_elsewhere.bytes(),
            Reason::OtherHost,
        ),
        rewritten(
            "a_frame_for_the_bridge_is_translated_on_its_port",
            FROM_WORKLOAD,
            world(proto::TCP),
            &unicast_elsewhere,
            Reason::NewFlow,
            &unicast_elsewhere.clone().to(V4.remote),
        ),
    ]
}

fn tags() -> Vec<Case> {
    vec![
        pass(
            "a_vlan_tag_is_passed",
            v4_syn().vlan(0x8100, 100).bytes(),
            Reason::Vlan,
        ),
        pass(
            "a_vlan_tag_before_ipv6_is_passed",
            v6_syn().vlan(0x8100, 100).bytes(),
            Reason::Vlan,
        ),
        pass(
            "a_priority_tag_is_passed",
            v4_syn().vlan(0x8100, 0xe000).bytes(),
            Reason::Vlan,
        ),
        pass(
            "a_service_tag_is_passed",
            v4_syn().vlan(0x88a8, 7).bytes(),
            Reason::Vlan,
        ),
        pass(
            "two_tags_are_passed",
            v4_syn().vlan(0x88a8, 7).vlan(0x8100, 100).bytes(),
            Reason::Vlan,
        ),
    ]
}

fn ipv4_fields() -> Vec<Case> {
    vec![
        pass(
            "ipv4_with_version_6_is_malformed",
            v4_syn().with_byte(14, 0x65),
            Reason::Malformed,
        ),
        pass(
            "ipv4_with_version_0_is_malformed",
            v4_syn().with_byte(14, 0x05),
            Reason::Malformed,
        ),
        pass(
            "ipv6_with_version_4_is_malformed",
            v6_syn().with_byte(14, 0x40),
            Reason::Malformed,
        ),
        pass(
            "ipv4_header_of_0_words_is_malformed",
            v4_syn().with_byte(14, 0x40),
            Reason::Malformed,
        ),
        pass(
            "ipv4_header_of_4_words_is_malformed",
            v4_syn().with_byte(14, 0x44),
            Reason::Malformed,
        ),
        pass(
            "ipv4_header_beyond_its_packet_is_malformed",
            v4_syn().with_byte(14, 0x4f),
            Reason::Malformed,
        ),
        pass(
            "ipv4_length_of_0_is_malformed",
            set16(&v4_syn(), 16, 0),
            Reason::Malformed,
        ),
        pass(
            "ipv4_length_below_its_header_is_malformed",
            set16(&v4_syn(), 16, 19),
            Reason::Malformed,
        ),
        pass(
            "ipv4_length_without_room_for_tcp_is_malformed",
            set16(&v4_syn(), 16, 39),
            Reason::Malformed,
        ),
        pass(
            "ipv4_length_beyond_the_frame_is_truncated",
            set16(&v4_syn(), 16, 49),
            Reason::Truncated,
        ),
        pass(
            "ipv4_length_of_65535_is_truncated",
            set16(&v4_syn(), 16, 0xffff),
            Reason::Truncated,
        ),
        pass(
            "ipv6_length_of_0_is_malformed",
            set16(&v6_syn(), 18, 0),
            Reason::Malformed,
        ),
        pass(
            "ipv6_length_without_room_for_tcp_is_malformed",
            set16(&v6_syn(), 18, 19),
            Reason::Malformed,
        ),
        pass(
            "ipv6_length_beyond_the_frame_is_truncated",
            set16(&v6_syn(), 18, 29),
            Reason::Truncated,
        ),
        pass(
            "icmp_is_passed",
            ip("10.244.1.5", "10.96.0.10", proto::ICMP).bytes(),
            Reason::OtherProtocol,
        ),
        pass(
            "icmpv6_is_passed",
            ip("fd00:10:244:1::5", "fd00:10:96::10", proto::ICMPV6).bytes(),
            Reason::OtherProtocol,
        ),
        pass(
            "sctp_without_room_for_a_chunk_is_malformed",
            set16(&sctp(V4.pod, V4.cluster_ip), 16, 35),
            Reason::Malformed,
        ),
        pass(
            "gre_is_passed",
            ip("10.244.1.5", "10.96.0.10", 47).bytes(),
            Reason::OtherProtocol,
        ),
        pass(
            "esp_is_passed",
            ip("10.244.1.5", "10.96.0.10", 50).bytes(),
            Reason::OtherProtocol,
        ),
        pass(
            "no_next_header_is_passed",
            ip("fd00:10:244:1::5", "fd00:10:96::10", 59).bytes(),
            Reason::OtherProtocol,
        ),
    ]
}

fn transport_fields() -> Vec<Case> {
    let datagram = udp(V4.pod, V4.cluster_ip);
    let datagram6 = udp(V6.pod, V6.cluster_ip);
    vec![
        pass(
            "tcp_header_of_0_words_is_malformed",
            v4_syn().with_byte(46, 0x00),
            Reason::Malformed,
        ),
        pass(
            "tcp_header_of_4_words_is_malformed",
            v4_syn().with_byte(46, 0x40),
            Reason::Malformed,
        ),
        pass(
            "tcp_header_beyond_its_packet_is_malformed",
            v4_syn().with_byte(46, 0xf0),
            Reason::Malformed,
        ),
        pass(
            "tcp_header_beyond_its_ipv6_packet_is_malformed",
            v6_syn().with_byte(66, 0xf0),
            Reason::Malformed,
        ),
        pass(
            "udp_length_of_0_is_malformed",
            set16(&datagram, 38, 0),
            Reason::Malformed,
        ),
        pass(
            "udp_length_below_its_header_is_malformed",
            set16(&datagram, 38, 7),
            Reason::Malformed,
        ),
        pass(
            "udp_length_beyond_its_packet_is_malformed",
            set16(&datagram, 38, 17),
            Reason::Malformed,
        ),
        pass(
            "udp_length_beyond_its_ipv6_packet_is_malformed",
            set16(&datagram6, 58, 17),
            Reason::Malformed,
        ),
    ]
}

/// Headers that are unusual but right must be translated.
fn sound_variants() -> Vec<Case> {
    let translated = |name: &str, packet: Build, proto: u8| {
        let to = if packet.bytes()[12] == 0x08 {
            V4.remote
        } else {
            V6.remote
        };
        let world = world(if to == V6.remote { proto::ICMPV6 } else { proto });
        rewritten(
            name,
            FROM_WORKLOAD,
            world,
            &packet,
            Reason::NewFlow,
            &packet.clone().to(to),
        )
    };
    let v4_udp = || udp(V4.pod, V4.cluster_ip);
    vec![
        translated(
            "ipv4_options_are_kept",
            v4_syn().ip_options(&[1, 1, 1, 1]),
            proto::TCP,
        ),
        translated(
            "forty_bytes_of_ipv4_options_are_kept",
            v4_syn().ip_options(&[1; 40]),
            proto::TCP,
        ),
        translated(
            "ipv4_options_before_udp_are_kept",
            v4_udp().ip_options(&[0x94, 4, 0, 0]),
            proto::UDP,
        ),
        translated(
            "tcp_options_are_kept",
            v4_syn().tcp_options(&[2, 4, 5, 180, 1, 3, 3, 7, 4, 2]),
            proto::TCP,
        ),
        translated(
            "forty_bytes_of_tcp_options_are_kept",
            v4_syn().tcp_options(&[1; 40]),
            proto::TCP,
        ),
        translated(
            "forty_bytes_of_tcp_options_over_ipv6_are_kept",
            v6_syn().tcp_options(&[1; 40]),
            proto::TCP,
        ),
        translated(
            "both_kinds_of_options_are_kept",
            v4_syn().ip_options(&[1; 12]).tcp_options(&[1; 12]),
            proto::TCP,
        ),
        translated("an_empty_payload_is_no_defect", v4_syn().payload(&[]), proto::TCP),
        translated(
            "an_empty_datagram_is_no_defect",
            v4_udp().payload(&[]),
            proto::UDP,
        ),
        translated(
            "an_empty_ipv6_datagram_is_no_defect",
            udp(V6.pod, V6.cluster_ip).payload(&[]),
            proto::UDP,
        ),
        translated(
            "an_odd_payload_is_no_defect",
            v4_udp().payload(b"odd"),
            proto::UDP,
        ),
        translated(
            "ethernet_padding_is_kept",
            v4_syn().payload(&[]).trailer(&[0; 6]),
            proto::TCP,
        ),
        translated(
            "padding_behind_ipv6_is_kept",
            v6_syn().trailer(&[0xee; 9]),
            proto::TCP,
        ),
        translated(
            "do_not_fragment_is_no_fragment",
            v4_syn().fragment(0x4000),
            proto::TCP,
        ),
        translated(
            "the_reserved_flag_is_no_fragment",
            v4_syn().fragment(0x8000),
            proto::TCP,
        ),
        translated(
            "a_large_packet_is_translated",
            v4_udp().payload(&[0x5a; 1400]),
            proto::UDP,
        ),
    ]
}

/// Checksums: right ones stay right, wrong ones stay as wrong as they were, absent ones stay absent.
fn checksums() -> Vec<Case> {
    let mut cases = Vec::new();
    for (addresses, name, proto) in MATRIX {
        let packet = first(proto, addresses.pod, addresses.cluster_ip).wrong_checksum(0x1111);
        let world = service(
            proto,
            FrontendKind::ClusterIp,
            addresses.cluster_ip,
            addresses.remote,
            false,
        );
        let case = format!("a_wrong_{name}_checksum_over_{}_stays_wrong", addresses.name);
        cases.push(rewritten(
            case,
            FROM_WORKLOAD,
            world,
            &packet,
            Reason::NewFlow,
            &packet.clone().to(addresses.remote),
        ));
    }
    let no_checksum = udp(V4.pod, V4.cluster_ip).no_checksum();
    let no_checksum6 = udp(V6.pod, V6.cluster_ip).no_checksum();
    let wrong_header = tcp(V4.pod, V4.cluster_ip).wrong_ip_checksum(0x2222);
    cases.extend([
        rewritten(
            "udp_without_checksum_stays_without",
            FROM_WORKLOAD,
            world(proto::UDP),
            &no_checksum,
            Reason::NewFlow,
            &no_checksum.clone().to(V4.remote),
        ),
        rewritten(
            "udp_without_checksum_over_ipv6_stays_without",
            FROM_WORKLOAD,
            world(proto::ICMPV6),
            &no_checksum6,
            Reason::NewFlow,
            &no_checksum6.clone().to(V6.remote),
        ),
        rewritten(
            "a_wrong_ipv4_header_checksum_stays_wrong",
            FROM_WORKLOAD,
            world(proto::TCP),
            &wrong_header,
            Reason::NewFlow,
            &wrong_header.clone().to(V4.remote),
        ),
    ]);
    cases
}

/// The frame with the 16 bits at `at` changed.
fn set16(packet: &Build, at: usize, value: u16) -> Vec<u8> {
    let mut frame = packet.bytes();
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    frame
}
