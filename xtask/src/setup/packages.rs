//! The Debian packages that development needs, each with its reason.

use std::{
    env,
    path::{Path, PathBuf},
};

/// A package that the lab needs.
#[derive(Debug)]
pub(crate) struct Package {
    /// Name of the Debian package.
    pub(crate) name: &'static str,
    /// The program by which its presence is seen, so that other distributions' packages count too.
    pub(crate) program: &'static str,
    /// Why it is needed.
    pub(crate) reason: &'static str,
    /// A service that the package would start at boot.
    pub(crate) service: Option<&'static str>,
}

const fn package(name: &'static str, program: &'static str, reason: &'static str) -> Package {
    Package {
        name,
        program,
        reason,
        service: None,
    }
}

/// What the lab of network namespaces and its tests run.
pub(crate) const LAB: [Package; 16] = [
    package("bind9-dnsutils", "dig", "asks the DNS service of the examples"),
    package(
        "bpftool",
        "bpftool",
        "shows programs, maps and links when a test fails",
    ),
    package("curl", "curl", "the HTTP client of demo and tests"),
    package(
        "dnsmasq-base",
        "dnsmasq",
        "a real DNS server on one port for TCP and UDP",
    ),
    package(
        "ethtool",
        "ethtool",
        "turns checksum offload off where a wire would be",
    ),
    package("iperf3", "iperf3", "large transfers in both directions"),
    package(
        "iproute2",
        "ip",
        "makes namespaces, devices, addresses and routes",
    ),
    package(
        "iptables",
        "iptables",
        "proves that rules of other tools keep working; a benchmark's baseline",
    ),
    package(
        "kmod",
        "modprobe",
        "loads the kernel modules of the lab's devices",
    ),
    package(
        "nftables",
        "nft",
        "proves that rules of other tools keep working; a benchmark's baseline",
    ),
    Package {
        name: "nginx-light",
        program: "nginx",
        reason: "a real HTTP server behind the examples' services",
        service: Some("nginx"),
    },
    package("procps", "sysctl", "sets forwarding in the lab's namespaces"),
    package(
        "runc",
        "runc",
        "runs the image with the privileges of the DaemonSet",
    ),
    package("socat", "socat", "plain TCP and UDP connections that stay open"),
    package("tcpdump", "tcpdump", "captures what is on the lab's wires"),
    package("util-linux", "nsenter", "enters a namespace without a new /sys"),
];

/// What libFuzzer is built with.
pub(crate) const FUZZ: [Package; 1] = [package("g++", "g++", "compiles libFuzzer")];

/// The eBPF compiler with its cargo and the source of `core`. Taken when no other compiler fits.
pub(crate) const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The linter that goes with [`COMPILER`].
pub(crate) const COMPILER_CLIPPY: &str = "rust-web-clippy";

/// What building bpf-linker needs besides LLVM: a C compiler (its LLVM bindings hold some C) and the C library.
pub(crate) const LINKER_BUILD: [&str; 2] = ["gcc", "libc6-dev"];

/// The package that holds the libraries and headers of an LLVM.
pub(crate) fn llvm_development(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// The packages of `wanted` whose program is not there.
pub(crate) fn missing(wanted: &'static [Package]) -> Vec<&'static Package> {
    wanted
        .iter()
        .filter(|package| find_program(package.program).is_none())
        .collect()
}

/// Finds a program on PATH or in the system folders, which the PATH of an ordinary user lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
