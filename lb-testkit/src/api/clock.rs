//! The time, as objects carry it.

use jiff::Timestamp;

/// Now, in whole seconds (RFC 3339): `metav1.Time`.
pub(crate) fn now() -> String {
    seconds(Timestamp::now())
}

/// A time in whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_whole_seconds() {
        let time: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(seconds(time), "2026-01-02T03:04:05Z");
        assert_eq!(now().len(), 20);
    }
}
