//! Links, pins and pinned maps of the agent, on devices of a namespace that each test has for itself.

use std::{fs, os::fd::AsFd as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, programs::SchedClassifier};
use lb_common::{
    datapath::{Ports, Role},
    flow::Timeouts,
};
use lb_testkit::output;
use lb_tests::namespace::Namespace;
use lb_userspace::{
    attach::{AttachError, Attacher, list_devices},
    cleanup,
    cli::args::SocketLb,
    load::{self, Knobs, Sizes},
    object,
    pins::{PinError, PinFolder},
    probe,
    sys::{self, AttachType},
};

/// Small maps: nothing is sent here.
const SIZES: Sizes = Sizes {
    flows: 16,
    frontends: 16,
    services: 16,
    backends: 16,
    maglev_slots: 16,
    meters: 16,
};

const KNOBS: Knobs = Knobs {
    service_stats: true,
    log_level: 0,
    snat_ports: Ports {
        first: 1_024,
        count: 28_976,
    },
    timeouts: Timeouts::DEFAULT,
    socket_lb: SocketLb::Host,
    xdp: &[],
};

/// A network namespace, which the calling thread is in, and a folder whose `pins` is a pin folder of its own.
struct Stage {
    namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        Ok(Self {
            namespace: Namespace::enter()?,
            folder: tempfile::tempdir()?,
        })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("pins")
    }

    fn ip(&self, words: &str) -> Result<()> {
        self.namespace.run("ip", words).map(drop)
    }

    fn tc(&self, words: &str) -> Result<String> {
        self.namespace.run("tc", words)
    }

    /// Adds a veth, of which only this end is looked at; returns its index.
    fn add_device(&self, device: &str) -> Result<u32> {
        self.ip(&format!("link add {device} type veth peer name {device}-p"))?;
        index_of(device)
    }

    fn load(&self) -> Result<(PinFolder, Ebpf, Attacher)> {
        let features = probe::check()?;
        ensure!(features.tcx, "these tests are about tcx links (Linux 6.6)");
        let pins = PinFolder::open(&self.root())?;
        let bpf = load::load(object::bytes()?, &pins, &SIZES, &features, &KNOBS)?;
        let attacher = Attacher::new(&pins, true, features.xdp_pieces);
        Ok((pins, bpf, attacher))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The bpffs that the pin folder mounted, if the test came so far; the rest goes with it.
        let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Of a device in the calling thread's namespace. (`/sys` would show the namespace that it was mounted in.)
fn index_of(device: &str) -> Result<u32> {
    rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?,
        device,
    )
    .with_context(|| device.to_owned())
}

/// By device and direction: on which device index the pinned link hangs, and its identifier.
fn links(pins: &PinFolder) -> Vec<(String, &'static str, u32, u32)> {
    list_devices(&pins.links())
        .into_iter()
        .map(|link| {
            let info = link.info.expect("a pinned link can be opened");
            (link.device.clone(), link.direction(), info.ifindex, info.id)
        })
        .collect()
}

/// The devices of the pinned links, each once, with the index that they hang on.
fn devices(pins: &PinFolder) -> Vec<(String, u32)> {
    let mut devices: Vec<_> = links(pins)
        .into_iter()
        .map(|(device, _, index, _)| (device, index))
        .collect();
    devices.dedup();
    devices
}

#[test]
fn a_renamed_device_keeps_its_links() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("before")?;
    attacher.attach_device(&mut bpf, index, "before", Role::Workload)?;
    let ids: Vec<u32> = links(&pins).iter().map(|link| link.3).collect();
    stage.ip("link set before name after.1")?;
    assert!(attacher.rename_device(index, "before", "after.1")?);
    assert_eq!(devices(&pins), [("after.1".to_owned(), index)]);
    assert_eq!(links(&pins).iter().map(|link| link.3).collect::<Vec<_>>(), ids);
    Ok(())
}

/// The agent may hear of a new name when the device is gone already, and would not look for the old one again.
#[test]
fn a_device_that_was_renamed_and_is_gone_leaves_no_pins() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("before")?;
    attacher.attach_device(&mut bpf, index, "before", Role::Workload)?;
    stage.ip("link set before name after")?;
    stage.ip("link del after")?;
    assert!(!attacher.rename_device(index, "before", "after")?);
    assert_eq!(links(&pins), []);
    Ok(())
}

