//! The node's side of the main loop: devices are attached to when they appear and forgotten when they go.
//!
//! Attaching to one device takes the kernel some 10 ms for each direction (it waits until nobody runs what was there
//! before), so there is a queue, and [`Node::work`] does one thing at a time: a change of endpoints waits for one device
//! at most, not for the five hundred of a node that boots.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::Ebpf;
use futures_util::FutureExt as _;
use lb_common::{
    abi::{Uplink, XdpMode, XdpWhy},
    datapath::Role,
};
use tracing::{debug, info, warn};

use super::{RETRY, RunError, role_name};
use crate::{
    attach::{AttachError, Attacher},
    cli::config::Config,
    desired::NodeFacts,
    devices::{Device, DeviceError, Devices, Inventory, Overrides, role},
    load,
    pins::PinFolder,
    plan::Family,
};

/// Looks at devices and addresses are at least that far apart: many devices that appear at once are seen together.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How often links are looked at though nothing was heard: nobody tells when somebody else detaches them.
const AUDIT_INTERVAL: Duration = Duration::from_secs(10);

/// The devices of this node and the programs on them.
pub(super) struct Node {
    bpf: Ebpf,
    attacher: Attacher,
    devices: Devices,
    overrides: Overrides,
    facts: NodeFacts,
    /// Indexes of the uplinks.
    uplink_indexes: Vec<u32>,
    inventory: Inventory,
    /// By device index: the name and role that it was attached with.
    attached: BTreeMap<u32, (String, Role)>,
    /// By device index: why it has the role that it has.
    reasons: BTreeMap<u32, &'static str>,
    /// By index of an uplink: its XDP mode, and why it has that one.
    xdp: BTreeMap<u32, (XdpMode, XdpWhy)>,
    /// By device index: the name under which it was told that the device has no role, why, and whether as a warning.
    left_alone: BTreeMap<u32, (String, &'static str, bool)>,
    /// By device index: what went wrong with the device last, so that it is told once, and when to try again.
    failed: BTreeMap<u32, (String, Instant)>,
    /// Devices to attach to, uplinks first.
    queue: VecDeque<(Device, Role)>,
    /// When the devices were looked at last, and when to look again.
    looked: Instant,
    look_at: Option<Instant>,
    audit_at: Instant,
    /// The devices that were there at the start were attached to, and those of earlier agents that are gone forgotten.
    started: bool,
}

impl Node {
    /// Finds out about the node; nothing is attached yet.
    pub(super) async fn start(config: &Config, bpf: Ebpf, attacher: Attacher) -> Result<Self, RunError> {
        let devices = Devices::start()?;
        let inventory = devices.inventory().await?;
        let now = Instant::now();
        let mut this = Self {
            bpf,
            attacher,
            devices,
            overrides: config.overrides.clone(),
            facts: facts(config, &inventory),
            uplink_indexes: uplinks(config, &inventory),
            inventory,
            attached: BTreeMap::new(),
            reasons: BTreeMap::new(),
            xdp: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            failed: BTreeMap::new(),
            queue: VecDeque::new(),
            looked: now,
            look_at: None,
            audit_at: now + AUDIT_INTERVAL,
            started: false,
        };
        this.compare(config);
        Ok(this)
    }

    /// What the desired state needs to know of the node.
    pub(super) fn facts(&self) -> NodeFacts {
        self.facts.clone()
    }

    /// The loaded programs.
    pub(super) const fn programs(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }

    /// The source that packets get which are sent out of a device, by the device's index; 0 for devices without an
    /// address, which is that of the first uplink.
    pub(super) fn sources(&self) -> BTreeMap<(Family, u32), IpAddr> {
        let mut sources = self.inventory.sources.clone();
        for family in [Family::V4, Family::V6] {
            let first = self
                .uplink_indexes
                .iter()
                .find_map(|index| sources.get(&(family, *index)));
            if let Some(addr) = first.copied() {
                sources.insert((family, 0), addr);
            }
        }
        sources
    }

