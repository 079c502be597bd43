//! The one list of what can happen to a packet.
//!
//! A reason's number is an index into the map COUNTERS, its name a metric label and a word in logs. Numbers are never
//! reused: a reason that goes leaves a hole (66 was `tuple_collision`, 69 was `remote_from_uplink`).

/// What the kernel does with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The packet goes on as it came.
    Pass,
    /// The packet was rewritten and goes on.
    Forward,
    /// The packet becomes an answer to its sender, or is dropped where there may be none.
    Reject,
    /// The packet is dropped.
    Drop,
}

macro_rules! reasons {
    ($($number:literal $name:ident $action:ident $word:literal $help:literal;)+) => {
        /// Why a packet was passed, forwarded or dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $help] $name = $number,)+
        }

        impl Reason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What is done with the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$action,)+
                }
            }

            /// The name in metrics, logs and docs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $help,)+
                }
            }
        }
    };
}

reasons! {
    1 NewFlow Forward "new_flow" "First packet of a flow: an endpoint was chosen and recorded.";
    2 Established Forward "established" "Packet of a recorded flow, towards its endpoint.";
    3 ReplyRestored Forward "reply_restored" "Answer of an endpoint; the service's address was put back.";
    4 Rechosen Forward "rechosen" "Flow whose endpoint is gone: another one was chosen and recorded.";
    5 IcmpTranslated Forward "icmp_translated" "ICMP error about a translated packet; what it quotes was translated too.";

    16 NotIp Pass "not_ip" "Neither IPv4 nor IPv6 (ARP, LLDP, other network protocols).";
    17 Vlan Pass "vlan" "Carries a VLAN tag; it is looked into on the VLAN's own device.";
    18 Truncated Pass "truncated" "Ends before its headers do.";
    19 Malformed Pass "malformed" "A header field contradicts itself or the length of the packet.";
    20 Fragment Pass "fragment" "Later fragment of a datagram that is not translated, as far as is known.";
    21 OtherProtocol Pass "other_protocol" "Transport protocol other than TCP, UDP and SCTP, or an ICMP message that is about none of these.";
    22 ExtensionHeader Pass "extension_header" "IPv6 with extension headers that are not walked over: encrypted, authenticated, unknown, or too many.";
    23 NotService Pass "not_service" "Not sent to a service.";
    24 NotReply Pass "not_reply" "Leaves the node and answers no recorded flow.";
    25 ReplyInbound Pass "reply_inbound" "Answer of an endpoint on its way in; it is restored where it leaves.";

    26 OtherHost Pass "other_host" "Frame on an uplink that is addressed to another machine (flooded by a switch).";
    27 Direct Pass "direct" "Sent to an endpoint by its own address; recorded where another flow could share the tuple.";

    64 NoEndpoints Reject "no_endpoints" "Sent to a service that has no endpoint; answered with ICMP port unreachable.";
    65 FlowTableFull Drop "flow_table_full" "The flow could not be recorded.";
    67 RewriteFailed Drop "rewrite_failed" "The packet could not be changed: the kernel refused (out of memory), or fragments of SCTP would need another port.";
    68 BadTable Drop "bad_table" "A service names a slot or backend that does not exist: a defect of the agent.";
    70 SnatExhausted Drop "snat_exhausted" "All source ports that were tried are taken by other flows to the same endpoint.";
    71 NoRoute Drop "no_route" "The node has no route or no address of its own towards where the packet must be sent.";
    72 TtlExpired Reject "ttl_expired" "Sent out again by the node, and its time to live ends here; answered with ICMP time exceeded.";
    73 TooBig Reject "too_big" "Sent out again by the node, and larger than the route takes; answered with ICMP fragmentation needed or packet too big.";
    74 NoLocalEndpoints Drop "no_local_endpoints" "Policy Local, and all endpoints of the service run on other nodes.";

    75 RejectLimited Drop "reject_limited" "Would be answered by an ICMP error, and is not: too many such packets.";
    76 SourceNotAllowed Drop "source_not_allowed" "Sent to a load balancer's address by a source that loadBalancerSourceRanges does not name.";
    77 EchoAnswered Reject "echo_answered" "ICMP echo request to a service's address; answered for it.";
    78 UnknownPort Reject "unknown_port" "Sent to a port that a service's address does not have; answered with ICMP port unreachable.";
    79 UnallocatedAddress Drop "unallocated_address" "Sent to an address for services that no service has.";
    80 FragmentLost Drop "fragment_lost" "Fragment of a translated datagram whose first fragment was not seen.";

    96 SocketRewritten Forward "socket_rewritten" "A process of the node was sent to an endpoint.";
    97 SocketReplyRestored Forward "socket_reply_restored" "A process of the node was shown the service's address as its peer.";
    98 SocketNotService Pass "socket_not_service" "A process of the node talks to something that is no service.";
    99 SocketNoEndpoints Drop "socket_no_endpoints" "A process of the node asked for a service that has no endpoint.";
    100 SocketBadTable Drop "socket_bad_table" "A service names a slot or backend that does not exist: a defect of the agent.";
    101 SocketNoLocalEndpoints Drop "socket_no_local_endpoints" "A process of the node asked for a service of policy Local whose endpoints run on other nodes.";
    102 SocketSourceNotAllowed Drop "socket_source_not_allowed" "A process of the node asked a load balancer's address whose loadBalancerSourceRanges do not name the node.";
    103 SocketUnknownPort Drop "socket_unknown_port" "A process of the node asked for a port that a cluster IP does not have.";
    104 SocketLeftToPackets Pass "socket_left_to_packets" "A pod's call that the packet path decides on better.";
}