#[test]
fn devices_that_swapped_names_both_end_up_attached() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let (a, b) = (stage.add_device("va")?, stage.add_device("vb")?);
    attacher.attach_device(&mut bpf, a, "va", Role::Workload)?;
    attacher.attach_device(&mut bpf, b, "vb", Role::Workload)?;
    for rename in ["va name x", "vb name va", "x name vb"] {
        stage.ip(&format!("link set {rename}"))?;
    }
    assert!(
        attacher.rename_device(a, "va", "vb")?,
        "the first takes its link along"
    );
    assert!(
        !attacher.rename_device(b, "vb", "va")?,
        "the link under the old name is another device's"
    );
    attacher.attach_device(&mut bpf, b, "va", Role::Workload)?;
    assert_eq!(devices(&pins), [("va".to_owned(), b), ("vb".to_owned(), a)]);
    Ok(())
}

/// The kernel frees an unpinned link from a work queue, and refuses the same program on the device until then.
#[test]
fn a_device_can_be_attached_to_again_at_once() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("v")?;
    for _ in 0..20 {
        attacher.attach_device(&mut bpf, index, "v", Role::Uplink)?;
        attacher.detach_device("v")?;
        assert_eq!(links(&pins), []);
    }
    Ok(())
}

#[test]
fn a_new_device_of_an_old_name_gets_new_links() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let old = stage.add_device("v")?;
    attacher.attach_device(&mut bpf, old, "v", Role::Workload)?;
    stage.ip("link del v")?;
    assert_eq!(devices(&pins), [("v".to_owned(), 0)], "a dead link stays pinned");
    let new = stage.add_device("v")?;
    assert_ne!(old, new);
    attacher.attach_device(&mut bpf, new, "v", Role::Workload)?;
    assert_eq!(devices(&pins), [("v".to_owned(), new)]);
    Ok(())
}

#[test]
fn a_device_that_is_gone_is_told_as_such() -> Result<()> {
    let stage = Stage::new()?;
    let (_pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("v")?;
    stage.ip("link del v")?;
    let error = attacher
        .attach_device(&mut bpf, index, "v", Role::Workload)
        .expect_err("there is no such device");
    assert!(matches!(error, AttachError::DeviceGone { .. }), "{error}");
    Ok(())
}

#[test]
fn links_of_another_namespace_are_neither_taken_over_nor_touched() -> Result<()> {
    let first = Stage::new()?;
    let (pins, mut bpf, attacher) = first.load()?;
    let index = first.add_device("v")?;
    attacher.attach_device(&mut bpf, index, "v", Role::Workload)?;
    attacher.check_namespace()?;
    let before = links(&pins);

    let second = Stage::new()?;
    let error = attacher.check_namespace().expect_err("no device of it is here");
    assert!(matches!(error, AttachError::OtherNamespace { .. }), "{error}");
    assert!(error.to_string().contains("--bpffs"), "{error}");
    assert_eq!(
        second.add_device("v")?,
        index,
        "the same index and name as in the other namespace"
    );
    assert!(!attacher.is_attached(index, "v"));
    assert!(attacher.check_namespace().is_err());
    assert_eq!(links(&pins), before);
    Ok(())
}

#[test]
fn a_failed_attach_leaves_neither_direction() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("v")?;
    let obstacle = pins.links().join("tc-v-ingress");
    fs::create_dir(&obstacle)?;
    let error = attacher
        .attach_device(&mut bpf, index, "v", Role::Workload)
        .expect_err("a folder is in the place of the pin");
    assert!(error.to_string().contains("tc-v-ingress"), "{error}");
    for direction in [AttachType::TcxIngress, AttachType::TcxEgress] {
        assert!(sys::tcx_links(index, direction)?.is_empty(), "{direction:?}");
    }
    fs::remove_dir(obstacle)?;
    attacher.attach_device(&mut bpf, index, "v", Role::Workload)?;
    assert!(attacher.is_attached(index, "v"));
    Ok(())
}

