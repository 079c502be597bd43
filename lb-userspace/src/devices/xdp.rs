//! Which XDP mode an uplink is to have: a pure function of the device and the flag `--xdp`.

use lb_common::abi::{XdpMode, XdpWhy};

use super::{Device, Kind, Pattern};

/// What the operator wants for some devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpRule {
    /// What is best for the device.
    Auto,
    /// This mode.
    Fixed(XdpMode),
}

/// What the operator wants: rules for devices by name. The last one that matches counts; without one, the mode is
/// automatic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpRules(Vec<(Pattern, XdpRule)>);

impl XdpRules {
    /// The rules of the flag's texts: `MODE` for all devices, or `PATTERN=MODE`.
    ///
    /// # Errors
    ///
    /// The text that is none.
    pub fn parse(texts: &[String]) -> Result<Self, &str> {
        texts
            .iter()
            .map(|text| {
                let (pattern, mode) = text.split_once('=').unwrap_or(("*", text));
                let rule = match mode.trim() {
                    "auto" => XdpRule::Auto,
                    "native" => XdpRule::Fixed(XdpMode::Native),
                    "generic" => XdpRule::Fixed(XdpMode::Generic),
                    "off" => XdpRule::Fixed(XdpMode::Off),
                    _ => return Err(text.as_str()),
                };
                let pattern = pattern.trim();
                if pattern.is_empty() || pattern.contains('/') {
                    return Err(text.as_str());
                }
                Ok((Pattern::new(pattern), rule))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The rules as texts that [`Self::parse`] reads.
    pub fn texts(&self) -> Vec<String> {
        let text = |(pattern, rule): &(Pattern, XdpRule)| {
            let mode = match rule {
                XdpRule::Auto => "auto",
                XdpRule::Fixed(mode) => mode.name(),
            };
            format!("{}={mode}", pattern.text())
        };
        self.0.iter().map(text).collect()
    }

    /// Whether a device may come to have that mode: programs for other modes need not be loaded.
    pub fn may_choose(&self, mode: XdpMode) -> bool {
        let all = Pattern::new("*");
        let fits = |rule: &XdpRule| match rule {
            XdpRule::Auto => mode == XdpMode::Native,
            XdpRule::Fixed(fixed) => *fixed == mode,
        };
        // From the back to the last rule for all devices, or to the one for which nothing was said.
        for (pattern, rule) in self.0.iter().rev() {
            if fits(rule) {
                return true;
            }
            if *pattern == all {
                return false;
            }
        }
        fits(&XdpRule::Auto)
    }

    /// The mode that an uplink is to have, and why.
    ///
    /// Automatic is native on network cards, and nothing elsewhere: generic XDP comes after the kernel has made a socket
    /// buffer, and costs more than tc saves by it; a veth needs a program on its other end, which is somebody else's
    /// ([ADR 3](https://github.com/fairlead/fairlead/blob/main/docs/adr/0003-where-xdp-runs.md)).
    pub fn choose(&self, device: &Device) -> (XdpMode, XdpWhy) {
        let rule = self
            .0
            .iter()
            .rev()
            .find(|(pattern, _)| pattern.matches(&device.name));
        match (rule.map(|(_, rule)| *rule), device.kind) {
            (Some(XdpRule::Fixed(mode)), _) => (mode, XdpWhy::Asked),
            (_, Kind::Physical) => (XdpMode::Native, XdpWhy::Driver),
            (_, Kind::Veth) => (XdpMode::Off, XdpWhy::Veth),
            (_, Kind::Upper | Kind::Bridge | Kind::Other) => (XdpMode::Off, XdpWhy::NoCard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: Kind) -> Device {
        Device {
            index: 7,
            name: name.to_owned(),
            hardware: [0; 6],
            kind,
            ethernet: true,
            loopback: false,
            peer_namespace: None,
            port: false,
            addressed: true,
            networked: true,
            leads_out: false,
            stacked: false,
        }
    }

    fn rules(texts: &[&str]) -> XdpRules {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        XdpRules::parse(&texts).expect("valid rules")
    }

    #[test]
    fn automatic_is_native_on_network_cards_only() {
        for (kind, expected) in [
            (Kind::Physical, (XdpMode::Native, XdpWhy::Driver)),
            (Kind::Veth, (XdpMode::Off, XdpWhy::Veth)),
            (Kind::Upper, (XdpMode::Off, XdpWhy::NoCard)),
            (Kind::Other, (XdpMode::Off, XdpWhy::NoCard)),
        ] {
            for rules in [rules(&[]), rules(&["auto"]), rules(&["off", "auto"])] {
                assert_eq!(rules.choose(&device("eth0", kind)), expected, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        let rules = rules(&["native", "eth*=generic", "eth1=off", "ens3=auto"]);
        let mode = |name| rules.choose(&device(name, Kind::Veth)).0;
        assert_eq!(mode("wan"), XdpMode::Native);
        assert_eq!(mode("eth0"), XdpMode::Generic);
        assert_eq!(mode("eth1"), XdpMode::Off);
        assert_eq!(mode("ens3"), XdpMode::Off);
    }

    #[test]
    fn only_modes_that_a_device_may_get_are_loaded() {
        use XdpMode::{Generic, Native};
        for (texts, modes) in [
            (&[][..], &[Native][..]),
            (&["auto"], &[Native]),
            (&["off"], &[]),
            (&["eth0=native", "generic", "off"], &[]),
            (&["off", "eth0=native"], &[Native]),
            (&["eth0=off"], &[Native]),
            (&["eth0=generic"], &[Native, Generic]),
            (&["generic", "eth0=off"], &[Generic]),
        ] {
            let rules = rules(texts);
            for mode in [Native, Generic] {
                assert_eq!(
                    rules.may_choose(mode),
                    modes.contains(&mode),
                    "{texts:?} {mode:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_told() {
        for text in ["", "fast", "eth0=", "=native", "a/b=off", "eth0=native=off"] {
            assert_eq!(XdpRules::parse(&[text.to_owned()]), Err(text));
        }
    }
}
