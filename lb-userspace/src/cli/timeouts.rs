//! How long flows are remembered, as the user typed it.

use lb_common::flow::{State, Timeouts};

use super::{
    args::RunArgs,
    config::{ConfigError, value},
};

const NS_PER_S: u64 = 1_000_000_000;

/// The shortest timeout: an entry's time may be a second behind the truth.
const SHORTEST: u64 = 2 * NS_PER_S;
/// The longest; beyond it is a typing mistake.
const LONGEST: u64 = 30 * 24 * 3_600 * NS_PER_S;

/// The timeouts of all states.
pub(super) fn timeouts(args: &RunArgs) -> Result<Timeouts, ConfigError> {
    let timeout = |flag, text: &str, state| match nanoseconds(text) {
        // kube-proxy's word for "as the system has it".
        Some(0) => Ok(Timeouts::default().of(state)),
        Some(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(time),
        Some(_) => Err(value(flag, text, "must be from 2s to 720h, or 0 for the default")),
        None => Err(value(flag, text, "is not a time such as 30s, 2m or 24h")),
    };
    Ok(Timeouts {
        syn: timeout("tcp-syn-timeout", &args.tcp_syn_timeout, State::Syn)?,
        established: timeout(
            "tcp-established-timeout",
            &args.tcp_established_timeout,
            State::Established,
        )?,
        closing: timeout(
            "tcp-close-wait-timeout",
            &args.tcp_close_wait_timeout,
            State::Closing,
        )?,
        closed: timeout("tcp-fin-timeout", &args.tcp_fin_timeout, State::Closed)?,
        udp: timeout("udp-timeout", &args.udp_timeout, State::Udp)?,
        udp_stream: timeout("udp-stream-timeout", &args.udp_stream_timeout, State::UdpStream)?,
    })
}

/// A time in the notation of Go's `time.ParseDuration`, which is that of kube-proxy's flags: numbers with h, m, s or ms,
/// such as `24h0m0s`.
fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let scale = match unit {
            "h" => 3_600 * NS_PER_S,
            "m" => 60 * NS_PER_S,
            "s" => NS_PER_S,
            "ms" => 1_000_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
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
        timeouts(&args).unwrap()
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

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, time) in [
            ("24h0m0s", Some(86_400 * NS_PER_S)),
            ("1500ms", Some(1_500_000_000)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("5d", None),
            ("h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(nanoseconds(text), time, "{text:?}");
        }
    }
}
