//! What each capability of the agent is for: the kernel is asked, beneath the agent's own look at what it may do.

use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_common::{abi::XdpMode, flow::Timeouts};
use lb_testkit::{Lab, Wiring};
use lb_userspace::{
    cli::args::SocketLb,
    load::{Knobs, Sizes, load},
    object,
    pins::PinFolder,
    probe, snat_ports,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Loads all programs on a thread with these capabilities alone; what the loader says.
fn load_with(capabilities: CapabilitySet) -> Result<()> {
    let lab = Lab::builder().wiring(Wiring::Bridged).build()?;
    let features = probe::check()?;
    let knobs = Knobs {
        service_stats: true,
        log_level: 0,
        snat_ports: snat_ports::find(&(30_000..=32_767))?,
        timeouts: Timeouts::default(),
        socket_lb: SocketLb::All,
        xdp: &[XdpMode::Native, XdpMode::Generic],
    };
    let pins = PinFolder::open(&lab.bpffs(1))?;
    let loaded = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let sets = CapabilitySets {
                effective: capabilities,
                permitted: capabilities,
                inheritable: CapabilitySet::empty(),
            };
            // Capabilities are a thread's own.
            set_capabilities(None, sets).context("give capabilities away")?;
            let bytes = object::bytes()?;
            load(bytes, &pins, &Sizes::default(), &features, &knobs)
                .map(drop)
                .map_err(|error| anyhow!("{error:#}: {error:?}"))
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    drop(pins);
    loaded
}

const ALL: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::PERFMON);

#[test]
fn bpf_net_admin_and_perfmon_are_enough_to_load_everything() -> Result<()> {
    load_with(ALL)
}

#[test]
fn without_perfmon_the_verifier_refuses_the_programs() -> Result<()> {
    let error = load_with(ALL.difference(CapabilitySet::PERFMON))
        .err()
        .context("it was loaded")?;
    let text = error.to_string();
    eprintln!("{}", text.chars().take(3000).collect::<String>());
    ensure!(text.contains("verifier") || text.contains("denied"), "{text}");
    Ok(())
}

#[test]
fn without_bpf_or_net_admin_nothing_is_loaded() -> Result<()> {
    // What the loader says then leads nowhere (it takes the kernel for one without global data): the agent asks first.
    for missing in [CapabilitySet::BPF, CapabilitySet::NET_ADMIN] {
        ensure!(
            load_with(ALL.difference(missing)).is_err(),
            "loaded without {missing:?}"
        );
    }
    Ok(())
}
