use super::*;

fn flow(seen: u8, last_seen: u64) -> Flow<u32> {
    Flow {
        seen,
        last_seen,
        ..Flow::default()
    }
}

#[test]
fn udp_packets_tell_nothing_of_a_state() {
    assert_eq!(Seen::of(proto::UDP, 0xff), Seen(0));
    assert_eq!(State::of(proto::UDP, 0, 0), State::Udp);
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
fn fin_or_reset_of_either_side_closes() {
    for flag in [tcp::FIN, tcp::RST] {
        let end = Seen::of(proto::TCP, flag | tcp::ACK).0;
        assert_eq!(
            State::of(proto::TCP, Seen::SYN | Seen::DATA | end, Seen::SYN),
            State::Closing
        );
        assert_eq!(State::of(proto::TCP, Seen::SYN, Seen::SYN | end), State::Closing);
    }
}

#[test]
fn news_is_what_the_note_lacks() {
    assert!(Seen(Seen::FIN).is_news_to(Seen::SYN | Seen::DATA));
    assert!(!Seen(Seen::DATA).is_news_to(Seen::SYN | Seen::DATA));
    assert!(!Seen(0).is_news_to(0));
}

#[test]
fn an_idle_flow_is_over_after_its_timeout_and_not_before() {
    for (protocol, seen, state) in [
        (proto::TCP, Seen::SYN, State::Syn),
        (proto::TCP, Seen::SYN | Seen::DATA, State::Established),
        (proto::UDP, 0, State::Udp),
    ] {
        let forward = flow(seen, 1_000);
        let end = 1_000 + state.timeout();
        assert!(!is_over(protocol, &forward, None, end), "{state:?}");
        assert!(is_over(protocol, &forward, None, end + 1), "{state:?}");
    }
}

#[test]
fn packets_of_either_direction_keep_a_flow_alive() {
    let forward = flow(0, 1_000);
    let reply = flow(0, 1_000 + UDP_TIMEOUT_NS);
    assert!(!is_over(
        proto::UDP,
        &forward,
        Some(&reply),
        2_000 + UDP_TIMEOUT_NS
    ));
}

#[test]
fn a_closed_connection_is_over_at_once() {
    let forward = flow(Seen::SYN | Seen::DATA, 1_000);
    let reset_by_server = flow(Seen::RST, 1_000);
    assert!(is_over(proto::TCP, &forward, Some(&reset_by_server), 1_000));
}

#[test]
fn a_clock_read_before_the_note_does_not_end_a_flow() {
    assert!(!is_over(proto::UDP, &flow(0, 5_000), None, 4_000));
}
