//! `fairlead-image`: makes the image of a static binary. `cargo xtask image` builds the binary and runs this.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_image::{About, architecture, build};

/// Make the container image of Fairlead from a static binary.
#[derive(Debug, Parser)]
struct Arguments {
    /// The static binary.
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Where the image goes: a folder `oci` with the layout, and the same as one file, `fairlead.tar`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The name that the image is known by where it is loaded.
    #[arg(long, default_value = "localhost/fairlead:dev", value_name = "NAME")]
    name: String,
    /// The commit that the binary was built from.
    #[arg(long, value_name = "HASH")]
    revision: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let about = About {
        name: arguments.name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: arguments.revision,
        architecture: architecture().to_owned(),
    };
    let image = build(&arguments.binary, &about)?;
    let (folder, file) = (arguments.out.join("oci"), arguments.out.join("fairlead.tar"));
    image.write_folder(&folder)?;
    fs::write(&file, image.archive()?).with_context(|| format!("write {}", file.display()))?;
    println!("{} {}", about.name, image.digest());
    println!(
        "  {} ({} MB packed)",
        file.display(),
        image.layer().bytes.len() / 1_000_000
    );
    println!("  {}", folder.display());
    Ok(())
}
