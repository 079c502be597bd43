//! The devices of the node and its addresses, found and followed by netlink.

mod follow;
mod role;
mod xdp;

pub use self::{
    follow::{DeviceError, Devices, Inventory},
    role::{Device, Kind, Overrides, Pattern, role},
    xdp::{XdpRule, XdpRules},
};
