//! Connected UDP sockets whose endpoint is gone.

use std::{io, net::IpAddr};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use lb_common::abi::{Backend, Either, SocketKey, SocketPeer, from_ip, map, port_to_wire};
use tracing::{debug, info, warn};

use super::{
    SocketsError,
    diag::{ConnectedUdp, Diag},
};
use crate::pins::PinFolder;

/// Finds and closes them.
pub(super) struct LostSockets {
    v4: PerFamily<u32>,
    v6: PerFamily<[u32; 4]>,
    /// What went wrong last, so that it is told once.
    told: Option<String>,
}

/// The maps of one family.
struct PerFamily<A>
where
    SocketKey<A>: Pod,
    SocketPeer<A>: Pod,
    Backend<A>: Pod,
{
    sockets: HashMap<MapData, SocketKey<A>, SocketPeer<A>>,
    backends: Array<MapData, Backend<A>>,
}

impl<A> PerFamily<A>
where
    SocketKey<A>: Pod,
    SocketPeer<A>: Pod,
    Backend<A>: Pod,
{
    fn open(pins: &PinFolder, sockets: &str, backends: &str) -> Result<Self, SocketsError> {
        Ok(Self {
            sockets: open(pins, sockets, Map::LruHashMap)?,
            backends: open(pins, backends, Map::Array)?,
        })
    }

    /// Whether a hook sent the socket to the endpoint that is its peer now, and that endpoint serves no longer.
    fn has_lost(&self, key: &SocketKey<A>) -> bool {
        let Ok(peer) = self.sockets.get(key, 0) else {
            return false;
        };
        let backend = self.backends.get(&peer.backend, 0);
        backend.is_ok_and(|backend| !backend.is_serving(peer.generation))
    }
}

/// A pinned map.
pub(super) fn open<T>(
    pins: &PinFolder,
    name: &str,
    kind: impl FnOnce(MapData) -> Map,
) -> Result<T, SocketsError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let path = pins.maps().join(name);
    MapData::from_pin(&path)
        .and_then(|data| T::try_from(kind(data)))
        .map_err(|source| SocketsError::Map { path, source })
}

impl LostSockets {
    /// Opens the maps.
    ///
    /// # Errors
    ///
    /// If a map is unusable.
    pub(super) fn open(pins: &PinFolder) -> Result<Self, SocketsError> {
        Ok(Self {
            v4: PerFamily::open(pins, map::SOCKETS4, map::BACKENDS4)?,
            v6: PerFamily::open(pins, map::SOCKETS6, map::BACKENDS6)?,
            told: None,
        })
    }

    /// Closes all of the node's own.
    pub(super) fn close(&mut self) {
        match self.try_close() {
            Ok(0) => {}
            Ok(count) => info!(
                count,
                "closed connected UDP sockets of the node whose endpoints are gone"
            ),
            Err(error) => {
                let text = error.to_string();
                if self.told.as_ref() != Some(&text) {
                    warn!(
                        "close connected UDP sockets whose endpoints are gone: {text}; their processes go on sending to \
                         them until they connect anew (the kernel needs CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY)"
                    );
                    self.told = Some(text);
                }
            }
        }
    }

    fn try_close(&self) -> io::Result<usize> {
        let diag = Diag::open()?;
        let mut closed = 0;
        for socket in diag.connected_udp()? {
            if !self.has_lost(&socket) {
                continue;
            }
            match diag.destroy(&socket) {
                Ok(()) => {
                    debug!(peer = %socket.peer(), cookie = socket.cookie(), "closed a connected UDP socket");
                    closed += 1;
                }
                // It is closed, or connected elsewhere, by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(closed)
    }

    fn has_lost(&self, socket: &ConnectedUdp) -> bool {
        let (cookie, peer) = (socket.cookie(), socket.peer());
        let port = port_to_wire(peer.port());
        let ip: IpAddr = peer.ip();
        match from_ip(ip) {
            Either::V4(addr) => self.v4.has_lost(&SocketKey::new(cookie, addr, port)),
            Either::V6(addr) => self.v6.has_lost(&SocketKey::new(cookie, addr, port)),
        }
    }
}
