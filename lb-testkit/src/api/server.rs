//! The server as tests hold it: where it listens, who may ask, what it counts.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{runtime, sync::oneshot, task::AbortHandle};

use super::{access::Access, files, request::Verb, resources, serve, state::Shared, tls::Authority};
use crate::{
    error::{Error, Result},
    host::Host,
};

/// The token of a user who may do everything.
pub const ADMIN: &str = "admin-token";

/// Addresses in every certificate: of this machine to itself, and of the Service `kubernetes` in the lab's ranges.
const ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1)),
];

/// How long the server may take for what it does at once.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(1);

/// An API server.
#[derive(Debug)]
pub struct ApiServer {
    pub(super) shared: Arc<Shared>,
    authority: Authority,
    handle: runtime::Handle,
    doors: Mutex<Vec<Door>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// An address that the server listens at, or may.
struct Door {
    /// Its place among the doors.
    number: usize,
    /// Where its socket is made; `None` stands for the namespace of the test.
    host: Option<Host>,
    addr: SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    open: Option<Listening>,
}

/// A listener.
#[derive(Debug)]
struct Listening {
    task: AbortHandle,
    /// Ends when the task is gone, and its socket with it.
    gone: mpsc::Receiver<()>,
}

impl ApiServer {
    /// Starts a server that listens in a host's namespace. Port 0 stands for any free one.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn start(host: &Host, addr: SocketAddr) -> Result<Self> {
        let server = Self::nowhere()?;
        server.listen(host, addr)?;
        Ok(server)
    }

