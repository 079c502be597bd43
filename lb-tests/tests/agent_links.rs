//! Links, pins and pinned maps of the agent, on devices of a namespace that each test has for itself.

use std::{
    fs,
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use lb_common::datapath::Role;
use lb_userspace::{
    attach::{Attacher, list_devices},
    load::{self, Sizes},
    object,
    pins::{PinError, PinFolder},
    probe,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Small maps: nothing is sent here.
const SIZES: Sizes = Sizes {
    flows: 16,
    frontends: 16,
    services: 16,
    backends: 16,
    maglev_slots: 16,
};

/// A network namespace, which the calling thread is in, and a folder whose `pins` is a pin folder of its own.
struct Stage {
    name: String,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("links-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let this = Self {
            folder: tempfile::tempdir()?,
            name,
        };
        let namespace = fs::File::open(format!("/run/netns/{}", this.name))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(this)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("pins")
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let words: Vec<&str> = ["-n", &self.name]
            .into_iter()
            .chain(arguments.split(' '))
            .collect();
        run("ip", &words)
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
        let bpf = load::load(object::bytes()?, &pins, &SIZES, &features, 0)?;
        let attacher = Attacher::new(&pins, true);
        Ok((pins, bpf, attacher))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The bpffs that the pin folder mounted, if the test came so far; the rest goes with it.
        let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .context(program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
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
    assert!(
        matches!(error, lb_userspace::attach::AttachError::DeviceGone { .. }),
        "{error}"
    );
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
        let path = pin.to_str().context("a path of text")?;
        let words_of_map: Vec<&str> = ["map", "create", path]
            .into_iter()
            .chain(make.split(' '))
            .chain(["name", name])
            .collect();
        run("bpftool", &words_of_map)?;
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