    /// What the XDP programs need to know of the uplinks, by the device's index.
    pub(super) fn uplinks(&self) -> BTreeMap<u32, Uplink> {
        let known = |index: &u32| {
            let device = self.inventory.devices.get(index)?;
            let (mode, why) = self.xdp.get(index).copied().unwrap_or_default();
            Some((*index, Uplink::new(device.hardware, mode, why)))
        };
        self.uplink_indexes.iter().filter_map(known).collect()
    }

    /// How many devices are attached to.
    pub(super) fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Network namespaces behind workload devices, as the kernel numbers them for this one, by the devices' indexes.
    pub(super) fn pod_namespaces(&self) -> BTreeMap<u32, i32> {
        let devices = self.inventory.devices.values();
        devices
            .filter(|device| matches!(role(device, &self.overrides), Ok((Role::Workload, _))))
            .filter_map(|device| Some((device.index, device.peer_namespace?)))
            .collect()
    }

    /// Attaches to the cgroup, or detaches from it where nobody's sockets are served, and pins the programs, so that
    /// tools find them.
    pub(super) fn attach_cgroup(&mut self, config: &Config, pins: &PinFolder) -> Result<(), RunError> {
        match &config.cgroup {
            Some(cgroup) => self.attacher.attach_cgroup(&mut self.bpf, cgroup)?,
            None => self.attacher.detach_cgroup()?,
        }
        load::pin_programs(&mut self.bpf, pins, config.socket_lb)?;
        Ok(())
    }

    /// Waits until devices or addresses have changed; [`Self::work`] will look at them.
    pub(super) async fn changed(&mut self) -> Result<(), DeviceError> {
        self.devices.changed().await?;
        self.look_by(self.looked + LOOK_INTERVAL);
        Ok(())
    }

    /// Takes note of what [`Self::changed`] would tell at once: an event of the source may always be ready first.
    ///
    /// # Errors
    ///
    /// As [`Self::changed`].
    pub(super) fn listen(&mut self) -> Result<(), DeviceError> {
        self.changed().now_or_never().unwrap_or(Ok(()))
    }

    /// When there is work though nothing was heard. In the past: at once.
    pub(super) fn next_work(&self) -> Instant {
        if self.queue.is_empty() && self.started {
            self.look_at.unwrap_or(self.audit_at).min(self.audit_at)
        } else {
            Instant::now()
        }
    }

