//! How long flows are remembered, as the user typed it.

use lb_common::flow::{State, Timeouts};

use super::{config::ConfigError, go_time, settings::Settings, values::value};

const NS_PER_S: u64 = 1_000_000_000;

/// The shortest timeout: an entry's time may be a second behind the truth.
const SHORTEST: u64 = 2 * NS_PER_S;
/// The longest; beyond it is a typing mistake.
const LONGEST: u64 = 30 * 24 * 3_600 * NS_PER_S;

/// The timeouts of all states.
pub(super) fn timeouts(settings: &Settings) -> Result<Timeouts, ConfigError> {
    let timeout = |flag, given: &Option<String>, state| {
        let default = Timeouts::default().of(state);
        let Some(text) = given else {
            return Ok(default);
        };
        match go_time::parse(text) {
            // kube-proxy's word for "as the system has it".
            Some(0) => Ok(default),
            Some(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(time),
            Some(_) => Err(value(flag, text, "must be from 2s to 720h, or 0 for the default")),
            None => Err(value(flag, text, "is not a time such as 30s, 2m or 24h")),
        }
    };
    let given = settings;
    let close_wait = &given.tcp_close_wait_timeout;
    let established = &given.tcp_established_timeout;
    Ok(Timeouts {
        syn: timeout("tcp-syn-timeout", &given.tcp_syn_timeout, State::Syn)?,
        established: timeout("tcp-established-timeout", established, State::Established)?,
        closing: timeout("tcp-close-wait-timeout", close_wait, State::Closing)?,
        closed: timeout("tcp-fin-timeout", &given.tcp_fin_timeout, State::Closed)?,
        udp: timeout("udp-timeout", &given.udp_timeout, State::Udp)?,
        udp_stream: timeout("udp-stream-timeout", &given.udp_stream_timeout, State::UdpStream)?,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn of(more: &[&str]) -> Timeouts {
        let words = ["fairlead", "run", "--manifests", "/m"];
        let cli = Cli::try_parse_from(words.iter().chain(more)).unwrap();
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        timeouts(&args.config.settings).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_kernel_programs_and_so_is_kube_proxys_zero() {
        assert_eq!(of(&[]), Timeouts::default());
        assert_eq!(
            of(&["--udp-timeout", "0", "--tcp-fin-timeout", "0s"]),
            Timeouts::default()
        );
    }

    #[test]
    fn kube_proxys_flags_are_understood() {
        let timeouts = of(&[
            "--conntrack-tcp-timeout-established",
            "12h0m0s",
            "--conntrack-tcp-timeout-close-wait=30m",
            "--conntrack-udp-timeout=10s",
            "--conntrack-udp-timeout-stream=1m30s",
        ]);
        assert_eq!(timeouts.established, 12 * 3_600 * NS_PER_S);
        assert_eq!(timeouts.closing, 1_800 * NS_PER_S);
        assert_eq!(
            (timeouts.udp, timeouts.udp_stream),
            (10 * NS_PER_S, 90 * NS_PER_S)
        );
    }
}