impl Reason {
    /// Number of entries of the map COUNTERS: one more than the largest number that may ever be given out.
    pub const COUNT: u32 = 128;

    /// The reason with that number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_fit_the_counters_and_names_are_unique_metric_labels() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!((*reason as u32) < Reason::COUNT);
            assert!(
                reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                reason.name()
            );
            assert!(reason.help().ends_with('.'), "{}", reason.help());
            assert_eq!(Reason::from_number(*reason as u32), Some(*reason));
        }
        assert_eq!(Reason::from_number(0), None);
    }

    /// Numbers are part of the ABI: dashboards and pinned counters outlive a build.
    #[test]
    fn numbers_stay_as_they_were_given_out() {
        let given: &[(u8, &str)] = &[
            (1, "new_flow"),
            (2, "established"),
            (3, "reply_restored"),
            (4, "rechosen"),
            (5, "icmp_translated"),
            (16, "not_ip"),
            (17, "vlan"),
            (18, "truncated"),
            (19, "malformed"),
            (20, "fragment"),
            (21, "other_protocol"),
            (22, "extension_header"),
            (23, "not_service"),
            (24, "not_reply"),
            (25, "reply_inbound"),
            (26, "other_host"),
            (27, "direct"),
            (64, "no_endpoints"),
            (65, "flow_table_full"),
            (67, "rewrite_failed"),
            (68, "bad_table"),
            (70, "snat_exhausted"),
            (71, "no_route"),
            (72, "ttl_expired"),
            (73, "too_big"),
            (74, "no_local_endpoints"),
            (75, "reject_limited"),
            (76, "source_not_allowed"),
            (77, "echo_answered"),
            (78, "unknown_port"),
            (79, "unallocated_address"),
            (80, "fragment_lost"),
            (96, "socket_rewritten"),
            (97, "socket_reply_restored"),
            (98, "socket_not_service"),
            (99, "socket_no_endpoints"),
            (100, "socket_bad_table"),
            (101, "socket_no_local_endpoints"),
            (102, "socket_source_not_allowed"),
            (103, "socket_unknown_port"),
            (104, "socket_left_to_packets"),
        ];
        let now: std::vec::Vec<_> = Reason::ALL
            .iter()
            .map(|reason| (*reason as u8, reason.name()))
            .collect();
        assert_eq!(now, given);
    }
}