    /// Does one thing that is due. Says whether [`Self::facts`], [`Self::sources`] or [`Self::uplinks`] may have changed.
    pub(super) async fn work(&mut self, config: &Config) -> bool {
        let now = Instant::now();
        if self.audit_at <= now {
            self.audit_at = now + AUDIT_INTERVAL;
            self.audit();
            if self.try_xdp_again(config) {
                return true;
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(config).await;
            return true;
        }
        if let Some((device, role)) = self.queue.pop_front() {
            self.attach(&device, role);
            return self.attach_xdp(&device, role, config);
        } else if !self.started {
            self.forget_former_devices();
            self.started = true;
        }
        false
    }

    /// Whether everything is done that the start asks for.
    pub(super) const fn is_started(&self) -> bool {
        self.started
    }

    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |already| already.min(at)));
    }

    async fn look(&mut self, config: &Config) {
        self.looked = Instant::now();
        self.look_at = None;
        match self.devices.inventory().await {
            Ok(inventory) => self.inventory = inventory,
            // A list that was interrupted by changes is followed by word of these changes; any other is tried again.
            Err(failure) => {
                debug!("{failure}");
                self.look_by(self.looked + RETRY);
                return;
            }
        }
        self.facts = facts(config, &self.inventory);
        self.uplink_indexes = uplinks(config, &self.inventory);
        self.compare(config);
    }

    /// Compares attachments with what the inventory says: what is gone is forgotten at once, what is new waits for its
    /// turn.
    fn compare(&mut self, config: &Config) {
        self.forget_gone_devices();
        self.follow_renames();
        let present = &self.inventory.devices;
        self.reasons.retain(|index, _| present.contains_key(index));
        self.left_alone.retain(|index, _| present.contains_key(index));
        self.failed.retain(|index, _| present.contains_key(index));
        self.xdp.retain(|index, _| present.contains_key(index));
        self.queue.clear();
        let devices: Vec<Device> = self.inventory.devices.values().cloned().collect();
        for device in devices {
            match role(&device, &config.overrides) {
                Ok((role, why)) => {
                    self.reasons.insert(device.index, why);
                    self.enqueue(device, role);
                }
                Err(reason) => self.leave_alone(&device, reason),
            }
        }
    }

    fn enqueue(&mut self, device: Device, role: Role) {
        let is_as_wanted = self
            .attached
            .get(&device.index)
            .is_some_and(|(name, has)| *name == device.name && *has == role);
        if is_as_wanted {
            return;
        }
        if let Some((_, retry)) = self.failed.get(&device.index)
            && *retry > Instant::now()
        {
            self.look_by(*retry);
            return;
        }
        match role {
            Role::Uplink => self.queue.push_front((device, role)),
            Role::Workload => self.queue.push_back((device, role)),
        }
    }

    fn attach(&mut self, device: &Device, role: Role) {
        match self
            .attacher
            .attach_device(&mut self.bpf, device.index, &device.name, role)
        {
            Ok(()) => {
                let why = self.reasons.get(&device.index).copied();
                info!(device = device.name, role = role_name(role), why, "attached");
                self.left_alone.remove(&device.index);
                self.failed.remove(&device.index);
                self.attached.insert(device.index, (device.name.clone(), role));
            }
            // Word of it is on its way, and then it is forgotten.
            Err(AttachError::DeviceGone { .. }) => {
                debug!(device = device.name, "the device went away");
                if !self.attached.values().any(|(name, _)| *name == device.name) {
                    self.forget(&device.name);
                }
                self.look_by(self.looked + LOOK_INTERVAL);
            }
            Err(failure) => self.note_failure(device, &failure),
        }
    }

    /// Brings a device that the tc programs are attached to to its XDP mode; says whether it has another one now.
    fn attach_xdp(&mut self, device: &Device, role: Role, config: &Config) -> bool {
        if !self.attached.contains_key(&device.index) {
            return false;
        }
        let wanted = match role {
            Role::Uplink => config.xdp.choose(device),
            Role::Workload => (XdpMode::Off, XdpWhy::NotYet),
        };
        let index = device.index;
        let has = match self
            .attacher
            .attach_xdp(&mut self.bpf, index, &device.name, wanted)
        {
            Ok(has) => has,
            Err(failure) => {
                debug!(device = device.name, "{failure}");
                (XdpMode::Off, XdpWhy::Refused)
            }
        };
        if role == Role::Workload {
            return self.xdp.remove(&index).is_some();
        }
        let (mode, why) = has;
        if self.xdp.insert(index, has) == Some(has) {
            return false;
        }
        let (xdp, why) = (mode.name(), why.text());
        if mode == wanted.0 {
            info!(device = device.name, xdp, why, "XDP mode");
        } else {
            warn!(
                device = device.name,
                xdp,
                wanted = wanted.0.name(),
                why,
                "XDP mode; tc does the work"
            );
        }
        true
    }

    /// Uplinks that had somebody else's XDP program may have lost it; says whether one has another mode now.
    fn try_xdp_again(&mut self, config: &Config) -> bool {
        let occupied = self.xdp.iter().filter(|(_, (_, why))| *why == XdpWhy::Occupied);
        let devices: Vec<Device> = occupied
            .filter_map(|(index, _)| self.inventory.devices.get(index).cloned())
            .collect();
        let mut changed = false;
        for device in devices {
            changed |= self.attach_xdp(&device, Role::Uplink, config);
        }
        changed
    }

    fn note_failure(&mut self, device: &Device, failure: &AttachError) {
        let retry = Instant::now() + RETRY;
        self.look_by(retry);
        let text = failure.to_string();
        let told = self.failed.insert(device.index, (text.clone(), retry));
        if told.is_none_or(|(told, _)| told != text) {
            warn!(
                device = device.name,
                "{text}; its packets are not translated by this agent; trying again"
            );
        }
    }

    /// Devices whose links are not where they belong are attached to anew.
    fn audit(&mut self) {
        let before = self.attached.len();
        self.attached.retain(|index, (name, _)| {
            let (xdp, _) = self.xdp.get(index).copied().unwrap_or_default();
            let attached =
                self.attacher.is_attached(*index, name) && self.attacher.has_xdp(*index, name, xdp);
            if !attached {
                warn!(
                    device = name,
                    "somebody detached the programs; attaching them again"
                );
            }
            attached
        });
        if self.attached.len() < before {
            self.look_by(self.looked);
        }
    }

    fn forget_gone_devices(&mut self) {
        let present = &self.inventory.devices;
        let gone: Vec<String> = self
            .attached
            .extract_if(.., |index, _| !present.contains_key(index))
            .map(|(_, (name, _))| name)
            .collect();
        for name in gone {
            self.forget(&name);
            info!(device = name, "the device is gone");
        }
    }

    /// Forgets devices of earlier agents that are gone, or have no role any more. One that could not be attached to
    /// keeps what it has.
    fn forget_former_devices(&mut self) {
        let present = &self.inventory.devices;
        let failed = self.failed.keys().filter_map(|index| present.get(index));
        let mut kept: Vec<&str> = failed.map(|device| device.name.as_str()).collect();
        kept.extend(self.attached.values().map(|(name, _)| name.as_str()));
        for device in self.attacher.known_devices() {
            if !kept.contains(&device.as_str()) {
                self.forget(&device);
            }
        }
        if !self.attached.values().any(|(_, role)| *role == Role::Uplink) {
            warn!(
                "no uplink was found: services are not reachable from outside; name the device with --uplink"
            );
        }
    }

    /// The links of a device that has another name now stay where they are; their pins follow the name.
    fn follow_renames(&mut self) {
        let (attacher, devices) = (&self.attacher, &self.inventory.devices);
        self.attached.retain(|index, (name, _)| {
            let Some(device) = devices.get(index).filter(|device| device.name != *name) else {
                return true;
            };
            let old = std::mem::replace(name, device.name.clone());
            match attacher.rename_device(*index, &old, name) {
                Ok(attached) => {
                    info!(device = old, to = name, "the device was renamed");
                    attached
                }
                Err(failure) => {
                    warn!(device = old, to = name, "{failure}");
                    false
                }
            }
        });
    }

    fn leave_alone(&mut self, device: &Device, reason: &'static str) {
        if let Some((name, _)) = self.attached.remove(&device.index) {
            self.forget(&name);
            self.xdp.remove(&device.index);
            info!(device = name, reason, "detached");
        }
        // It carries an address, so somebody may expect services to be reached through it.
        let matters = device.addressed && !device.ethernet && !device.loopback;
        let told = (device.name.clone(), reason, matters);
        if self.left_alone.get(&device.index) == Some(&told) {
            return;
        }
        if matters {
            warn!(
                device = device.name,
                reason, "packets of this device are not translated"
            );
        } else {
            debug!(device = device.name, reason, "left alone");
        }
        self.left_alone.insert(device.index, told);
    }

    fn forget(&self, name: &str) {
        if let Err(failure) = self.attacher.detach_device(name) {
            warn!(device = name, "{failure}");
        }
    }
}

/// Indexes of the node's uplinks.
fn uplinks(config: &Config, inventory: &Inventory) -> Vec<u32> {
    let is_uplink = |device: &&Device| matches!(role(device, &config.overrides), Ok((Role::Uplink, _)));
    let uplinks = inventory.devices.values().filter(is_uplink);
    uplinks.map(|device| device.index).collect()
}

/// The node's name, and the addresses that NodePorts are served on: those of its uplinks, or those on any device that
/// the operator's networks contain.
fn facts(config: &Config, inventory: &Inventory) -> NodeFacts {
    let uplinks = uplinks(config, inventory);
    let addresses = inventory
        .addresses
        .iter()
        .filter(|(index, addr)| {
            if config.nodeport_addresses.is_empty() {
                uplinks.contains(index)
            } else {
                config.names_for_node_ports(addr)
            }
        })
        .map(|(_, addr)| *addr)
        .collect();
    NodeFacts {
        name: config.node_name.clone(),
        zone: None,
        addresses,
        own: inventory.addresses.iter().map(|(_, addr)| *addr).collect(),
    }
}
