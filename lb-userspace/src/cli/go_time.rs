//! Times in the notation of Go's `time.ParseDuration`, which is that of kube-proxy's flags: numbers with units, such as
//! `24h0m0s`, `1.5s` or `10ms`.

/// Units from the largest on, with their nanoseconds. `us` stands before `µs`, its other name, so that it is written.
const UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// The nanoseconds; none if `text` is no such time, or longer than 64 bits hold.
pub(super) fn parse(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// A decimal number times `scale`; what is below one is cut off.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut scale = scale;
    for digit in fraction.bytes() {
        scale /= 10;
        total = total.checked_add(u64::from(digit - b'0') * scale)?;
    }
    Some(total)
}

/// The notation of a time; [`parse`] reads it back.
pub(super) fn format(mut nanoseconds: u64) -> String {
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if nanoseconds >= scale {
            text.push_str(&format!("{}{unit}", nanoseconds / scale));
            nanoseconds %= scale;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, time) in [
            ("24h0m0s", Some(86_400_000_000_000)),
            ("1500ms", Some(1_500_000_000)),
            ("0.5s", Some(500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("1m0.25s", Some(60_250_000_000)),
            ("3us", Some(3_000)),
            ("3µs", Some(3_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("5", None),
            ("5d", None),
            ("h", None),
            ("99999999999999999999s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse(text), time, "{text:?}");
        }
    }

    #[test]
    fn times_are_written_in_their_largest_units() {
        for (time, text) in [
            (0, "0s"),
            (86_400_000_000_000, "24h"),
            (90_000_000_000, "1m30s"),
            (10_000_000, "10ms"),
        ] {
            assert_eq!(format(time), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(time: u64) {
            prop_assert_eq!(parse(&format(time)), Some(time));
        }
    }
}