#[test]
fn links_that_somebody_detached_are_noticed_and_made_again() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, attacher) = stage.load()?;
    let index = stage.add_device("v")?;
    attacher.attach_device(&mut bpf, index, "v", Role::Uplink)?;
    for direction in ["ingress", "egress"] {
        assert!(attacher.is_attached(index, "v"));
        let link = sys::open_pinned(&pins.links().join(format!("tc-v-{direction}")))?;
        sys::link_detach(link.as_fd())?;
        assert!(!attacher.is_attached(index, "v"), "{direction}");
        attacher.attach_device(&mut bpf, index, "v", Role::Uplink)?;
    }
    assert!(attacher.is_attached(index, "v"));
    Ok(())
}

#[test]
fn a_start_that_failed_takes_back_what_it_pinned_and_mounted() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, bpf, _) = stage.load()?;
    assert!(pins.holds_maps());
    drop(bpf);
    cleanup::undo(pins);
    assert!(!stage.root().exists(), "the folder was made with the mount");
    Ok(())
}

#[test]
fn cleanup_leaves_a_bpffs_that_somebody_else_mounted() -> Result<()> {
    let stage = Stage::new()?;
    let root = stage.root();
    fs::create_dir(&root)?;
    output(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&root))?;
    drop(stage.load()?);
    let removed = clean_up(&stage, &[])?;
    assert!(removed.maps > 0);
    assert!(root.exists() && !root.join("v1").exists());
    output(Command::new("umount").arg(&root))?;
    Ok(())
}

#[test]
fn cleanup_keeps_away_from_ordinary_files() -> Result<()> {
    let stage = Stage::new()?;
    let folder = stage.root().join("v1/maps");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("precious"), "")?;
    let error = clean_up(&stage, &[]).expect_err("this is no pin folder");
    assert!(error.to_string().contains("is not on a bpffs"), "{error}");
    assert!(folder.join("precious").exists());
    Ok(())
}

fn clean_up(stage: &Stage, devices: &[(u32, String)]) -> Result<cleanup::Removed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(cleanup::run(&stage.root(), devices))?)
}

/// What `tc` shows of the filters of a device, both ways.
fn filters(stage: &Stage, device: &str) -> Result<String> {
    let of = |direction| stage.tc(&format!("filter show dev {device} {direction}"));
    Ok(of("ingress")? + &of("egress")?)
}

fn has_clsact(stage: &Stage, device: &str) -> Result<bool> {
    Ok(stage.tc(&format!("qdisc show dev {device}"))?.contains("clsact"))
}

#[test]
fn clsact_filters_are_ours_alone_to_remove_and_the_qdisc_if_we_made_it() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, _) = stage.load()?;
    let attacher = Attacher::new(&pins, false, true);
    let indexes = [
        stage.add_device("made")?,
        stage.add_device("found")?,
        stage.add_device("shared")?,
    ];
    stage.tc("qdisc add dev found clsact")?;
    for (index, device) in indexes.into_iter().zip(["made", "found", "shared"]) {
        attacher.attach_device(&mut bpf, index, device, Role::Workload)?;
        // In place of the first, also in another role.
        attacher.attach_device(&mut bpf, index, device, Role::Uplink)?;
        let shown = filters(&stage, device)?;
        assert!(
            shown.contains("fl_ingress_uplink") && shown.contains("fl_egress"),
            "{shown}"
        );
        assert!(!shown.contains("fl_ingress_workload"), "{shown}");
    }
    let stranger = stage.root().join("stranger");
    let program: &mut SchedClassifier = load::program(&mut bpf, "fl_egress")?;
    sys::pin(program.fd()?.as_fd(), &stranger)?;
    stage.tc(&format!(
        "filter add dev shared ingress prio 2 bpf direct-action object-pinned {}",
        stranger.display()
    ))?;
    fs::remove_file(stranger)?;
    assert_eq!(attacher.known_devices(), ["found", "made", "shared"]);
    attacher.detach_device("found")?;
    assert_eq!(filters(&stage, "found")?, "");
    assert_eq!(attacher.known_devices(), ["made", "shared"]);

    drop((attacher, bpf, pins));
    let devices: Vec<(u32, String)> = indexes
        .into_iter()
        .zip(["made", "found", "shared"].map(str::to_owned))
        .collect();
    assert_eq!(clean_up(&stage, &devices)?.filtered_devices, 2);
    assert!(!has_clsact(&stage, "made")?);
    assert!(has_clsact(&stage, "found")?, "it was there before");
    assert!(has_clsact(&stage, "shared")?, "somebody else's filter is on it");
    let left = filters(&stage, "shared")?;
    assert!(
        left.contains("stranger") && !left.contains("fl_ingress"),
        "{left}"
    );
    Ok(())
}

