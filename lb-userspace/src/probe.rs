//! What this process may do and what this kernel can, asked before anything is changed.

use std::{fs, io};

use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use crate::sys;

/// Where the kernel describes its own types.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why the agent cannot work here.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Privileges are missing.
    #[error("missing {missing}: run as root, or give the process these capabilities")]
    Capabilities {
        /// Names of the capabilities, joined.
        missing: String,
    },
    /// The capabilities of this process cannot be read.
    #[error("read the capabilities of this process: {0}")]
    ReadCapabilities(#[source] io::Error),
    /// The kernel does not describe its types.
    #[error(
        "read {VMLINUX_BTF}: {0}; Fairlead needs a kernel of 5.15 or newer built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf(#[source] io::Error),
    /// The kernel has no network namespace cookies.
    #[error("ask for the cookie of the network namespace: {0}; Fairlead needs Linux 5.15 or newer")]
    NoNetnsCookie(#[source] io::Error),
    /// The kernel lacks something that the programs call.
    #[error("this kernel lacks {feature}; Fairlead needs Linux 5.15 or newer")]
    Feature {
        /// What is missing.
        feature: &'static str,
    },
}

/// What differs between kernels that Fairlead runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// tcx links (6.6); otherwise clsact filters are used.
    pub tcx: bool,
    /// The flag `BPF_F_IPV6` of `bpf_l4_csum_replace`.
    pub csum_ipv6_flag: bool,
    /// The helper `bpf_set_retval`.
    pub set_retval: bool,
    /// XDP programs for frames in pieces (5.18); without them a device with jumbo frames has no native XDP.
    pub xdp_pieces: bool,
    /// Cookie of the network namespace that the agent runs in.
    pub netns_cookie: u64,
}

/// Asks for privileges and features.
///
/// # Errors
///
/// [`ProbeError`] names what is missing and the remedy.
pub fn check() -> Result<Features, ProbeError> {
    check_privileges()?;
    let btf = fs::read(VMLINUX_BTF).map_err(ProbeError::NoBtf)?;
    features(&btf, || sys::netns_cookie().map_err(ProbeError::NoNetnsCookie))
}

/// The features of a kernel that describes itself by `btf`.
fn features(
    btf: &[u8],
    netns_cookie: impl FnOnce() -> Result<u64, ProbeError>,
) -> Result<Features, ProbeError> {
    let knows = |name: &str| contains_name(btf, name);
    for (name, feature) in REQUIRED {
        if !knows(name) {
            return Err(ProbeError::Feature { feature });
        }
    }
    Ok(Features {
        tcx: knows("BPF_TCX_INGRESS"),
        csum_ipv6_flag: knows("BPF_F_IPV6"),
        set_retval: knows("BPF_FUNC_set_retval"),
        xdp_pieces: knows("BPF_FUNC_xdp_get_buff_len"),
        netns_cookie: netns_cookie()?,
    })
}

/// Names of the kernel's own types without which the programs cannot run.
const REQUIRED: [(&str, &str); 5] = [
    ("BPF_MAP_TYPE_LRU_HASH", "LRU hash maps"),
    ("BPF_F_MMAPABLE", "array maps that can be mapped into memory"),
    ("BPF_CGROUP_INET4_GETPEERNAME", "cgroup hooks for getpeername"),
    ("BPF_FUNC_get_netns_cookie", "the helper bpf_get_netns_cookie"),
    (
        "BPF_FUNC_ktime_get_coarse_ns",
        "the helper bpf_ktime_get_coarse_ns",
    ),
];

/// Asks for privileges only.
///
/// # Errors
///
/// [`ProbeError::Capabilities`] names those that are missing.
pub fn check_privileges() -> Result<(), ProbeError> {
    let have = capabilities(None)
        .map_err(|error| ProbeError::ReadCapabilities(error.into()))?
        .effective;
    if have.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    let missing: Vec<&str> = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter_map(|(capability, name)| (!have.contains(capability)).then_some(name))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ProbeError::Capabilities {
        missing: missing.join(", "),
    })
}

/// Whether the string table of `btf` has that very name. Names in BTF are separated by zero bytes.
fn contains_name(btf: &[u8], name: &str) -> bool {
    let mut wanted = vec![0];
    wanted.extend(name.bytes());
    wanted.push(0);
    memchr::memmem::find(btf, &wanted).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_count() {
        let btf = b"\0BPF_F_IPV6_X\0XBPF_F_IPV6\0BPF_F_MARK\0";
        assert!(!contains_name(btf, "BPF_F_IPV6"));
        assert!(contains_name(btf, "BPF_F_MARK"));
    }

    /// What a kernel that knows these names would say.
    fn btf<'a>(names: impl Iterator<Item = &'a str>) -> Vec<u8> {
        let mut btf = vec![0];
        for name in names {
            btf.extend(name.bytes());
            btf.push(0);
        }
        btf
    }

    #[test]
    fn a_kernel_without_a_needed_feature_is_told_which_and_what_to_do() {
        for (missing, feature) in REQUIRED {
            let names = REQUIRED.into_iter().map(|(name, _)| name);
            let btf = btf(names.filter(|name| *name != missing));
            let error = features(&btf, || Ok(1)).expect_err(missing).to_string();
            assert!(error.contains(feature) && error.contains("Linux 5.15"), "{error}");
        }
    }

    #[test]
    fn an_old_kernel_goes_without_what_it_need_not_have() {
        let old = btf(REQUIRED.into_iter().map(|(name, _)| name));
        let features = features(&old, || Ok(7)).expect("enough");
        let expected = Features {
            tcx: false,
            csum_ipv6_flag: false,
            set_retval: false,
            xdp_pieces: false,
            netns_cookie: 7,
        };
        assert_eq!(features, expected);
    }

    #[test]
    fn this_kernel_has_what_the_programs_need() {
        let btf = fs::read(VMLINUX_BTF).expect("a kernel with BTF");
        for (name, feature) in REQUIRED {
            assert!(contains_name(&btf, name), "{feature}");
        }
    }
}
