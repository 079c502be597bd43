//! The container image of Fairlead, made without a daemon: one static binary in an image from scratch.
//!
//! The image is an [OCI image layout](https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md), as a folder
//! or as one file that `ctr image import`, `kind load image-archive`, `podman load` and `skopeo copy oci-archive:` take. The
//! same binary gives the same bytes: no time, user or order of a file system gets into it.

mod layer;
mod layout;
mod static_elf;

use std::path::Path;

use anyhow::{Context as _, Result};

pub use self::layout::{Blob, Layout};
pub use self::static_elf::check_static;

/// Where the binary is in the image, and what it starts with.
pub const ENTRY_POINT: &str = "/fairlead";

/// What the image is told to be.
#[derive(Clone, Debug)]
pub struct About {
    /// The name that it is known by where it is loaded, such as `localhost/fairlead:dev`.
    pub name: String,
    /// The version of Fairlead.
    pub version: String,
    /// The commit that it was built from; none if that is not known.
    pub revision: Option<String>,
    /// The processor as OCI names it: `amd64`, `arm64`.
    pub architecture: String,
}

/// Makes the image of a binary.
///
/// # Errors
///
/// If the binary cannot be read, or is not static: an image from scratch has no libraries.
pub fn build(binary: &Path, about: &About) -> Result<Layout> {
    let bytes = std::fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    check_static(&bytes).with_context(|| format!("{} cannot go into an image", binary.display()))?;
    let layer = layer::of_binary(&bytes)?;
    Layout::new(&layer, about)
}

/// How OCI names the processor that this program runs on (Go's `GOARCH`).
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
