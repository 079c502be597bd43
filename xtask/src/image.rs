//! `cargo xtask image`: a static agent, and the container image that holds nothing else.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    command::{cargo, run, workspace},
    setup::{Wanted, setup},
    steps::{build_programs, program, target},
};

/// Where the image and the static binary go, in the target folder.
const FOLDER: &str = "image";
/// The name that the image is known by where it is loaded.
pub(crate) const NAME: &str = "localhost/fairlead:dev";

/// Makes the image, optimised or not, and returns the file that it is in.
pub(crate) fn image(name: &str, release: bool) -> Result<PathBuf> {
    setup(Wanted::IMAGE)?;
    let binary = static_agent(release)?;
    build_programs(&["--package", "lb-image"], &["fairlead-image"])?;
    let out = target()?.join(FOLDER);
    let mut make = Command::new(program("debug", "fairlead-image")?);
    make.arg("--binary")
        .arg(&binary)
        .arg("--out")
        .arg(&out)
        .args(["--name", name]);
    if let Some(revision) = revision() {
        make.args(["--revision", &revision]);
    }
    run(&mut make)?;
    Ok(out.join("fairlead.tar"))
}

/// Builds the agent with the C library in it and returns a copy, since the next build of the agent puts the ordinary one in
/// its place.
pub(crate) fn static_agent(release: bool) -> Result<PathBuf> {
    let (profile, options) = if release {
        ("release", &["--release"][..])
    } else {
        ("debug", &[][..])
    };
    let mut build = cargo(&["rustc", "--package", "lb-userspace", "--bin", "fairlead"]);
    // Only the program itself is compiled another way: what it consists of is as for the ordinary one.
    build
        .args(options)
        .args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    run(&mut build)?;
    let folder = target()?.join(FOLDER);
    let copy = folder.join(format!("fairlead-{profile}"));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::copy(program(profile, "fairlead")?, &copy).with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}

/// The commit that is checked out; none outside of git, and none if there are changes beside it.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(workspace())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let clean = git(&["status", "--porcelain"])?.is_empty();
    git(&["rev-parse", "HEAD"]).filter(|_| clean)
}