#[test]
fn an_agent_that_attaches_in_another_way_takes_the_place_of_the_earlier_one() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, by_links) = stage.load()?;
    let by_filters = Attacher::new(&pins, false, true);
    let index = stage.add_device("v")?;
    for _ in 0..2 {
        by_filters.attach_device(&mut bpf, index, "v", Role::Workload)?;
        assert!(filters(&stage, "v")?.contains("fl_egress"));
        assert_eq!(links(&pins), []);
        by_links.attach_device(&mut bpf, index, "v", Role::Workload)?;
        assert!(by_links.is_attached(index, "v"));
        assert_eq!(filters(&stage, "v")?, "");
    }
    by_filters.attach_device(&mut bpf, index, "v", Role::Workload)?;
    by_links.detach_device("v")?;
    assert_eq!(filters(&stage, "v")?, "", "whoever attached it");
    Ok(())
}

#[test]
fn a_device_that_is_gone_is_told_as_such_by_clsact_too() -> Result<()> {
    let stage = Stage::new()?;
    let (pins, mut bpf, _) = stage.load()?;
    let error = Attacher::new(&pins, false, true)
        .attach_device(&mut bpf, 4242, "never", Role::Workload)
        .expect_err("there is no such device");
    assert!(matches!(error, AttachError::DeviceGone { .. }), "{error}");
    Ok(())
}

/// A plain hash where an LRU one should be never forgets; an array without `BPF_F_MMAPABLE` cannot be mapped.
#[test]
fn pinned_maps_of_another_type_or_with_other_flags_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    drop(stage.load()?);
    for (name, make, words) in [
        (
            "SOCKETS4",
            "type hash key 16 value 8 entries 65536",
            ["the type Hash", "LruHash"],
        ),
        (
            "SERVICES",
            "type array key 4 value 8 entries 16",
            ["the flags 0x0", "0x400"],
        ),
        (
            "FRONTENDS4",
            "type hash key 8 value 8 entries 17",
            ["elements: 17", "16"],
        ),
    ] {
        let pin = stage.root().join("v1/maps").join(name);
        let aside = stage.root().join("v1/maps/ASIDE");
        fs::rename(&pin, &aside)?;
        let mut create = Command::new("bpftool");
        create.args(["map", "create"]).arg(&pin).args(make.split(' '));
        output(create.args(["name", name]))?;
        let error = stage
            .load()
            .err()
            .with_context(|| format!("{name} was taken over"))?;
        for word in words.into_iter().chain([name, "fairlead cleanup"]) {
            assert!(error.to_string().contains(word), "{error}");
        }
        fs::rename(&aside, &pin)?;
    }
    // The refused attempts have changed nothing.
    drop(stage.load()?);
    Ok(())
}

#[test]
fn no_bpffs_is_mounted_over_files() -> Result<()> {
    let stage = Stage::new()?;
    fs::create_dir(stage.root())?;
    fs::write(stage.root().join("file"), "precious")?;
    let error = PinFolder::open(&stage.root()).expect_err("the file would be hidden");
    assert!(matches!(error, PinError::NotEmpty { .. }), "{error}");
    assert_eq!(fs::read_to_string(stage.root().join("file"))?, "precious");
    Ok(())
}

#[test]
fn a_second_agent_on_a_pin_folder_is_told_who_has_it() -> Result<()> {
    let stage = Stage::new()?;
    let first = PinFolder::open(&stage.root())?;
    let error = PinFolder::open(&stage.root()).expect_err("the folder is locked");
    assert!(
        matches!(error, PinError::Locked { holder: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    drop(first);
    PinFolder::open(&stage.root())?;
    Ok(())
}
