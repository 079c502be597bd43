//! The image as others see it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use lb_image::{About, build};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn about() -> About {
    About {
        name: "localhost/fairlead:test".to_owned(),
        version: "1.2.3".to_owned(),
        revision: Some("abc".to_owned()),
        architecture: "amd64".to_owned(),
    }
}

/// Something that passes for a static binary: an ELF header without program headers.
fn binary(folder: &Path) -> PathBuf {
    let mut elf = vec![0u8; 100_000];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[32] = 64;
    elf[54] = 56;
    let path = folder.join("binary");
    fs::write(&path, elf).unwrap();
    path
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The file that a descriptor leads to, after a look at its size and digest.
fn follow(folder: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let bytes = fs::read(folder.join("blobs/sha256").join(digest)).unwrap();
    let found: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(found, digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn the_same_binary_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = binary(folder.path());
    let first = build(&path, &about()).unwrap();
    // What a file system knows of the file must not matter.
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let second = build(&copy, &about()).unwrap();
    assert_eq!(first.digest(), second.digest());
    assert_eq!(first.archive().unwrap(), second.archive().unwrap());
}

#[test]
fn every_digest_and_size_of_the_layout_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let image = build(&binary(folder.path()), &about()).unwrap();
    let layout = folder.path().join("oci");
    image.write_folder(&layout).unwrap();
    assert_eq!(json(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&layout.join("index.json"));
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "localhost/fairlead:test"
    );
    let manifest: Value = serde_json::from_slice(&follow(&layout, entry)).unwrap();
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.version"],
        "1.2.3"
    );
    let config: Value = serde_json::from_slice(&follow(&layout, &manifest["config"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"][0], "/fairlead");
    let layer = follow(&layout, &manifest["layers"][0]);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&layer[..])
        .read_to_end(&mut plain)
        .unwrap();
    let digest: String = Sha256::digest(&plain)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
}

#[test]
fn the_archive_holds_the_layout_for_every_loader() {
    let folder = tempfile::tempdir().unwrap();
    let image = build(&binary(folder.path()), &about()).unwrap();
    let bytes = image.archive().unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    for name in ["index.json", "oci-layout", "manifest.json"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("blobs/sha256/"))
            .count(),
        3,
        "{names:?}"
    );
}

#[test]
fn the_layer_is_unpacked_by_tar_with_root_as_the_owner() {
    let folder = tempfile::tempdir().unwrap();
    let image = build(&binary(folder.path()), &about()).unwrap();
    let file = folder.path().join("layer.tar.gz");
    fs::write(&file, &image.layer().bytes).unwrap();
    let listed = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--file"])
        .arg(&file)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = listed
        .lines()
        .find(|line| line.ends_with(" fairlead"))
        .expect("the binary");
    assert!(line.starts_with("-rwxr-xr-x 0/0"), "{line}");
    assert!(line.contains("1970-01-01"), "{line}");
    assert!(
        listed.lines().any(|line| line.ends_with(" run/fairlead/bpf/")),
        "{listed}"
    );
}

#[test]
fn a_binary_that_needs_libraries_is_refused_by_name() {
    let own = std::env::current_exe().unwrap();
    let error = format!("{:#}", build(&own, &about()).unwrap_err());
    assert!(
        error.contains(&own.display().to_string()) && error.contains("dynamic loader"),
        "{error}"
    );
}
