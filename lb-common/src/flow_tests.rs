use super::*;

fn flow(seen: u8, last_seen: u64) -> Flow<u32> {
    Flow {
        seen,
        last_seen,
        ..Flow::default()
    }
}

fn timeout(state: State) -> u64 {
    Timeouts::default().of(state)
}

#[test]
fn udp_datagrams_tell_who_has_spoken() {
    let spoken = Seen::of(proto::UDP, 0xff).0;
    assert_eq!(spoken, Seen::DATA);
    assert_eq!(State::of(proto::UDP, spoken, 0), State::Udp);
    assert_eq!(State::of(proto::UDP, 0, spoken), State::Udp);
    assert_eq!(State::of(proto::UDP, spoken, spoken), State::UdpStream);
}

#[test]
fn a_handshake_leads_from_syn_to_established() {
    let syn = Seen::of(proto::TCP, tcp::SYN).0;
    let syn_ack = Seen::of(proto::TCP, tcp::SYN | tcp::ACK).0;
    let ack = Seen::of(proto::TCP, tcp::ACK).0;
    assert_eq!(State::of(proto::TCP, syn, 0), State::Syn);
    assert_eq!(State::of(proto::TCP, syn, syn_ack), State::Syn);
    assert_eq!(State::of(proto::TCP, syn | ack, syn_ack), State::Established);
}

#[test]
fn one_fin_closes_a_side_and_a_second_one_or_a_reset_the_connection() {
    let data = Seen::SYN | Seen::DATA;
    for (one, other, state) in [
        (data | Seen::FIN, data, State::Closing),
        (data, data | Seen::FIN, State::Closing),
        (data | Seen::FIN, data | Seen::FIN, State::Closed),
        (data | Seen::RST, data, State::Closed),
        (Seen::SYN, Seen::RST, State::Closed),
    ] {
        assert_eq!(State::of(proto::TCP, one, other), state, "{one:#x} {other:#x}");
    }
    assert_eq!(
        Seen::of(proto::TCP, tcp::FIN | tcp::ACK).0,
        Seen::DATA | Seen::FIN
    );
    assert_eq!(Seen::of(proto::TCP, tcp::RST).0, Seen::DATA | Seen::RST);
}

#[test]
fn chunks_of_sctp_amount_to_flags_of_tcp() {
    for (chunk, seen) in [
        (0, Seen::DATA),
        (1, Seen::SYN),
        (2, Seen::SYN),
        (6, Seen::DATA | Seen::RST),
        (7, Seen::DATA | Seen::FIN),
        (8, Seen::DATA | Seen::FIN),
        (10, Seen::DATA),
        (14, Seen::DATA | Seen::FIN),
    ] {
        assert_eq!(Seen::of(proto::SCTP, sctp_flags(chunk)).0, seen, "chunk {chunk}");
    }
}

#[test]
fn news_is_what_the_note_lacks() {
    assert!(Seen(Seen::FIN).is_news_to(Seen::SYN | Seen::DATA));
    assert!(!Seen(Seen::DATA).is_news_to(Seen::SYN | Seen::DATA));
    assert!(!Seen(0).is_news_to(0));
}

/// What both directions have seen, by state.
const SEEN: [(State, u8, u8, u8); 9] = [
    (State::Syn, proto::TCP, Seen::SYN, 0),
    (
        State::Established,
        proto::TCP,
        Seen::SYN | Seen::DATA,
        Seen::SYN | Seen::DATA,
    ),
    (State::Closing, proto::TCP, Seen::DATA | Seen::FIN, Seen::DATA),
    (
        State::Closed,
        proto::TCP,
        Seen::DATA | Seen::FIN,
        Seen::DATA | Seen::FIN,
    ),
    (State::Udp, proto::UDP, Seen::DATA, 0),
    (State::UdpStream, proto::UDP, Seen::DATA, Seen::DATA),
    (State::SctpOpening, proto::SCTP, Seen::SYN, Seen::SYN),
    (
        State::SctpEstablished,
        proto::SCTP,
        Seen::SYN | Seen::DATA,
        Seen::SYN,
    ),
    (
        State::SctpClosing,
        proto::SCTP,
        Seen::DATA | Seen::FIN,
        Seen::DATA,
    ),
];

#[test]
fn a_flow_dies_after_its_timeout_and_not_before_whichever_half_is_asked() {
    for (state, protocol, one, other) in SEEN {
        let (one, other) = (flow(one, 1_000), flow(other, 2_000));
        let end = 2_000 + timeout(state);
        for (one, other) in [(&one, &other), (&other, &one)] {
            assert_eq!(state_and_last(protocol, one, Some(other)), (state, 2_000));
            assert!(!is_dead(protocol, one, Some(other), end, timeout), "{state:?}");
            assert!(is_dead(protocol, one, Some(other), end + 1, timeout), "{state:?}");
        }
    }
}

#[test]
fn packets_of_either_direction_keep_a_flow_alive() {
    let later = limits::UDP_STREAM_TIMEOUT_NS;
    let (forward, reply) = (flow(Seen::DATA, 1_000), flow(Seen::DATA, 1_000 + later));
    assert!(!is_dead(
        proto::UDP,
        &forward,
        Some(&reply),
        2_000 + later,
        timeout
    ));
    assert!(is_dead(proto::UDP, &forward, None, 2_000 + later, timeout));
}

#[test]
fn an_answered_datagram_keeps_a_flow_for_longer() {
    let now = 1_000 + (limits::UDP_TIMEOUT_NS + limits::UDP_STREAM_TIMEOUT_NS) / 2;
    let (asked, silent) = (flow(Seen::DATA, 1_000), flow(0, 1_000));
    assert!(is_dead(proto::UDP, &asked, Some(&silent), now, timeout));
    let answered = flow(Seen::DATA, 1_000);
    assert!(!is_dead(proto::UDP, &asked, Some(&answered), now, timeout));
}

#[test]
fn a_new_connection_of_the_same_client_needs_one_fin_and_somebody_elses_two() {
    for (state, protocol, one, other) in SEEN {
        let (one, other) = (flow(one, 1_000), flow(other, 1_000));
        let closed = matches!(state, State::Closed);
        let closing = closed || matches!(state, State::Closing | State::SctpClosing);
        assert_eq!(
            is_over(protocol, &one, Some(&other), 1_000, timeout),
            closing,
            "{state:?}"
        );
        assert_eq!(
            may_be_taken(protocol, &one, Some(&other), 1_000, timeout),
            closed,
            "{state:?}"
        );
        let end = 1_001 + timeout(state);
        assert!(is_over(protocol, &one, Some(&other), end, timeout), "{state:?}");
        assert!(
            may_be_taken(protocol, &one, Some(&other), end, timeout),
            "{state:?}"
        );
    }
}

#[test]
fn a_clock_read_before_the_note_does_not_end_a_flow() {
    assert!(!is_over(
        proto::UDP,
        &flow(Seen::DATA, 5_000),
        None,
        4_000,
        timeout
    ));
}
