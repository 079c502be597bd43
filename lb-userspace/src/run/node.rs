//! The node's side of the main loop: devices are attached to when they appear and forgotten when they go.

use std::collections::BTreeMap;

use aya::Ebpf;
use lb_common::datapath::Role;
use tracing::{debug, info, warn};

use super::{RunError, log_device_error, role_name};
use crate::{
    attach::Attacher,
    cli::config::Config,
    desired::NodeFacts,
    devices::{Device, DeviceError, Devices, Inventory, role},
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
    /// By device index: the name under which it was told that the device has no role, and why.
    left_alone: BTreeMap<u32, (String, &'static str)>,
    inventory: Inventory,
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

    /// Waits until devices or addresses may have changed.
    pub(super) async fn changed(&mut self) -> Result<(), DeviceError> {
        self.devices.changed().await
    }

    /// Attaches to the cgroup and to all devices, and forgets devices of earlier agents that are gone.
    pub(super) async fn attach_all(&mut self, config: &Config) -> Result<(), RunError> {
        self.attacher.attach_cgroup(&mut self.bpf, &config.cgroup)?;
        self.attach_devices(config);
        for device in self.attacher.known_devices() {
            if !self.attached.values().any(|(name, _)| *name == device) {
                self.forget(&device);
            }
        }
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
        match self.devices.inventory().await {
            Ok(inventory) => self.inventory = inventory,
            // A list that was interrupted by changes is followed by word of these changes.
            Err(failure) => {
                debug!("{failure}");
                return;
            }
        }
        self.facts = facts(config, &self.inventory);
        self.attach_devices(config);
    }

    /// Brings attachments to what the inventory says.
    fn attach_devices(&mut self, config: &Config) {
        let gone: Vec<u32> = self
            .attached
            .iter()
            .filter(|(index, (name, _))| {
                self.inventory
                    .devices
                    .get(index)
                    .is_none_or(|device| device.name != *name)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            if let Some((name, _)) = self.attached.remove(&index) {
                self.forget(&name);
                info!(device = name, "the device is gone");
            }
        }
        self.left_alone
            .retain(|index, _| self.inventory.devices.contains_key(index));
        let devices: Vec<Device> = self.inventory.devices.values().cloned().collect();
        for device in devices {
            match role(&device, &config.overrides) {
                Ok(role) => self.attach(&device, role),
                Err(reason) => self.leave_alone(&device, reason),
            }
        }
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
                self.attached.insert(device.index, wanted);
            }
            Err(failure) => log_device_error(&device.name, &failure),
        }
    }

    fn leave_alone(&mut self, device: &Device, reason: &'static str) {
        if let Some((name, _)) = self.attached.remove(&device.index) {
            self.forget(&name);
            info!(device = name, reason, "detached");
        }
        let told = (device.name.clone(), reason);
        if self.left_alone.get(&device.index) != Some(&told) {
            debug!(device = device.name, reason, "left alone");
            self.left_alone.insert(device.index, told);
        }
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
