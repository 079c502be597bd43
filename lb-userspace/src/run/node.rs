//! The node's side of the main loop: devices are attached to when they appear and forgotten when they go.

use std::{collections::BTreeMap, time::Instant};

use aya::Ebpf;
use lb_common::datapath::Role;
use tracing::{debug, info, warn};

use super::{RETRY, RunError, role_name};
use crate::{
    attach::{AttachError, Attacher},
    cli::config::Config,
    desired::NodeFacts,
    devices::{Device, DeviceError, Devices, Inventory, role},
    load,
    pins::PinFolder,
};

/// The devices of this node and the programs on them.
pub(super) struct Node {
    bpf: Ebpf,
    attacher: Attacher,
    devices: Devices,
    facts: NodeFacts,
    /// By device index: the name and role that it was attached with.
    attached: BTreeMap<u32, (String, Role)>,
    /// By device index: the name under which it was told that the device has no role, why, and whether as a warning.
    left_alone: BTreeMap<u32, (String, &'static str, bool)>,
    inventory: Inventory,
    /// By device index: what went wrong with the device last, so that it is told once.
    failed: BTreeMap<u32, String>,
    /// When to look again though nothing was heard.
    retry: Option<Instant>,
}

impl Node {
    /// Finds out about the node; nothing is attached yet.
    pub(super) async fn start(
        config: &Config,
        bpf: Ebpf,
        pins: &PinFolder,
        tcx: bool,
    ) -> Result<Self, RunError> {
        let devices = Devices::start()?;
        let inventory = devices.inventory().await?;
        Ok(Self {
            bpf,
            attacher: Attacher::new(pins, tcx),
            devices,
            facts: facts(config, &inventory),
            attached: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            inventory,
            failed: BTreeMap::new(),
            retry: None,
        })
    }

    /// What the desired state needs to know of the node.
    pub(super) fn facts(&self) -> NodeFacts {
        self.facts.clone()
    }

    /// Names and roles of the devices that are attached to.
    pub(super) fn attached(&self) -> impl Iterator<Item = &(String, Role)> {
        self.attached.values()
    }

    /// When to look again though nothing was heard: after a failure.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    /// Waits until devices or addresses may have changed.
    pub(super) async fn changed(&mut self) -> Result<(), DeviceError> {
        self.devices.changed().await
    }

    /// Attaches to the cgroup and to all devices, forgets devices of earlier agents that are gone, and pins the
    /// programs that run now.
    pub(super) async fn attach_all(&mut self, config: &Config, pins: &PinFolder) -> Result<(), RunError> {
        self.attacher.attach_cgroup(&mut self.bpf, &config.cgroup)?;
        self.attach_devices(config);
        for device in self.attacher.known_devices() {
            if !self.attached.values().any(|(name, _)| *name == device) {
                self.forget(&device);
            }
        }
        load::pin_programs(&mut self.bpf, pins)?;
        // What happened since the first look.
        self.look_again(config).await;
        if !self.attached.values().any(|(_, role)| *role == Role::Uplink) {
            warn!(
                "no uplink was found: services are not reachable from outside; name the device with --uplink"
            );
        }
        Ok(())
    }

    /// Looks at devices and addresses again and does what the changes ask for.
    pub(super) async fn look_again(&mut self, config: &Config) {
        self.retry = None;
        match self.devices.inventory().await {
            Ok(inventory) => self.inventory = inventory,
            // A list that was interrupted by changes is followed by word of these changes; any other is tried again.
            Err(failure) => {
                debug!("{failure}");
                self.retry = Some(Instant::now() + RETRY);
                return;
            }
        }
        self.facts = facts(config, &self.inventory);
        self.attach_devices(config);
    }

    /// Brings attachments to what the inventory says.
    fn attach_devices(&mut self, config: &Config) {
        self.forget_gone_devices();
        self.follow_renames();
        let present = &self.inventory.devices;
        self.left_alone.retain(|index, _| present.contains_key(index));
        self.failed.retain(|index, _| present.contains_key(index));
        let devices: Vec<Device> = self.inventory.devices.values().cloned().collect();
        for device in devices {
            match role(&device, &config.overrides) {
                Ok(role) => self.attach(&device, role),
                Err(reason) => self.leave_alone(&device, reason),
            }
        }
    }

    fn forget_gone_devices(&mut self) {
        let gone: Vec<u32> = self
            .attached
            .keys()
            .filter(|index| !self.inventory.devices.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            if let Some((name, _)) = self.attached.remove(&index) {
                self.forget(&name);
                info!(device = name, "the device is gone");
            }
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

    fn attach(&mut self, device: &Device, role: Role) {
        let wanted = (device.name.clone(), role);
        if self.attached.get(&device.index) == Some(&wanted) {
            return;
        }
        match self
            .attacher
            .attach_device(&mut self.bpf, device.index, &device.name, role)
        {
            Ok(()) => {
                info!(device = device.name, role = role_name(role), "attached");
                self.left_alone.remove(&device.index);
                self.failed.remove(&device.index);
                self.attached.insert(device.index, wanted);
            }
            Err(AttachError::DeviceGone { .. }) => {
                debug!(device = device.name, "the device went away");
                // One direction may have been attached before it went.
                self.forget(&device.name);
            }
            Err(failure) => self.note_failure(device, &failure),
        }
    }

    fn note_failure(&mut self, device: &Device, failure: &AttachError) {
        self.retry = Some(Instant::now() + RETRY);
        let text = failure.to_string();
        if self.failed.get(&device.index) != Some(&text) {
            warn!(
                device = device.name,
                "{text}; its packets are not translated; trying again"
            );
            self.failed.insert(device.index, text);
        }
    }

    fn leave_alone(&mut self, device: &Device, reason: &'static str) {
        if let Some((name, _)) = self.attached.remove(&device.index) {
            self.forget(&name);
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

/// The node's name, and the addresses that NodePorts are served on: those of its uplinks, or those on any device that
/// the operator's networks contain.
fn facts(config: &Config, inventory: &Inventory) -> NodeFacts {
    let is_uplink = |index: &u32| {
        inventory
            .devices
            .get(index)
            .is_some_and(|device| role(device, &config.overrides) == Ok(Role::Uplink))
    };
    let addresses = inventory
        .addresses
        .iter()
        .filter(|(index, addr)| {
            if config.nodeport_addresses.is_empty() {
                is_uplink(index)
            } else {
                config.serves_node_ports(addr)
            }
        })
        .map(|(_, addr)| *addr)
        .collect();
    NodeFacts {
        name: config.node_name.clone(),
        addresses,
    }
}