    /// Starts a server at a free port of this machine's loopback address, without a lab.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub fn on_loopback() -> Result<Self> {
        let server = Self::nowhere()?;
        server.open_door(None, (Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(server)
    }

    fn nowhere() -> Result<Self> {
        let authority = Authority::new()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start", "the test API server"))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("api-server".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            })
            .map_err(Error::io("start", "the test API server"))?;
        let shared = Shared::new();
        shared.change(|state| {
            state.users.set(ADMIN, "kubernetes-admin", Access::everything());
            for name in ["default", "kube-system"] {
                let namespace =
                    serde_json::json!({"metadata": {"name": name}, "status": {"phase": "Active"}});
                // The store is empty: there is none of that name.
                let _ = state.create(resources::NAMESPACES, namespace);
            }
        });
        Ok(Self {
            shared,
            authority,
            handle,
            doors: Mutex::default(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Listens at one more address, as another API server of the same cluster would.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn listen(&self, host: &Host, addr: SocketAddr) -> Result<()> {
        self.open_door(Some(host.clone()), addr)
    }

    fn open_door(&self, host: Option<Host>, addr: SocketAddr) -> Result<()> {
        let mut addresses = ADDRESSES.to_vec();
        addresses.extend(
            host.iter()
                .flat_map(|host| [IpAddr::V4(host.v4), IpAddr::V6(host.v6)]),
        );
        if !addr.ip().is_unspecified() && !addresses.contains(&addr.ip()) {
            addresses.push(addr.ip());
        }
        let acceptor = self.authority.acceptor(&addresses)?;
        let mut doors = self.doors();
        let mut door = Door {
            number: doors.len(),
            host,
            addr,
            acceptor,
            open: None,
        };
        door.open(&self.handle, &self.shared)?;
        doors.push(door);
        Ok(())
    }

    fn doors(&self) -> MutexGuard<'_, Vec<Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens: `https://172.18.0.2:6443`. With several addresses, the first.
    ///
    /// # Panics
    ///
    /// Never: a server has an address.
    pub fn url(&self) -> String {
        self.urls().swap_remove(0)
    }

    /// Where it listens, one for each address.
    pub fn urls(&self) -> Vec<String> {
        self.addresses()
            .iter()
            .map(|addr| format!("https://{addr}"))
            .collect()
    }

    /// The addresses that it listens at.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors().iter().map(Door::public).collect()
    }

    /// The certificate of its authority (PEM).
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// Makes a token valid, for a user of that name with these rights; or changes them.
    pub fn user(&self, token: &str, name: &str, access: Access) {
        self.shared.change(|state| state.users.set(token, name, access));
    }

    /// Makes a token invalid.
    pub fn forget_user(&self, token: &str) {
        self.shared.change(|state| state.users.remove(token));
    }

    /// Writes a kubeconfig for the user of a token ([`ADMIN`] is one) with a context for each of `servers`, the first
    /// being the current one. The authority's certificate is put beside it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn kubeconfig(&self, path: &Path, token: &str, servers: &[String]) -> Result<()> {
        files::kubeconfig(path, servers, token, &self.ca())
    }

    /// Writes what a pod finds under `/var/run/secrets/kubernetes.io/serviceaccount`: `token`, `ca.crt`, `namespace`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn service_account(&self, folder: &Path, token: &str, namespace: &str) -> Result<()> {
        files::service_account(folder, namespace, token, &self.ca())
    }

    /// Requests so far with this verb for this resource (`services`).
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn requests(&self, verb: Verb, resource: &str) -> u64 {
        let key = (verb, resources::named(resource));
        self.shared
            .look(|state| state.requests.get(&key).copied().unwrap_or_default())
    }

    /// Stops listening: connections are refused. Those that are open stay.
    pub fn refuse(&self) {
        for door in self.doors().iter_mut() {
            door.close();
        }
    }

    /// As [`Self::refuse`], at one address ([`Self::urls`] has them in this order).
    ///
    /// # Panics
    ///
    /// If it has no such address.
    pub fn refuse_at(&self, index: usize) {
        self.doors()[index].close();
    }

    /// Closes all open connections.
    ///
    /// # Errors
    ///
    /// If they do not end.
    pub fn cut(&self) -> Result<()> {
        self.cut_some(|_| true)
    }

    /// Closes the open connections that came by one address.
    ///
    /// # Errors
    ///
    /// If they do not end.
    pub fn cut_at(&self, index: usize) -> Result<()> {
        self.cut_some(|door| door == index)
    }

    fn cut_some(&self, which: impl Fn(usize) -> bool) -> Result<()> {
        let cut: Vec<u64> = self.shared.look(|state| {
            let meant = state.connections.iter().filter(|(_, (door, _))| which(*door));
            meant
                .map(|(id, (_, task))| {
                    task.abort();
                    *id
                })
                .collect()
        });
        let end = Instant::now() + LIMIT;
        while self
            .shared
            .look(|state| cut.iter().any(|id| state.connections.contains_key(id)))
        {
            if Instant::now() > end {
                return Err(Error::unexpected(
                    "the test API server",
                    "its connections do not end",
                ));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Listens again, at all addresses where it does not.
    ///
    /// # Errors
    ///
    /// If an address has been taken meanwhile.
    pub fn accept_again(&self) -> Result<()> {
        for door in self.doors().iter_mut() {
            if door.open.is_none() {
                door.open(&self.handle, &self.shared)?;
            }
        }
        Ok(())
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.look(|state| state.connections.len())
    }

    /// Watches of a resource that are open.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn watches(&self, resource: &str) -> usize {
        let id = resources::named(resource);
        self.shared.look(|state| {
            state
                .watches
                .values()
                .filter(|watch| watch.resource == id)
                .count()
        })
    }
}

impl Door {
    /// Where clients reach it.
    fn public(&self) -> SocketAddr {
        let ip = match (&self.host, self.addr.ip()) {
            (Some(host), IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => host.v4.into(),
            (Some(host), IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => host.v6.into(),
            (_, ip) => ip,
        };
        SocketAddr::new(ip, self.addr.port())
    }

    fn open(&mut self, handle: &runtime::Handle, shared: &Arc<Shared>) -> Result<()> {
        let addr = self.addr;
        let failed = || Error::io("bind", format!("the test API server to {addr}"));
        // Sockets stay in the namespace that they were made in.
        let listener = match &self.host {
            Some(host) => host.run(|| TcpListener::bind(addr))?,
            None => TcpListener::bind(addr),
        }
        .map_err(failed())?;
        self.addr = listener.local_addr().map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let entered = handle.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed())?;
        drop(entered);
        let (alive, gone) = mpsc::channel();
        let (shared, door, acceptor) = (shared.clone(), self.number, self.acceptor.clone());
        let task = handle.spawn(async move {
            // Dropped last: what is told by its end is that all else is gone.
            let _alive = alive;
            serve::accept(shared, door, acceptor, listener).await
        });
        self.open = Some(Listening {
            task: task.abort_handle(),
            gone,
        });
        Ok(())
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.task.abort();
            // Nothing is ever sent: the end of the channel is what is waited for.
            let _ = open.gone.recv_timeout(LIMIT);
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("addr", &self.addr)
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for door in self.doors().iter_mut() {
            door.close();
        }
        if let Some(stop) = self.stop.take() {
            // It fails if the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
