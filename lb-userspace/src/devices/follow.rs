//! Netlink: what devices and addresses there are, and word of every change.
//!
//! A change is not taken from its message: the message only says that it is time to look again. So a message that was
//! lost or came out of order does no harm, and renames, new devices under an old name and devices that vanish are all
//! the same thing: another inventory.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    },
};
use thiserror::Error;
use tokio::task::JoinHandle;

use super::{Device, Kind};
use crate::plan::Family;

/// Why devices cannot be followed.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The socket could not be opened.
    #[error("open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A list could not be read.
    #[error("list the node's {what}: {source}")]
    List {
        /// "devices" or "addresses".
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The socket was closed.
    #[error("the netlink socket was closed")]
    Closed,
}

/// The devices and addresses of the node at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Devices by index.
    pub devices: BTreeMap<u32, Device>,
    /// Global addresses of the node with the index of the device that carries each.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// The address that a device's packets get as their source if nothing else is asked for: its first primary one.
    pub sources: BTreeMap<(Family, u32), IpAddr>,
}

/// Follows the devices and addresses of the network namespace that it was started in.
pub struct Devices {
    handle: Handle,
    changes: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
}

impl Devices {
    /// Opens the netlink socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Open`].
    pub fn start() -> Result<Self, DeviceError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, messages) = new_multicast_connection(&groups).map_err(DeviceError::Open)?;
        let connection = tokio::spawn(connection);
        Ok(Self {
            handle,
            changes: messages.map(drop).boxed(),
            connection,
        })
    }

    /// Waits for word of a change. Several changes may be told as one. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Closed`]: no further change will be told.
    pub async fn changed(&mut self) -> Result<(), DeviceError> {
        self.changes.next().await.ok_or(DeviceError::Closed)?;
        // What has come in meanwhile is answered by the same look.
        while let Some(Some(())) = futures_util::FutureExt::now_or_never(self.changes.next()) {}
        Ok(())
    }

    /// Looks at all devices and addresses.
    ///
    /// # Errors
    ///
    /// [`DeviceError::List`]. A device that goes away while it is listed is no error.
    pub async fn inventory(&self) -> Result<Inventory, DeviceError> {
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| DeviceError::List {
                what: "addresses",
                source,
            })?;
        let links: Vec<LinkMessage> =
            self.handle
                .link()
                .get()
                .execute()
                .try_collect()
                .await
                .map_err(|source| DeviceError::List {
                    what: "devices",
                    source,
                })?;
        Ok(inventory(&links, &addresses))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn inventory(links: &[LinkMessage], addresses: &[AddressMessage]) -> Inventory {
    let mut inventory = Inventory::default();
    // By device: whether one of its addresses comes with a network.
    let mut addressed: BTreeMap<u32, bool> = BTreeMap::new();
    for message in addresses {
        if let Some(address) = global_address(message) {
            let full_length = if address.is_ipv4() { 32 } else { 128 };
            *addressed.entry(message.header.index).or_default() |= message.header.prefix_len < full_length;
            inventory.addresses.insert((message.header.index, address));
            if is_primary(message) {
                let place = (Family::of(address), message.header.index);
                // The kernel lists them in the order in which it prefers them.
                inventory.sources.entry(place).or_insert(address);
            }
        }
    }
    for link in links {
        if let Some(device) = device(link, addressed.get(&link.header.index).copied()) {
            inventory.devices.insert(device.index, device);
        }
    }
    for link in links {
        stand(link, &mut inventory.devices);
    }
    inventory
}

/// Tells the devices that a device is a port of, or stands on, what that makes of them.
fn stand(link: &LinkMessage, devices: &mut BTreeMap<u32, Device>) {
    let find = |wanted: fn(&LinkAttribute) -> Option<u32>| link.attributes.iter().find_map(wanted);
    let Some(kind) = devices.get(&link.header.index).map(|device| device.kind) else {
        return;
    };
    let controller = find(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    if matches!(kind, Kind::Physical | Kind::Upper)
        && let Some(bridge) = controller.and_then(|index| devices.get_mut(&index))
    {
        bridge.leads_out = true;
    }
    let lower = find(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    // An index of another network namespace says nothing here.
    let is_elsewhere = find(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(_) => Some(0),
        _ => None,
    });
    if kind == Kind::Upper
        && is_elsewhere.is_none()
        && let Some(lower) = lower.and_then(|index| devices.get_mut(&index))
    {
        lower.stacked = true;
    }
}

/// Whether a device may use the address for packets of its own choice.
fn is_primary(message: &AddressMessage) -> bool {
    let unfit =
        AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
    !message.header.flags.intersects(unfit)
}

/// The address of a message, if others can reach the node by it.
fn global_address(message: &AddressMessage) -> Option<IpAddr> {
    if message.header.scope != AddressScope::Universe
        || !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6)
    {
        return None;
    }
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On a point-to-point device "address" is the peer's, and "local" ours.
    let local = find(|attribute| {
        if let AddressAttribute::Local(ip) = attribute {
            Some(*ip)
        } else {
            None
        }
    });
    let plain = find(|attribute| {
        if let AddressAttribute::Address(ip) = attribute {
            Some(*ip)
        } else {
            None
        }
    });
    local.or(plain).filter(|ip| !ip.is_loopback())
}

/// The device of a message. `addressed`: none if it carries no address, else whether one comes with a network.
fn device(link: &LinkMessage, addressed: Option<bool>) -> Option<Device> {
    let mut name = None;
    let mut kind = Kind::Physical;
    let mut port = false;
    let mut peer_namespace = None;
    let mut hardware = [0; 6];
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => hardware = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Controller(controller) => port = *controller != 0,
            LinkAttribute::LinkNetNsId(number) => peer_namespace = Some(*number),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(what) = info {
                        kind = device_kind(what);
                    }
                }
            }
            _ => {}
        }
    }
    Some(Device {
        index: link.header.index,
        name: name?,
        hardware,
        kind,
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        loopback: link.header.link_layer_type == LinkLayerType::Loopback,
        peer_namespace,
        port,
        addressed: addressed.is_some(),
        networked: addressed == Some(true),
        // Other devices tell.
        leads_out: false,
        stacked: false,
    })
}

fn device_kind(kind: &InfoKind) -> Kind {
    match kind {
        InfoKind::Veth => Kind::Veth,
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Vlan | InfoKind::Bond | InfoKind::MacVlan | InfoKind::Vxlan | InfoKind::Geneve => {
            Kind::Upper
        }
        InfoKind::Other(name) if name == "team" || name == "geneve" => Kind::Upper,
        _ => Kind::Other,
    }
}
