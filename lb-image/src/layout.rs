//! The layout: blobs by their digests, and the index that leads to them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{About, ENTRY_POINT, layer::Layer};

/// A file that is known by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = digest(&bytes);
        Self { digest, bytes }
    }

    fn of_json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An image layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    index: Vec<u8>,
    manifest: Blob,
    config: Blob,
    layer: Blob,
    docker: Vec<u8>,
}

const MARK: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

impl Layout {
    pub(crate) fn new(layer: &Layer, about: &About) -> Result<Self> {
        let diff = digest(&layer.plain);
        let layer = Blob::new(layer.packed.clone());
        let config = Blob::of_json(&json!({
            "architecture": about.architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [ENTRY_POINT],
                "Labels": annotations(about),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
            "history": [{"created_by": "cargo xtask image"}],
        }))?;
        let manifest = Blob::of_json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
            "annotations": annotations(about),
        }))?;
        let mut entry = manifest.descriptor(MANIFEST);
        entry["platform"] = json!({"architecture": about.architecture, "os": "linux"});
        // The first is skopeo's and podman's, the second containerd's, which `kind load image-archive` goes by.
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": about.name,
            "io.containerd.image.name": about.name,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        // `docker load` knows its own list only.
        let docker = json!([{
            "Config": format!("blobs/sha256/{}", config.digest),
            "RepoTags": [about.name],
            "Layers": [format!("blobs/sha256/{}", layer.digest)],
        }]);
        Ok(Self {
            index: serde_json::to_vec(&index)?,
            docker: serde_json::to_vec(&docker)?,
            manifest,
            config,
            layer,
        })
    }

    /// The digest of the manifest, by which registries know the image.
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.manifest.digest)
    }

    /// The layer, packed.
    pub fn layer(&self) -> &Blob {
        &self.layer
    }

    /// The configuration of the image.
    pub fn config(&self) -> &Blob {
        &self.config
    }

    /// Files of the layout, in order.
    fn files(&self) -> Vec<(String, &[u8])> {
        let mut blobs = [&self.manifest, &self.config, &self.layer];
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        let blobs = blobs.map(|blob| (format!("blobs/sha256/{}", blob.digest), &blob.bytes[..]));
        let mut files = Vec::from(blobs);
        files.push(("index.json".to_owned(), &self.index));
        files.push(("manifest.json".to_owned(), &self.docker));
        files.push(("oci-layout".to_owned(), MARK));
        files
    }

    /// Writes the layout into a folder, which is made anew.
    ///
    /// # Errors
    ///
    /// The file that cannot be written.
    pub fn write_folder(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        for (name, bytes) in self.files() {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            }
            fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The layout as one tar archive.
    ///
    /// # Errors
    ///
    /// If a name does not fit into the archive.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (name, bytes) in self.files() {
            let mut header = Header::new_ustar();
            header.set_path(name)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append(&header, bytes)?;
        }
        Ok(archive.into_inner()?)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Annotations of the [specification](https://github.com/opencontainers/image-spec/blob/v1.1.0/annotations.md). No time of
/// building among them: it would make each image another one.
fn annotations(about: &About) -> Value {
    let mut annotations = json!({
        "org.opencontainers.image.title": "fairlead",
        "org.opencontainers.image.description": "A service load balancer for Kubernetes nodes, in the kernel",
        "org.opencontainers.image.source": "https://github.com/fairlead/fairlead",
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
        "org.opencontainers.image.version": about.version,
    });
    if let Some(revision) = &about.revision {
        annotations["org.opencontainers.image.revision"] = revision.as_str().into();
    }
    annotations
}
