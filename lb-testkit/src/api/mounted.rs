//! What kubelet mounts into pods for their service account.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{files, server::ApiServer};
use crate::error::{Error, Result};

/// The link that is put in another one's place.
const DATA: &str = "..data";

/// A folder like `/var/run/secrets/kubernetes.io/serviceaccount`: all its files are links that lead through one link, and
/// change at once when that one is put elsewhere (`AtomicWriter` of Kubernetes).
#[derive(Debug)]
pub struct ServiceAccount {
    folder: PathBuf,
    ca: String,
    namespace: String,
    versions: u32,
}

impl ServiceAccount {
    /// Makes the folder for a token of a namespace's account.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn mount(server: &ApiServer, folder: &Path, namespace: &str, token: &str) -> Result<Self> {
        let mut account = Self {
            folder: folder.to_owned(),
            ca: server.ca(),
            namespace: namespace.to_owned(),
            versions: 0,
        };
        account.rotate(token)?;
        for name in ["token", "ca.crt", "namespace"] {
            account.link(&format!("{DATA}/{name}"), name)?;
        }
        Ok(account)
    }

    /// Puts another token in the place of the one before.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn rotate(&mut self, token: &str) -> Result<()> {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        files::service_account(&self.folder.join(&version), &self.namespace, token, &self.ca)?;
        self.link(&version, "..data_tmp")?;
        fs::rename(self.folder.join("..data_tmp"), self.folder.join(DATA))
            .map_err(Error::io("rename a link in", self.folder.display()))
    }

    fn link(&self, to: &str, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        symlink(to, &path).map_err(Error::io("link", path.display()))
    }
}
